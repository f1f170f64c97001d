/** The canvas: words that can be chosen, and gaps. It draws pieces (text.js) and says what is done to them. */

import { isGap, tokensText, wordsOf } from "./text.js";

const TINTS = 5;

/** An element with a class and a text. Texts of people and of the model are only ever set here, as text. */
export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

const numTokens = ({ min, max }) => (min !== max ? `${min} to ${max} tokens` : min === 1 ? "1 token" : `${min} tokens`);

export class Canvas {
  /** `root` is drawn into. `on` answers: cut(first, last), toggle(index, word), open(index, element), remove(index),
   * resize(index, by), describe(token or null). Without `on.cut` the words cannot be chosen. */
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.places = new WeakMap();
    this.gaps = new Map();
    this.tint = "none";
    this.pieces = [];
    if (on.cut) this.listen();
    root.addEventListener("pointerover", (event) => this.describe(event.target));
    root.addEventListener("focusin", (event) => this.describe(event.target));
    root.addEventListener("pointerleave", () => on.describe(null));
  }

  draw(pieces) {
    this.pieces = pieces;
    this.gaps.clear();
    const lines = [];
    const newLine = () => lines.push(element("div", "line"));
    newLine();
    pieces.forEach((piece, index) => {
      if (isGap(piece)) {
        const gap = element("span", "gap");
        this.gaps.set(index, gap);
        lines.at(-1).append(gap);
        this.drawGap(index);
        return;
      }
      let offset = 0;
      for (const [number, line] of piece.text.split("\n").entries()) {
        if (number > 0) newLine();
        this.drawWords(lines.at(-1), line, index, offset, piece.kept);
        offset += line.length + 1;
      }
    });
    for (const line of lines) line.dir = "auto"; // now, not before: each word that comes would look at all others
    this.root.replaceChildren(...lines);
    this.current = null;
    this.setCurrent(this.stops()[0] ?? null);
  }

  drawWords(line, text, piece, offset, kept) {
    if (!this.on.cut) {
      line.append(element("span", kept ? "kept" : "", text));
      return;
    }
    let end = 0;
    for (const [from, to] of wordsOf(text)) {
      line.append(text.slice(end, from));
      const word = this.stop(element("span", kept ? "word kept" : "word", text.slice(from, to)));
      word.setAttribute("aria-pressed", "false");
      this.places.set(word, { piece, start: offset + from, end: offset + to });
      line.append(word);
      end = to;
    }
    line.append(text.slice(end));
  }

  stop(made) {
    made.dataset.stop = "";
    made.setAttribute("role", "button");
    made.tabIndex = -1;
    return made;
  }

  /** A gap as the pieces have it: empty, or its filling word by word. */
  drawGap(index) {
    const gap = this.gaps.get(index);
    const piece = this.pieces[index];
    if (piece.fill === null) {
      const size = piece.min === piece.max ? `${piece.min}` : `${piece.min}–${piece.max}`;
      const pill = this.handle(element("span", "empty", size), index, `gap of ${numTokens(piece)}`);
      pill.style.setProperty("--size", String(Math.min(piece.max, 12)));
      gap.replaceChildren(pill);
      return;
    }
    const { tokens, keep } = piece.fill;
    const text = tokensText(tokens);
    const parts = [];
    let end = 0;
    for (const [number, [from, to]] of wordsOf(text).entries()) {
      parts.push(...this.drawTokens(tokens, end, from));
      const word = element("span", keep[number] ? "word filled kept" : "word filled");
      word.append(...this.drawTokens(tokens, from, to));
      if (this.on.toggle) {
        this.stop(word).setAttribute("aria-pressed", String(keep[number]));
        word.setAttribute("aria-label", `${text.slice(from, to)}, filled${keep[number] ? ", kept" : ""}`);
      }
      this.places.set(word, { piece: index, word: number, tokens: tokensAt(tokens, from, to) });
      parts.push(word);
      end = to;
    }
    parts.push(...this.drawTokens(tokens, end, text.length));
    if (this.on.open) {
      const handle = element("span", "handle");
      parts.push(this.handle(handle, index, `length of this gap: ${numTokens(piece)}`));
    }
    gap.replaceChildren(...parts);
  }

  handle(made, index, label) {
    this.places.set(made, { piece: index, gap: true });
    if (!this.on.open) return made;
    this.stop(made).setAttribute("aria-haspopup", "dialog");
    made.setAttribute("aria-label", label);
    return made;
  }

  /** The parts of tokens from one character to another, tinted. */
  drawTokens(tokens, from, to) {
    const parts = [];
    let offset = 0;
    for (const token of tokens) {
      const text = token.text.slice(Math.max(0, from - offset), Math.max(0, to - offset));
      offset += token.text.length;
      if (text !== "") parts.push(this.drawToken(token, text, "token"));
    }
    return parts;
  }

  drawToken(token, text, className) {
    const made = element("span", className, text);
    const value = this.tint === "none" ? null : token[this.tint];
    if (value !== null && value !== undefined) made.dataset.tint = String(bucket(value));
    this.places.set(made, { tokens: [token] });
    return made;
  }

  /** A step of filling: for each gap in turn its tokens with their state. */
  drawFrame({ fillings }) {
    let number = -1;
    for (const [, gap] of this.gaps) {
      number += 1;
      const tokens = fillings[number] ?? [];
      gap.replaceChildren(
        ...tokens.map((token) =>
          token.state === "hidden"
            ? this.drawToken(token, " ", "token hidden")
            : this.drawToken(token, token.text, `token ${token.state}`),
        ),
      );
    }
    const empty = this.current === null || !this.current.isConnected;
    if (empty) this.setCurrent(this.stops()[0] ?? null);
  }

  /** All gaps as the pieces have them. */
  drawGaps(pieces) {
    const place = this.current && this.places.get(this.current);
    const hadFocus = this.root.contains(document.activeElement);
    this.pieces = pieces;
    for (const index of this.gaps.keys()) this.drawGap(index);
    if (this.current?.isConnected) return;
    this.setCurrent(this.stops().find((stop) => this.isSame(stop, place)) ?? this.stops()[0] ?? null);
    if (hadFocus) this.current?.focus();
  }

  isSame(stop, place) {
    const other = this.places.get(stop);
    return other.piece === place?.piece && other.word === place?.word && other.gap === place?.gap && other.start === place?.start;
  }

  // --- moving and choosing

  stops() {
    return [...this.root.querySelectorAll("[data-stop]")];
  }

  setCurrent(stop) {
    if (this.current) this.current.tabIndex = -1;
    this.current = stop;
    if (stop) stop.tabIndex = 0;
  }

  focus() {
    this.current?.focus();
  }

  focusPiece(index, hasFocus = true) {
    const stop = this.stops().find((stop) => this.places.get(stop).piece === index);
    if (!stop) return;
    this.setCurrent(stop);
    if (hasFocus) stop.focus();
  }

  listen() {
    const stopOf = (target) => (target instanceof Element ? target.closest("[data-stop]") : null);
    let drag = null;
    this.root.addEventListener("pointerdown", (event) => {
      const stop = stopOf(event.target);
      if (!stop || event.pointerType === "touch" || event.button !== 0) return;
      drag = event.shiftKey && this.current ? { from: this.current, moved: true } : { from: stop, moved: false };
      if (event.shiftKey) event.preventDefault();
    });
    this.root.addEventListener("pointermove", (event) => {
      const stop = drag && stopOf(event.target);
      if (!stop || (stop === drag.from && !drag.moved)) return;
      drag.moved = true;
      this.choose(drag.from, stop);
    });
    addEventListener("pointerup", (event) => {
      const [was, stop] = [drag, this.root.contains(event.target) ? stopOf(event.target) : null];
      drag = null;
      if (!was?.moved) return;
      const last = stop ?? this.chosen?.at(-1);
      this.suppressed = true;
      setTimeout(() => (this.suppressed = false));
      if (last) this.cut(was.from, last);
      else this.choose(null);
    });
    addEventListener("pointercancel", () => {
      drag = null;
      this.choose(null);
    });
    this.root.addEventListener("click", (event) => {
      const stop = stopOf(event.target);
      if (stop && !this.suppressed) this.act(stop);
    });
    this.root.addEventListener("focusin", (event) => {
      const stop = stopOf(event.target);
      if (stop) this.setCurrent(stop);
    });
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const stop = this.current;
    if (!stop) return;
    const stops = this.stops();
    const place = this.places.get(stop);
    const isReversed = getComputedStyle(stop.closest(".line")).direction === "rtl";
    const at = stops.indexOf(stop);
    const moves = {
      ArrowRight: () => stops[at + (isReversed ? -1 : 1)],
      ArrowLeft: () => stops[at - (isReversed ? -1 : 1)],
      ArrowDown: () => this.vertical(stops, at, 1),
      ArrowUp: () => this.vertical(stops, at, -1),
      Home: () => stops[0],
      End: () => stops.at(-1),
    };
    if (event.key in moves) {
      const next = moves[event.key]();
      event.preventDefault();
      if (!next) return;
      if (event.shiftKey) this.choose((this.anchor ??= stop), next);
      else this.choose(null);
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (this.chosen) this.cut(this.anchor, stop);
      else this.act(stop);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      if (this.chosen) this.cut(this.anchor, stop);
      else if (place.gap) this.on.remove(place.piece);
      else if (place.start !== undefined) this.cut(stop, stop);
    } else if ((event.key === "+" || event.key === "-") && place.gap) {
      event.preventDefault();
      this.on.resize(place.piece, event.key === "+" ? 1 : -1);
    } else if (event.key === "Escape" && this.chosen) {
      event.stopPropagation();
      this.choose(null);
    }
  }

  /** The stop a line below (`way` 1) or above (-1), near the column that the first such move began in. */
  vertical(stops, at, way) {
    const column = this.column?.stop === stops[at] ? this.column.x : middleOf(boxOf(stops[at]));
    const next = nearest(stops, at, way, column);
    this.column = { stop: next, x: column };
    return next;
  }

  act(stop) {
    const place = this.places.get(stop);
    if (place.gap) this.on.open(place.piece, stop);
    else if (place.word !== undefined) this.on.toggle(place.piece, place.word);
    else this.cut(stop, stop);
  }

  /** Mark the words from one to another as chosen, or none. */
  choose(from, to) {
    for (const stop of this.chosen ?? []) stop.classList.remove("chosen");
    this.chosen = null;
    if (!from) {
      this.anchor = null;
      return;
    }
    const stops = this.stops();
    const [first, last] = [stops.indexOf(from), stops.indexOf(to)].sort((one, other) => one - other);
    this.chosen = stops.slice(first, last + 1);
    for (const stop of this.chosen) stop.classList.add("chosen");
  }

  cut(from, to) {
    const stops = this.stops();
    const ends = stops.indexOf(from) <= stops.indexOf(to) ? [from, to] : [to, from];
    this.choose(null);
    this.on.cut(...ends.map((stop) => this.places.get(stop)));
  }

  describe(target) {
    const at = target instanceof Element ? target.closest(".word, .token") : null;
    const tokens = at && this.places.get(at)?.tokens;
    this.on.describe(tokens?.length ? tokens : null);
  }
}

