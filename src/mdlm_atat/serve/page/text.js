/** The text on the canvas: pieces of given text and gaps, in turn. Nothing here knows the page; every function returns
 * new pieces and leaves the old ones as they were, so that undoing is keeping them.
 *
 * A piece of text is {kind: "text", text, kept}; `kept` says that the model wrote it and that it is to stay.
 * A gap is {kind: "gap", min, max, was, fill}: from min to max tokens, the text that stood there (""), and null or
 * {tokens, keep}: tokens {text, confidence, step, importance} as the server sends them, and for each word whether it is
 * to stay when the gap is filled again. */

const GAP = /(\\*)⟦(\d{1,5})(?:[-–](\d{1,5}))?⟧/g; // as it is edited
const segmenter = new Intl.Segmenter("en", { granularity: "word" });

export const makeText = (text, kept = false) => ({ kind: "text", text, kept });
export const makeGap = (min, max = min, was = "") => ({ kind: "gap", min, max, was, fill: null });
export const isGap = (piece) => piece.kind === "gap";
export const gapsOf = (pieces) => pieces.filter(isGap);
export const hasFill = (pieces) => pieces.some((piece) => isGap(piece) && piece.fill !== null);

/** The words of a text, punctuation marks among them, as [start, end] each: all but white space. */
export function wordsOf(text) {
  const words = [];
  for (const { segment, index } of segmenter.segment(text)) {
    if (/\S/u.test(segment)) words.push([index, index + segment.length]);
  }
  return words;
}

export const tokensText = (tokens) => tokens.map((token) => token.text).join("");

/** What is read: given text and fillings; a gap that is still empty as "[MASK:3]". */
export function plainText(pieces) {
  return pieces.map((piece) => (isGap(piece) ? gapText(piece) : piece.text)).join("");
}

function gapText(gap) {
  if (gap.fill !== null) return tokensText(gap.fill.tokens);
  return maskOf(gap);
}

function maskOf({ min, max }) {
  if (min !== max) return `[MASK:${min}-${max}]`;
  return min === 1 ? "[MASK]" : `[MASK:${min}]`;
}

/** The template that the server reads with `escape`: a [MASK] that was typed is text. */
export function templateOf(pieces) {
  return pieces.map((piece) => (isGap(piece) ? maskOf(piece) : escapeText(piece.text))).join("");
}

function escapeText(text) {
  return text.replaceAll("\\", "\\\\").replaceAll("[MASK", "\\[MASK");
}

/** What is typed and edited: a gap is ⟦3⟧ or ⟦3–8⟧; where that stands in the text itself, a backslash goes before. */
export function editableText(pieces) {
  let out = "";
  for (const piece of pieces) {
    if (!isGap(piece)) {
      out += piece.text.replace(GAP, (whole, slashes) => `${slashes}\\${whole}`);
    } else if (piece.fill !== null) {
      out += tokensText(piece.fill.tokens);
    } else {
      out = out.replace(/\\+$/, (slashes) => slashes + slashes);
      out += piece.min === piece.max ? `⟦${piece.min}⟧` : `⟦${piece.min}–${piece.max}⟧`;
    }
  }
  return out;
}

/** The pieces of a text as it was typed: the inverse of `editableText`. */
export function readEditable(typed) {
  const text = typed.toWellFormed?.() ?? typed;
  const pieces = [];
  let given = "";
  let end = 0;
  for (const match of text.matchAll(GAP)) {
    const [whole, slashes, first, last] = match;
    given += text.slice(end, match.index) + "\\".repeat(Math.floor(slashes.length / 2));
    end = match.index + whole.length;
    const [min, max] = [Number(first), Number(last ?? first)];
    if (slashes.length % 2 === 1 || min < 1 || max < min) {
      given += whole.slice(slashes.length);
    } else {
      pieces.push(makeText(given), makeGap(min, max));
      given = "";
    }
  }
  pieces.push(makeText(given + text.slice(end)));
  return tidy(pieces);
}

