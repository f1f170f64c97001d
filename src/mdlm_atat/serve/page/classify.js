/** The tab that labels a text, where the server has a classifier. */

import { element } from "./canvas.js";
import { ask, ServerError } from "./events.js";
import { announce, complain } from "./maker.js";

const byId = (id) => document.getElementById(id);

export class Classify {
  constructor(classifier) {
    this.isPair = classifier.text_pair;
    byId("second").hidden = !this.isPair;
    byId("run-classify").addEventListener("click", () => this.run());
    for (const id of ["classify-text", "classify-second"]) {
      byId(id).addEventListener("input", () => (byId("labels").hidden = byId("verdict").hidden = true));
    }
  }

  async run() {
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    complain("");
    const first = byId("classify-text").value;
    const text = this.isPair ? [first, byId("classify-second").value] : first;
    try {
      const { results } = await ask("v1/classify", { texts: [text] }, abort.signal);
      this.show(results[0]);
    } catch (error) {
      if (abort.signal.aborted) return;
      if (!(error instanceof ServerError)) throw error;
      complain(error.message);
    }
  }

  show({ label, probabilities, score, is_cut: isCut }) {
    const ranked = Object.entries(probabilities).sort(([, one], [, other]) => other - one);
    byId("labels").replaceChildren(
      ...ranked.map(([name, probability]) => {
        const row = element("li", name === label ? "label first" : "label");
        const bar = element("span", "bar-of");
        bar.style.setProperty("--share", String(probability));
        const words = element("bdi", "label-name", name);
        row.append(words, bar, element("span", "share", `${(100 * probability).toFixed(1)} %`));
        return row;
      }),
    );
    byId("labels").hidden = ranked.length === 0;
    const words = [];
    if (label === null) words.push(`Score ${score.toFixed(3)}.`);
    if (isCut) words.push("The text was longer than what the model reads: its end was left out.");
    byId("verdict").textContent = words.join(" ");
    byId("verdict").hidden = words.length === 0;
    announce([label === null ? "" : `${label}, ${(100 * probabilities[label]).toFixed(0)} percent.`, ...words].join(" "));
  }
}
