/** The tab that fills gaps. */

import { Canvas } from "./canvas.js";
import { ask, ServerError } from "./events.js";
import { announce, complain, copyText, Maker } from "./maker.js";
import * as pieces from "./text.js";

const byId = (id) => document.getElementById(id);
const UNDONE = 100;

export const EXAMPLES = [
  "It was a [MASK:3] night, and the [MASK] in the [MASK:2] had gone out.",
  "She [MASK:3-8], and left the room without a word.",
  "The old man sat by [MASK:4] and looked at [MASK:3]. “You have [MASK:5],” he said, “and I am [MASK:3].”",
  "Dear Sir, I have received your letter of [MASK:3], and I beg to [MASK:6]. I remain, Sir, your [MASK:3] servant.",
];

export class Fill {
  constructor(settings, describe) {
    this.settings = settings;
    this.past = [];
    this.pieces = pieces.readTemplate(EXAMPLES[0]);
    this.example = 0;
    this.characters = 5; // of a token, about
    this.canvas = new Canvas(byId("words"), {
      cut: (first, last) => this.cut(first, last),
      toggle: (index, word) => this.toggle(index, word),
      open: (index, at) => this.box.open(index, at),
      remove: (index) => this.remove(index),
      resize: (index, by) => this.resize(index, by),
      describe,
    });
    this.box = new GapBox(this);
    this.maker = new Maker({
      name: "fill",
      button: byId("run-fill"),
      label: () => (pieces.hasFill(this.pieces) ? "Fill again" : "Fill"),
      box: byId("alternatives"),
      choices: byId("choices"),
      settings,
      on: {
        frame: (frame, isLast) => this.drawFrame(frame, isLast),
        chosen: (result) => this.chosen(result),
        stopped: () => this.show(this.past.pop()),
      },
    });
    byId("run-fill").addEventListener("click", () => this.run());
    byId("undo").addEventListener("click", () => this.undo());
    byId("edit").addEventListener("click", () => (this.isEditing ? this.read() : this.edit()));
    byId("example").addEventListener("click", () => this.nextExample());
    byId("keep-all").addEventListener("click", () => this.keepAll());
    byId("copy-fill").addEventListener("click", () => copyText(pieces.plainText(this.pieces), byId("copy-fill")));
    byId("score").addEventListener("click", () => this.score());
    byId("insert-gap").addEventListener("click", () => insert(byId("source"), "⟦3⟧"));
    byId("read-masks").addEventListener("click", () => this.readMasks());
    byId("source").addEventListener("input", () => this.offerMasks());
    byId("fill").addEventListener("keydown", (event) => this.key(event));
    this.show(this.pieces);
  }

  get isEditing() {
    return !byId("editing").hidden;
  }

  get hasFocus() {
    return byId("words").contains(document.activeElement);
  }

  /** Other pieces from now on; what was made of the last ones is forgotten. */
  change(now, focus = 0) {
    this.past = [...this.past.slice(1 - UNDONE), this.pieces];
    this.maker.clear();
    this.show(now, focus);
  }

  show(now, focus = 0) {
    const hadFocus = this.hasFocus;
    this.pieces = now;
    this.canvas.draw(now);
    if (focus > 0 || hadFocus) this.canvas.focusPiece(focus, hadFocus);
    this.update();
  }

  update() {
    byId("undo").disabled = this.past.length === 0 || this.isEditing;
    byId("fill-after").hidden = !pieces.hasFill(this.pieces) || this.maker.isRunning || this.isEditing;
    this.maker.update();
  }

  undo() {
    const last = this.past.pop();
    if (last === undefined) return;
    this.maker.clear();
    this.show(last);
  }

  // --- gaps and words

  cut(first, last) {
    const { pieces: now, index } = pieces.cut(this.pieces, first, last, (text) => this.numTokens(text));
    this.change(now, index);
  }

  /** About how many tokens a text has: the page does not know the model's. */
  numTokens(text) {
    return pieces
      .wordsOf(text)
      .map(([start, end]) => Math.max(1, Math.round((end - start) / this.characters)))
      .reduce((one, other) => one + other, 0);
  }

  remove(index) {
    if (!this.pieces[index] || !pieces.isGap(this.pieces[index])) return;
    this.change(pieces.putBack(this.pieces, index), Math.max(0, index - 1));
  }

