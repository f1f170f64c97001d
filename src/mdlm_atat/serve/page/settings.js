/** The settings beside the text, and the values that a request has from them. */

const STEPS = [null, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];
const CANDIDATES = [null, 4, 8, 16, 32, 64];
const MOST_STEPS = 64; // where it is one for each token
const LENGTHS = [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];

const byId = (id) => document.getElementById(id);

export class Settings {
  constructor() {
    this.tab = "fill";
    this.steps = new Stops("steps", STEPS, (value) => (value === null ? "as usual" : String(value)));
    this.candidates = new Stops("candidates", CANDIDATES, (value) => (value === null ? "as drawn" : String(value)));
    this.maxTokens = new Stops("max-tokens", LENGTHS, (value) => `${value} tokens`);
    for (const [id, digits] of [["num-samples", 0], ["temperature", 2], ["top-p", 2]]) {
      const show = () => (valueOf(id).textContent = Number(byId(id).value).toFixed(digits));
      byId(id).addEventListener("input", show);
      show();
    }
    this.samplers = [];
    this.chosen = { fill: "", write: "" };
    byId("sampler").addEventListener("change", () => {
      this.chosen[this.tab] = byId("sampler").value;
      this.explain();
    });
    for (const radio of document.getElementsByName("order")) radio.addEventListener("change", () => this.show(this.tab));
    byId("seed").addEventListener("input", () => (byId("new-seed").checked = byId("seed").value === ""));
    if (matchMedia("(max-width: 60rem)").matches) byId("settings").querySelector("details").open = false;
    this.show("fill");
  }

  /** Offer what the model can do. */
  offer(model) {
    this.model = model;
    const isCausal = model.modes.includes("causal");
    this.samplers = model.samplers.filter(({ name }) => name !== "left_to_right");
    const usual = model.defaults.infill ?? model.defaults.generate;
    for (const [id, value] of [["temperature", usual.temperature], ["top-p", usual.top_p]]) {
      byId(id).value = String(value);
      byId(id).dispatchEvent(new Event("input"));
    }
    byId("num-samples").max = String(Math.max(1, Math.min(8, model.limits.max_texts)));
    byId("num-samples").dispatchEvent(new Event("input"));
    this.candidates.keep((value) => value === null || value <= model.limits.max_texts);
    byId("candidates-field").hidden = !isCausal || this.candidates.values.length < 2;
    this.maxTokens.keep((value) => value <= model.limits.max_tokens);
    this.maxTokens.set(LENGTHS.findLast((value) => value <= Math.min(64, model.max_length / 2)));
    byId("order-field").hidden = !(isCausal && model.modes.includes("masked"));
    const order = model.defaults.generate.sampler === "left_to_right" || !model.modes.includes("masked");
    for (const radio of document.getElementsByName("order")) radio.checked = (radio.value === "left_to_right") === order;
    this.show(this.tab);
  }

  /** Show what concerns a tab. */
  show(tab) {
    this.tab = tab;
    for (const field of document.querySelectorAll("[data-only]")) {
      field.classList.toggle("away-tab", !field.dataset.only.split(" ").includes(tab));
    }
    byId("settings").hidden = tab === "classify";
    for (const id of ["sampler-field", "steps-field"]) byId(id).hidden = this.isLeftToRight;
    const usual = this.usual.sampler;
    const options = [["", usual ? `as usual (${usual})` : "as usual"], ...this.samplers.map(({ name }) => [name, name])];
    byId("sampler").replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    byId("sampler").value = this.chosen[tab] ?? "";
    this.explain();
  }

  get usual() {
    return this.model?.defaults[this.tab === "write" ? "generate" : "infill"] ?? {};
  }

  get isLeftToRight() {
    return this.tab === "write" && document.querySelector("[name=order]:checked")?.value === "left_to_right";
  }

  explain() {
    const name = byId("sampler").value || this.usual.sampler;
    byId("sampler-help").textContent = this.samplers.find((sampler) => sampler.name === name)?.help ?? "";
    const usual = this.isOneEach ? "one for each token" : "as usual";
    this.steps.show((value) => (value === null ? usual : `${value}`));
  }

  /** Whether each token is to have a step of its own unless something else is asked for. The sampler by itself takes
   * some at a time, which is quick and shows little. */
  get isOneEach() {
    return !this.isLeftToRight && (byId("sampler").value || this.usual.sampler) === "spread";
  }

  /** What a request for so many tokens has in common with all others of this tab. */
  values(numTokens) {
    const seed = byId("seed");
    const steps = this.steps.value ?? (this.isOneEach ? Math.min(numTokens, MOST_STEPS) : null);
    const any = this.usual.sampler === "left_to_right" ? (this.model?.defaults.infill?.sampler ?? null) : null;
    return {
      sampler: this.isLeftToRight ? "left_to_right" : byId("sampler").value || any,
      steps: this.isLeftToRight ? null : steps,
      temperature: Number(byId("temperature").value),
      top_p: Number(byId("top-p").value),
      num_samples: Number(byId("num-samples").value),
      seed: byId("new-seed").checked || seed.value === "" ? null : seed.valueAsNumber,
    };
  }

  /** Fewest draws to choose the alternatives from, or null where that is not asked for. */
  numCandidates(numSamples) {
    const value = byId("candidates-field").hidden ? null : this.candidates.value;
    return value === null ? null : Math.max(value, numSamples);
  }

  /** Show the seed that was drawn. */
  used(seed) {
    byId("seed").value = String(seed);
  }
}

function valueOf(id) {
  return document.querySelector(`.value[data-of="${id}"]`);
}

/** A slider over a list of values. */
class Stops {
  constructor(id, values, words) {
    this.input = byId(id);
    this.shown = valueOf(id);
    this.all = values;
    this.values = values;
    this.input.min = "0";
    this.input.addEventListener("input", () => this.update());
    this.keep(() => true);
    this.input.value = "0";
    this.show(words);
  }

  get value() {
    return this.values[this.input.valueAsNumber] ?? null;
  }

  set(value) {
    this.input.value = String(Math.max(0, this.values.indexOf(value)));
    this.update();
  }

  keep(isPossible) {
    this.values = this.all.filter(isPossible);
    if (this.values.length === 0) this.values = this.all.slice(0, 1);
    this.input.max = String(this.values.length - 1);
  }

  show(words) {
    this.words = words;
    this.update();
  }

  update() {
    this.shown.textContent = this.words(this.value);
    this.input.setAttribute("aria-valuetext", this.shown.textContent);
  }
}