/** The pieces with the words that stood in their gaps, from `before`, where there are as many empty gaps in it. */
export function remembering(pieces, before) {
  const old = gapsOf(before).filter((gap) => gap.fill === null);
  if (old.length !== gapsOf(pieces).length) return pieces;
  return pieces.map((piece) => (isGap(piece) ? { ...piece, was: old.shift().was } : piece));
}

/** The pieces of a template as the command line reads it: "It was a [MASK:3] night". */
export function readTemplate(text) {
  const pieces = [];
  let end = 0;
  for (const match of text.matchAll(/\[MASK(?::(\d{1,5})(?:-(\d{1,5}))?)?\]/g)) {
    pieces.push(makeText(text.slice(end, match.index)), makeGap(Number(match[1] ?? 1), Number(match[2] ?? match[1] ?? 1)));
    end = match.index + match[0].length;
  }
  pieces.push(makeText(text.slice(end)));
  return tidy(pieces);
}

/** Without empty pieces, and neighbours of one kind joined. */
function tidy(pieces) {
  const out = [];
  for (const piece of pieces) {
    const last = out.at(-1);
    if (!isGap(piece) && piece.text === "") continue;
    if (last && !isGap(piece) && !isGap(last) && last.kept === piece.kept) {
      out[out.length - 1] = makeText(last.text + piece.text, piece.kept);
    } else {
      out.push(piece);
    }
  }
  return out;
}

/** Make one gap of what stands from `first` {piece, start} to `last` {piece, end}. Empty gaps beside it, with nothing
 * but white space between, become part of it. `tokensOf` guesses how many tokens a text has. Returns
 * {pieces, index}, the index of the new gap. */
export function cut(pieces, first, last, tokensOf) {
  const before = pieces.slice(0, first.piece);
  const after = pieces.slice(last.piece + 1);
  const middle = pieces.slice(first.piece, last.piece + 1);
  const [head, tail] = [middle[0], middle.at(-1)];
  if (!isGap(tail)) {
    after.unshift(makeText(tail.text.slice(last.end), tail.kept));
    middle[middle.length - 1] = makeText(tail.text.slice(0, last.end));
  }
  if (!isGap(head)) {
    before.push(makeText(head.text.slice(0, first.start), head.kept));
    middle[0] = makeText(middle[0].text.slice(first.start));
  }
  let gap = middle.map((piece) => (isGap(piece) ? piece : ofWords(piece.text, tokensOf))).reduce(joined);
  for (const [side, end, take] of [[before, -1, "pop"], [after, 0, "shift"]]) {
    for (;;) {
      const kept = tidy(side);
      const next = kept.at(end);
      const beyond = kept.at(end === -1 ? -2 : 1);
      const space = next && !isGap(next) && /^[^\S\n]*$/.test(next.text) ? next.text : next && isGap(next) ? "" : null;
      const other = space === "" ? next : beyond;
      if (space === null || !other || !isGap(other) || other.fill !== null) break;
      side.splice(0, side.length, ...kept);
      side[take]();
      if (space !== "") side[take]();
      gap = end === -1 ? joined(other, gap, space) : joined(gap, other, space);
    }
  }
  const start = tidy(before);
  return { pieces: [...start, gap, ...tidy(after)], index: start.length };
}

function ofWords(text, tokensOf) {
  return makeGap(tokensOf(text), undefined, text);
}

function joined(one, other, space = "") {
  const was = [one, other].map((gap) => (gap.fill !== null ? tokensText(gap.fill.tokens) : gap.was));
  const least = Math.max(1, one.min + other.min);
  const both = was[0] + space + was[1];
  return makeGap(least, Math.max(least, one.max + other.max), was.includes("") ? both.trim() : both);
}