/** The tokens that have a character from `start` to `end`. */
function tokensAt(tokens, start, end) {
  let offset = 0;
  return tokens.filter(({ text }) => {
    const from = offset;
    offset += text.length;
    return text !== "" && from < end && offset > start;
  });
}

/** 0 (least) to 4 (most), of a number from 0 to 1. */
function bucket(value) {
  return Math.min(TINTS - 1, Math.max(0, Math.floor(value * TINTS)));
}

const boxOf = (stop) => stop.getClientRects()[0] ?? stop.getBoundingClientRect();
const middleOf = (box) => (box.left + box.right) / 2;

/** The stop in the next line (`way` 1) or the last (-1) that is nearest to a column. */
function nearest(stops, at, way, column) {
  const here = boxOf(stops[at]);
  let best = null;
  let line = null;
  for (let next = at + way; next >= 0 && next < stops.length; next += way) {
    const box = boxOf(stops[next]);
    if (way > 0 ? box.top < here.bottom - 2 : box.bottom > here.top + 2) continue;
    line ??= box;
    if (way > 0 ? box.top > line.bottom - 2 : box.bottom < line.top + 2) break;
    const distance = Math.abs(middleOf(box) - column);
    if (best === null || distance < best.distance) best = { stop: stops[next], distance };
  }
  return best?.stop;
}