  resize(index, by) {
    const { min, max } = this.pieces[index];
    if (min + by >= 1) this.setSize(index, min + by, max + by);
  }

  setSize(index, min, max) {
    const gap = this.pieces[index];
    if (!gap || !pieces.isGap(gap) || (gap.min === min && gap.max === max)) return;
    this.change(pieces.resize(this.pieces, index, min, max), index);
  }

  toggle(index, word) {
    const kept = !this.pieces[index].fill.keep[word];
    this.pieces = pieces.keepWord(this.pieces, index, word, kept);
    this.canvas.drawGaps(this.pieces);
  }

  keepAll() {
    this.pieces = pieces.keepAll(this.pieces);
    this.canvas.drawGaps(this.pieces);
    announce("All words are kept.");
  }

  nextExample() {
    this.example = (this.example + 1) % EXAMPLES.length;
    if (this.isEditing) this.read();
    this.change(pieces.readTemplate(EXAMPLES[this.example]));
  }

  // --- editing

  edit() {
    const source = byId("source");
    this.written = pieces.editableText(this.pieces);
    source.value = this.written;
    this.maker.player.pause();
    this.setEditing(true);
    source.focus();
    source.setSelectionRange(source.value.length, source.value.length);
    this.offerMasks();
  }

  /** Done: the text becomes words. */
  read() {
    const typed = byId("source").value;
    this.setEditing(false);
    if (typed !== this.written) this.change(pieces.remembering(pieces.readEditable(typed), this.pieces));
    this.canvas.focus();
    this.update();
  }

  setEditing(isEditing) {
    byId("editing").hidden = !isEditing;
    byId("words").hidden = isEditing;
    byId("words-hint").hidden = isEditing;
    byId("edit").textContent = isEditing ? "Done" : "Edit text";
    byId("edit").setAttribute("aria-pressed", String(isEditing));
    this.update();
  }

  offerMasks() {
    byId("read-masks").hidden = !/\[MASK(:\d+(-\d+)?)?\]/.test(byId("source").value);
  }

  readMasks() {
    const text = byId("source").value;
    this.setEditing(false);
    this.change(pieces.readTemplate(text));
    this.canvas.focus();
  }

  // --- filling

  run() {
    if (this.maker.isRunning) {
      this.maker.stop();
      return;
    }
    if (this.isEditing) this.read();
    const now = pieces.settled(this.pieces);
    if (!now.some(pieces.isGap)) {
      complain(this.pieces.length === 0 ? "There is no text yet: edit it first." : "There is no gap to fill: click a word to make one.");
      return;
    }
    const values = this.settings.values(pieces.gapsOf(now).reduce((sum, gap) => sum + gap.max, 0));
    this.past = [...this.past.slice(1 - UNDONE), this.pieces];
    const isFree = pieces.gapsOf(now).some((gap) => gap.min !== gap.max);
    const body = {
      text: pieces.templateOf(now),
      escape: true,
      ...values,
      candidates: this.settings.numCandidates(values.num_samples),
      importance: this.canvas.tint === "importance",
    };
    const made = this.maker.start("v1/infill", body, isFree ? "Comparing lengths of the gaps …" : undefined);
    this.template = now;
    this.show(now);
    made.finally(() => this.update());
    this.canvas.root.querySelector(".gap")?.scrollIntoView({ block: "nearest" });
  }

  chosen(result) {
    this.pieces = pieces.filled(this.template, result);
    byId("alternatives-hint").textContent =
      result.nats === null ? "In the order in which they were drawn." : "The likeliest first: nats of the text from left to right, fewer are likelier.";
  }

  drawFrame(frame, isLast) {
    if (isLast && pieces.hasFill(this.pieces)) this.canvas.drawGaps(this.pieces);
    else this.canvas.drawFrame(frame);
    this.update();
  }

  async score() {
    if (pieces.gapsOf(this.pieces).some((gap) => gap.fill === null)) {
      complain("There are gaps left: fill them first.");
      return;
    }
    const order = this.settings.model?.modes.includes("causal") ? "left_to_right" : "any";
    try {
      const { scores } = await ask("v1/score", { texts: [pieces.plainText(this.pieces)], order });
      const words = scoreWords(scores[0]);
      this.maker.say(words);
      announce(words);
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      complain(error.message);
    }
  }

