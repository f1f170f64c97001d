/** The page of atat serve: its tabs, what they share, and the keys that work everywhere. */

import { Classify } from "./classify.js";
import { ask, ServerError } from "./events.js";
import { Fill } from "./fill.js";
import { complain } from "./maker.js";
import { Settings } from "./settings.js";
import * as pieces from "./text.js";
import { Write } from "./write.js";

const byId = (id) => document.getElementById(id);
const TABS = ["fill", "write", "classify"];
const CHARACTERS_ONLY = 600; // a vocabulary of at most so many has letters or bytes for tokens

const settings = new Settings();
const fill = new Fill(settings, (tokens) => describe("fill", tokens));
const write = new Write(settings, (tokens) => describe("write", tokens), (text) => {
  fill.change([pieces.makeText(text)]);
  open("fill", true);
});
const makers = [fill, write];
let classify = null;
let current = "fill";

// --- tabs

function open(name, hasFocus = false) {
  current = name;
  for (const tab of TABS) {
    byId(tab).hidden = tab !== name;
    byId(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
    byId(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
  }
  settings.show(name);
  complain("");
  if (hasFocus) byId(`tab-${name}`).focus();
}

for (const name of TABS) byId(`tab-${name}`).addEventListener("click", () => open(name));

document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const there = TABS.filter((name) => !byId(`tab-${name}`).hidden && !byId(`tab-${name}`).disabled);
  const at = there.indexOf(current);
  const next = {
    ArrowRight: there[(at + 1) % there.length],
    ArrowLeft: there[(at - 1 + there.length) % there.length],
    Home: there[0],
    End: there.at(-1),
  }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  open(next, true);
});

// --- tint, and what a word is

function describe(name, tokens) {
  const detail = byId(name).querySelector("[data-player=detail]");
  if (detail) detail.textContent = tokens ? tokens.map(tokenWords).join(" · ") : "";
}

function tokenWords({ text, confidence, step, importance, state }) {
  if (state === "hidden") return importance == null ? "hidden" : `hidden, importance ${importance.toFixed(2)}`;
  const parts = [`“${text.trim() || "space"}”`];
  if (confidence != null) parts.push(`probability ${confidence.toFixed(2)}`);
  if (importance != null) parts.push(`importance ${importance.toFixed(2)}`);
  if (step != null) parts.push(`step ${step}`);
  return parts.join(", ");
}

function setTint(tint) {
  for (const { canvas, maker } of makers) {
    canvas.tint = tint;
    maker.controls.querySelector("[data-player=tint]").value = tint;
    maker.controls.querySelector(".scale").hidden = tint === "none";
    maker.player.draw();
  }
  const known = fill.maker.player.frames.at(-1)?.fillings.flat() ?? [];
  if (tint === "importance" && known.length > 0 && known.every(({ importance }) => importance == null)) {
    byId(current).querySelector("[data-player=detail]").textContent = "The next text shows it.";
  }
}

for (const { maker } of makers) {
  const select = maker.controls.querySelector("[data-player=tint]");
  select.addEventListener("change", () => setTint(select.value));
}

// --- keys

addEventListener("keydown", (event) => {
  const isOpen = document.querySelector(":popover-open, dialog[open]");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !byId("help").open) {
    event.preventDefault();
    byId("gap-box").hidePopover();
    if (current === "classify") classify?.run();
    else ({ fill, write })[current].run();
  } else if (event.key === "Escape" && !isOpen) {
    ({ fill, write })[current]?.maker.stop();
  }
});

byId("help-button").addEventListener("click", () => byId("help").showModal());
byId("run-classify").addEventListener("click", () => classify ?? complain("The server has no classifier."));

// the server stops working for a page that is gone
addEventListener("pagehide", () => makers.forEach(({ maker }) => maker.stop()));

// --- the model

async function meet() {
  let model;
  try {
    model = await ask("v1/model");
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    byId("about").textContent = "No model.";
    complain(error.message);
    return;
  }
  byId("about").textContent = inWords(model);
  byId("model").textContent = model.about;
  settings.offer(model);
  fill.characters = model.tokenizer.vocab_size <= CHARACTERS_ONLY ? 1 : 5;
  document.body.classList.toggle("characters", fill.characters === 1);
  for (const option of document.querySelectorAll("option[value=importance]")) {
    option.hidden = option.disabled = !model.has_importance;
  }
  byId("tab-classify").hidden = model.classifier === null;
  if (model.classifier !== null) classify = new Classify(model.classifier);
  if (!model.modes.includes("masked")) {
    byId("tab-fill").disabled = true;
    byId("tab-fill").title = "This model writes from left to right only.";
    open("write");
  }
}

function inWords({ name, parameters, modes }) {
  const size = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(parameters);
  const does = { masked: "fills gaps", causal: "writes from left to right" };
  return `${name}: ${size} parameters, ${["masked", "causal"].filter((mode) => modes.includes(mode)).map((mode) => does[mode]).join(" and ")}`;
}

await meet();
document.body.dataset.ready = "true";
