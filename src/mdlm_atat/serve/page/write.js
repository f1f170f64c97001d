/** The tab that writes on. */

import { Canvas } from "./canvas.js";
import { copyText, Maker } from "./maker.js";
import * as pieces from "./text.js";

const byId = (id) => document.getElementById(id);

export class Write {
  /** `takeOver(text)` brings a text to the tab that fills gaps. */
  constructor(settings, describe, takeOver) {
    this.settings = settings;
    this.pieces = [];
    this.canvas = new Canvas(byId("written"), { describe });
    this.maker = new Maker({
      name: "write",
      button: byId("run-write"),
      label: () => (this.pieces.length > 0 ? "Write again" : "Write on"),
      box: byId("writings"),
      choices: byId("writing-choices"),
      settings,
      on: {
        frame: (frame, isLast) => this.drawFrame(frame, isLast),
        chosen: (result) => (this.pieces = pieces.filled(this.template, result)),
        stopped: () => this.show([]),
      },
    });
    byId("run-write").addEventListener("click", () => this.run());
    byId("copy-write").addEventListener("click", () => copyText(this.text, byId("copy-write")));
    byId("continue").addEventListener("click", () => this.continue());
    byId("take-over").addEventListener("click", () => takeOver(this.text));
  }

  get text() {
    return pieces.plainText(this.pieces);
  }

  run() {
    if (this.maker.isRunning) {
      this.maker.stop();
      return;
    }
    const typed = byId("prompt").value;
    const prompt = typed.toWellFormed?.() ?? typed;
    this.template = [pieces.makeText(prompt), pieces.makeGap(1)].filter((piece) => piece.text !== "");
    const maxTokens = this.settings.maxTokens.value;
    const made = this.maker.start("v1/generate", {
      prompt,
      max_tokens: maxTokens,
      ...this.settings.values(maxTokens),
      importance: this.canvas.tint === "importance",
    });
    this.show([]);
    this.canvas.draw(this.template);
    byId("written").hidden = true;
    made.finally(() => this.update());
  }

  drawFrame(frame, isLast) {
    byId("written").hidden = false;
    if (isLast && this.pieces.length > 0) this.canvas.drawGaps(this.pieces);
    else this.canvas.drawFrame(frame);
    this.update();
  }

  show(now) {
    this.pieces = now;
    byId("written").hidden = now.length === 0;
    this.update();
  }

  update() {
    byId("write-after").hidden = this.pieces.length === 0 || this.maker.isRunning;
    this.maker.update();
  }

  /** The text as the beginning of the next one. */
  continue() {
    byId("prompt").value = this.text;
    this.maker.clear();
    this.show([]);
    byId("prompt").focus();
  }
}