  key(event) {
    const isUndo = (event.ctrlKey || event.metaKey) && event.key === "z" && !event.shiftKey;
    if (isUndo && !this.isEditing && event.target.tagName !== "INPUT") {
      event.preventDefault();
      this.undo();
    } else if (event.key === "F2") {
      event.preventDefault();
      if (this.isEditing) this.read();
      else this.edit();
    }
  }
}

function scoreWords({ nats, standard_error: error, nats_per_token: each, is_exact: isExact }) {
  const about = error ? ` ± ${error.toFixed(2)}` : "";
  return `The text costs ${isExact ? "" : "at most "}${nats.toFixed(2)}${about} nats, ${each.toFixed(2)} a token.`;
}

function insert(area, text) {
  area.setRangeText(text, area.selectionStart, area.selectionEnd, "end");
  area.dispatchEvent(new Event("input"));
  area.focus();
}

/** The box in which the length of a gap is set. */
class GapBox {
  constructor(fill) {
    this.fill = fill;
    this.root = byId("gap-box");
    for (const radio of document.getElementsByName("gap-kind")) {
      radio.addEventListener("change", () => this.update());
    }
    byId("gap-size").addEventListener("input", () => this.update());
    byId("gap-done").addEventListener("click", () => this.root.hidePopover());
    byId("gap-remove").addEventListener("click", () => {
      this.index = null;
      this.root.hidePopover();
      fill.remove(this.removed);
      fill.canvas.focus();
    });
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target.tagName === "INPUT") this.root.hidePopover();
    });
    this.root.addEventListener("beforetoggle", (event) => event.newState === "closed" && this.take());
  }

  open(index, at) {
    const gap = this.fill.pieces[index];
    this.index = this.removed = index;
    const isFree = gap.min !== gap.max;
    for (const radio of document.getElementsByName("gap-kind")) radio.checked = (radio.value === "free") === isFree;
    byId("gap-size").max = String(Math.max(20, gap.min));
    byId("gap-size").value = String(gap.min);
    byId("gap-min").value = String(isFree ? gap.min : Math.max(1, gap.min - 2));
    byId("gap-max").value = String(isFree ? gap.max : gap.max + 3);
    byId("gap-remove").textContent = gap.was ? `Put back “${shortened(gap.was)}”` : "Remove the gap";
    this.update();
    this.root.showPopover();
    this.move(at);
    (isFree ? byId("gap-min") : byId("gap-size")).focus();
  }

  move(at) {
    const [box, own] = [at.getBoundingClientRect(), this.root.getBoundingClientRect()];
    const isNarrow = innerWidth < 560;
    this.root.classList.toggle("sheet", isNarrow);
    const isBelow = box.bottom + 8 + own.height < innerHeight;
    const top = isBelow ? box.bottom + 8 : Math.max(8, box.top - own.height - 8);
    const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2), innerWidth - own.width - 8);
    this.root.style.top = isNarrow ? "" : `${top}px`;
    this.root.style.left = isNarrow ? "" : `${left}px`;
  }

  update() {
    const isFree = document.querySelector("[name=gap-kind]:checked").value === "free";
    byId("gap-fixed").hidden = isFree;
    byId("gap-free").hidden = !isFree;
    byId("gap-size-shown").textContent = byId("gap-size").value;
  }

  /** The length as it was set, when the box closes. */
  take() {
    const index = this.index;
    this.index = null;
    if (index === null) return;
    const hadFocus = this.root.contains(document.activeElement);
    const isFree = document.querySelector("[name=gap-kind]:checked").value === "free";
    const least = Math.max(1, isFree ? byId("gap-min").valueAsNumber || 1 : byId("gap-size").valueAsNumber);
    const most = isFree ? Math.max(least, byId("gap-max").valueAsNumber || least) : least;
    this.fill.setSize(index, Math.round(least), Math.round(most));
    if (hadFocus) this.fill.canvas.focusPiece(index);
  }
}

function shortened(text) {
  return text.length > 30 ? `${text.slice(0, 29)}…` : text;
}