/** The gap at `index` as the text that stood there; without any, the gap goes and one of two spaces around it too. */
export function putBack(pieces, index) {
  const gap = pieces[index];
  const out = pieces.with(index, makeText(gap.was));
  const [left, right] = [out[index - 1], out[index + 1]];
  if (gap.was === "" && left && right && !isGap(left) && !isGap(right) && /\s$/.test(left.text) && /^\s/.test(right.text)) {
    out[index + 1] = makeText(right.text.slice(1), right.kept);
  }
  return tidy(out);
}

export function resize(pieces, index, min, max) {
  return pieces.with(index, { ...pieces[index], min, max });
}

/** Keep a word of a filling, or give it up again. */
export function keepWord(pieces, index, word, kept) {
  const { fill } = pieces[index];
  return pieces.with(index, { ...pieces[index], fill: { ...fill, keep: fill.keep.with(word, kept) } });
}

export function keepAll(pieces) {
  return pieces.map((piece) =>
    isGap(piece) && piece.fill ? { ...piece, fill: { ...piece.fill, keep: piece.fill.keep.map(() => true) } } : piece,
  );
}

/** The pieces to be filled: words that are kept are text now, and what stood around them is gaps of as many tokens. */
export function settled(pieces) {
  return tidy(pieces.flatMap((piece) => (isGap(piece) && piece.fill ? split(piece) : [piece])));
}

function split(gap) {
  const { tokens, keep } = gap.fill;
  if (!keep.some(Boolean)) return [{ ...gap, fill: null }];
  const text = tokensText(tokens);
  const words = wordsOf(text);
  const parts = [];
  for (let first = 0; first < words.length; ) {
    let next = first + 1;
    while (next < words.length && keep[next] === keep[first]) next += 1;
    if (keep[first]) {
      const start = first === 0 ? 0 : words[first - 1][1];
      const end = next === words.length ? text.length : words[next][0];
      parts.push(makeText(text.slice(start, end), true));
    } else {
      const start = first === 0 ? 0 : words[first][0];
      const end = next === words.length ? text.length : words[next - 1][1];
      parts.push(makeGap(numTokens(tokens, start, end), undefined, text.slice(start, end)));
    }
    first = next;
  }
  return parts;
}

/** How many tokens have their first character that is no space from `start` to `end` (spaces alone: their first). */
function numTokens(tokens, start, end) {
  let [offset, count] = [0, 0];
  for (const { text } of tokens) {
    const place = offset + Math.max(0, text.search(/\S/));
    if (text !== "" && place >= start && place < end) count += 1;
    offset += text.length;
  }
  return Math.max(1, count);
}

/** The pieces with the gaps filled as a result of the server says. */
export function filled(pieces, result) {
  const fillings = fillingsOf(result.pieces);
  let number = -1;
  return pieces.map((piece) => {
    if (!isGap(piece)) return piece;
    number += 1;
    const tokens = fillings[number] ?? [];
    return { ...piece, fill: { tokens, keep: wordsOf(tokensText(tokens)).map(() => false) } };
  });
}

/** The tokens of each gap, from the pieces of a result or a frame. */
export function fillingsOf(sent) {
  const fillings = [];
  for (const piece of sent) {
    if (piece.given) continue;
    fillings[piece.gap] = [...(fillings[piece.gap] ?? []), ...piece.tokens];
  }
  return fillings;
}

/** The frames of a result that was not watched, from the step at which each token came. */
export function framesOf(result) {
  const fillings = fillingsOf(result.pieces);
  const last = Math.max(0, ...fillings.flat().map((token) => token.step ?? 0));
  const state = (token, step) => (token.step > step ? "hidden" : token.step === step && step > 0 ? "new" : "final");
  return Array.from({ length: last + 1 }, (_, step) => ({
    step,
    fillings: fillings.map((tokens) =>
      tokens.map((token) => {
        const now = state(token, step);
        return { ...token, text: now === "hidden" ? "" : token.text, state: now };
      }),
    ),
  }));
}
