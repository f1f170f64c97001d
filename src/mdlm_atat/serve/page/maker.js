/** What the tabs that make texts have in common: a request at a time, its steps, alternatives and how to repeat it. */

import { element } from "./canvas.js";
import { listen, ServerError } from "./events.js";
import { Player } from "./player.js";
import { fillingsOf, framesOf, tokensText } from "./text.js";

const byId = (id) => document.getElementById(id);
const ANNOUNCED = 600; // characters of a text that are read aloud

export class Maker {
  /** `name` is the tab's. `on` answers: frame(frame, isLast), chosen(result), stopped(). */
  constructor({ name, button, label, box, choices, settings, on }) {
    Object.assign(this, { name, button, label, box, choices, settings, on });
    this.progress = document.querySelector(`[data-progress="${name}"]`);
    this.controls = place("player-template", document.querySelector(`.player[data-for="${name}"]`));
    this.repeat = place("repeat-template", document.querySelector(`.repeat[data-for="${name}"]`));
    this.player = new Player(this.controls, {
      show: (frame, isLast) => on.frame(frame, isLast),
      rest: () => this.rest(),
    });
    for (const what of ["command", "python"]) {
      const text = this.repeat.querySelector(`[data-repeat="${what}"]`);
      const copy = this.repeat.querySelector(`[data-repeat="copy-${what}"]`);
      copy.addEventListener("click", () => copyText(text.textContent, copy));
    }
    this.clear();
  }

  get isRunning() {
    return this.abort !== null;
  }

  /** Forget the last text: its steps, its alternatives, its seed. */
  clear() {
    this.abort?.abort();
    Object.assign(this, { abort: null, answer: null, streamed: [], choice: 0 });
    this.player.clear();
    this.box.hidden = true;
    this.repeat.hidden = true;
    this.say("");
    this.update();
  }

  stop() {
    if (!this.isRunning) return;
    this.clear();
    this.on.stopped();
    this.say("Stopped.");
    announce("Stopped.");
  }

  /** Ask for texts. `waiting`: what is said until the first step. */
  async start(path, body, waiting = "Asking the model …") {
    this.clear();
    complain("");
    const abort = (this.abort = new AbortController());
    this.say(waiting);
    this.update();
    try {
      for await (const { event, data } of listen(path, { ...body, stream: true }, abort.signal)) {
        if (abort.signal.aborted) return;
        if (event === "queued") this.say(data.ahead > 0 ? `Waiting: ${data.ahead} before this one.` : waiting);
        if (event === "start") this.begin(data);
        if (event === "frame") this.add({ step: data.step, fillings: fillingsOf(data.pieces) });
        if (event === "result") this.finish(data);
      }
      if (this.answer === null) throw new ServerError("The server ended without a text.");
    } catch (error) {
      if (abort.signal.aborted) return;
      this.clear();
      this.on.stopped();
      complain(error instanceof ServerError ? error.message : `The page failed: ${error.message}`);
      if (!(error instanceof ServerError)) throw error;
    } finally {
      if (this.abort === abort) this.abort = null;
      this.update();
    }
  }

  begin({ num_steps: numSteps }) {
    this.player.begin(numSteps);
    this.say("");
  }

  add(frame) {
    this.streamed.push(frame);
    this.player.push(frame);
  }

  finish(answer) {
    this.answer = answer;
    this.choice = 0;
    this.settings.used(answer.seed);
    this.on.chosen(answer.results[0]);
    const wasPaused = !this.player.playing;
    const position = this.player.position;
    this.player.frames = this.frames(0);
    this.player.position = Math.min(position, this.player.frames.length - 1);
    this.player.end();
    if (wasPaused) this.rest();
    announce(this.summary());
  }

  frames(choice) {
    return choice === this.answer.watched ? this.streamed : framesOf(this.answer.results[choice]);
  }

  summary() {
    const { results } = this.answer;
    const text = results[0].text;
    const others = results.length > 1 ? ` ${results.length} alternatives.` : "";
    return `Done: ${text.length > ANNOUNCED ? `${text.slice(0, ANNOUNCED)} …` : text}${/[.!?]\s*$/.test(text) ? "" : "."}${others}`;
  }

  /** The steps stand still: show what the answer has beside its text. */
  rest() {
    if (this.answer === null) return;
    const { results, seed, repeat, warnings, elapsed_s: elapsed } = this.answer;
    const notes = [`${elapsed.toFixed(1)} s`, `${results[0].nfe} evaluations`];
    if (results[0].settled === false) notes.push("other lengths of the gaps may fit as well");
    this.say([notes.join(", "), ...warnings].join(". "));
    this.repeat.hidden = false;
    this.repeat.querySelector('[data-repeat="command"]').parentElement.hidden = repeat.command === null;
    this.repeat.querySelector('[data-repeat="seed"]').textContent = `seed ${seed}`;
    this.repeat.querySelector('[data-repeat="command"]').textContent = repeat.command;
    this.repeat.querySelector('[data-repeat="python"]').textContent = repeat.python;
    if (this.box.hidden && results.length > 1) this.offer(results);
    this.update();
  }

  offer(results) {
    this.box.hidden = false;
    this.choices.replaceChildren(
      ...results.map((result, index) => {
        const choice = element("label", "choice");
        const radio = element("input");
        Object.assign(radio, { type: "radio", name: `${this.name}-choice`, value: String(index) });
        radio.checked = index === this.choice;
        radio.addEventListener("change", () => this.choose(index));
        const text = element("span", "choice-text");
        text.dir = "auto";
        const fillings = fillingsOf(result.pieces).map(tokensText);
        fillings.forEach((filling, number) => {
          if (number > 0) text.append(element("span", "between", " · "));
          text.append(element("bdi", "", filling.trim() || "(nothing)"));
        });
        choice.append(radio, text);
        if (result.nats !== null && result.nats !== undefined) {
          choice.append(element("span", "nats", `${result.nats.toFixed(2)} nats`));
        }
        return choice;
      }),
    );
  }

  choose(index) {
    this.choice = index;
    this.on.chosen(this.answer.results[index]);
    this.player.load(this.frames(index));
    this.player.draw();
  }

  say(words) {
    this.progress.textContent = words;
  }

  update() {
    this.button.textContent = this.isRunning ? "Stop" : this.label();
    this.button.classList.toggle("stop", this.isRunning);
  }
}

function place(template, root) {
  root.append(byId(template).content.cloneNode(true));
  return root;
}

/** Show a mistake in one line, or none. */
export function complain(words) {
  const problem = byId("problem");
  problem.textContent = words;
  problem.hidden = words === "";
}

/** Say something to those who listen, once. */
export function announce(words) {
  byId("announcement").textContent = words;
}

/** Copy a text, and say so on the button. */
export async function copyText(text, button) {
  const isCopied = await write(text);
  const label = button.firstChild;
  const before = (button.dataset.label ??= label.textContent);
  label.textContent = isCopied ? "Copied" : "Not copied";
  announce(isCopied ? "Copied." : "The browser did not let the page copy.");
  setTimeout(() => (label.textContent = before), 1600);
}

async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // there is no clipboard for pages over plain HTTP from another machine
    const area = element("textarea", "away");
    area.value = text;
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return isCopied;
  }
}
