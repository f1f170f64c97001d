"""Measure the model in the box and write its card, README.md beside this file.

usage: python models/box/card.py DATA [--model FOLDER] [--run RUN] [--judge FOLDER] [--demo FOLDER]
       [--num_draws N] [--again]

DATA is the folder that make_data.py wrote. --model is what is measured (the packed model, "box"), --run the same model
before it was packed: the card says what packing costs. --judge is a causal model that was trained apart from it. --demo
is where the model of `make demo` is trained, minutes on a CPU, to be compared with it; the judge reads both. What was
measured is kept in card.json and not measured again, so that a later call writes the card alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import beside_demo

from mdlm_atat import Evaluation, MaskedDiffusionLM, evaluate, load_lm
from mdlm_atat.atomic import write_json
from mdlm_atat.device import device_name
from mdlm_atat.provenance import cpu
from mdlm_atat.runs.evaluate import draw_settings, open_data
from mdlm_atat.runs.orders import asked_orders, in_orders
from mdlm_atat.runs.sample_quality import sample_quality
from mdlm_atat.scoring.quality import HowSampled, Task
from mdlm_atat.scoring.records import NamedCost

HERE = Path(__file__).parent
HELD_OUT = ("novels", "others")
NUM_PLACES = 20
EVALUATIONS = 16
OWN_ORDER_BATCH = 8
GAPS = ((16, 19), (31, 33), (44, 48))
"""Words of an excerpt that are left out: three, two and four of them."""
NUM_WORDS = 60
NUM_GIVEN_WORDS = 40
NUM_NEW_TOKENS = 80
TITLES = {
    "Conrad_Almayer_1895": "Almayer's Folly",
    "Forster_View_1908": "A Room with a View",
    "Burnett_Lord_1886": "Little Lord Fauntleroy",
}
"""Of novels by their names in the data; any other is called as it is there."""
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def read_rows(file: Path) -> list[dict[str, str]]:
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def excerpts(novels: list[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """The fixed places: number i is the first paragraph of enough words behind (i + 1/2) / 20 of all characters of the
    held-out novels. Returns the title and the words of each."""
    paragraphs, end = [], 0
    for novel in novels:
        for line in novel["text"].split("\n"):
            paragraphs.append((end, novel["title"], line.split(" ")))
            end += len(line) + 1
    long = [each for each in paragraphs if len(each[2]) >= NUM_WORDS]
    starts = [(number + 0.5) / NUM_PLACES * end for number in range(NUM_PLACES)]
    *_, last = long
    return [next((each for each in long if each[0] >= least), last)[1:] for least in starts]


def likelihoods(lm: Any, data: Path, num_draws: int | None, known: Evaluation | None) -> dict[str, Any]:
    """What the held-out novels and the other held-out documents cost, by likelihood. `known`: the evaluation of the
    novels that is there already, where there is one."""
    found: dict[str, Any] = {}
    for name in HELD_OUT:
        text = data / "corpus" / f"valid-{name}.jsonl.xz"
        if not read_rows(text):
            continue
        scored = (
            known if known is not None and name == "novels" else evaluate(lm, text, num_draws=num_draws, save=False)
        )
        found[name] = {each.name: _numbers(each) for each in scored.likelihoods}
        found[name]["unigram"] = {"nats_per_token": scored.unigram.nats_per_token} if scored.unigram else {}
        found[name]["draws"] = scored.num_draws
        if scored is known:
            found[name]["before_packing"] = f"{scored.machine.device}, {scored.machine.precision}"
    return found


def own_order(lm: Any, data: Path, num_sequences: int | None) -> dict[str, Any]:
    """What the held-out novels cost in the own order of `spread` with 16 evaluations, over all sequences or so many."""
    rows = open_data(lm, data / "corpus" / "valid-novels.jsonl.xz")
    draws = draw_settings(lm, num_draws=num_sequences, batch_size=OWN_ORDER_BATCH, seed=0)
    (own,) = in_orders(lm, rows, draws, asked_orders(lm, "spread", EVALUATIONS), every=num_sequences is None)
    return {
        "name": own.name,
        "num_sequences": num_sequences,
        **_numbers(NamedCost(own.name, own, own.is_exact)),
        "machine": cpu() if lm.device.type == "cpu" else device_name(lm.device),
        "date": date.today().isoformat(),
        "command": "python models/box/card.py DATA" + (f" --num_sequences {num_sequences}" if num_sequences else ""),
    }


def _numbers(found: NamedCost) -> dict[str, Any]:
    return {
        "nats_per_token": found.cost.nats_per_token,
        "standard_error": found.cost.standard_error,
        "bits_per_character": found.cost.bits_per_character,
        "perplexity": found.cost.perplexity_per_token,
        "is_exact": found.is_exact,
    }


def packing(lm: Any, run: Path, data: Path, num_draws: int | None) -> dict[str, Any]:
    """What the packed model pays more than the one that it was packed from, over the same draws."""
    text = data / "corpus" / "valid-novels.jsonl.xz"
    compared = evaluate(lm, text, num_draws=num_draws, against=load_lm(run, device=lm.device), save=False).against
    assert compared is not None
    found = {"any order": compared.uniform, **{each.name: each for each in compared.orders}}
    return {name: [each.nats_per_token, each.standard_error] for name, each in found.items()}


def infillings(lm: MaskedDiffusionLM, places: list[tuple[str, list[str]]]) -> list[dict[str, Any]]:
    """Three gaps in each of the fixed places, as many tokens as stood there, filled with the place's number as seed."""
    found = []
    for seed, (title, words) in enumerate(places):
        parts, end, were = "", 0, []
        for start, stop in GAPS:
            left_out = " " + " ".join(words[start:stop])
            parts += " ".join([""] * (end > 0) + words[end:start])
            parts += f"[MASK:{len(lm.tokenizer.encode(left_out))}]"
            were.append(left_out.strip())
            end = stop
        template = parts + " " + " ".join(words[end:NUM_WORDS])
        filled = lm.infill(template, seed=[seed])
        found.append({"title": title, "given": filled.given, "filled": filled.fillings, "were": were})
    return found


def continuations(lm: MaskedDiffusionLM, places: list[tuple[str, list[str]]]) -> list[dict[str, Any]]:
    """What follows the first words of each of the fixed places, with the place's number as seed."""
    found = []
    for seed, (title, words) in enumerate(places):
        prompt = " ".join(words[:NUM_GIVEN_WORDS])
        text = lm.generate(prompt, max_new_tokens=NUM_NEW_TOKENS, seed=[seed])
        found.append({"title": title, "prompt": prompt, "written": "".join(text.fillings)})
    return found


def judged(lm: Any, judge: str | None, data: Path, num_texts: int) -> dict[str, Any]:
    """How likely a judge finds what is written, with the entropy of the texts beside it; of real text too."""
    ways: dict[Task, list[HowSampled]] = {
        "generate": [HowSampled(lm.default_sampler), HowSampled("spread", 32)],
        "infill": [HowSampled("spread", EVALUATIONS)],
    }
    found: dict[str, Any] = {}
    for task, each in ways.items():
        quality = sample_quality(
            lm,
            each,
            task=task,
            num_texts=num_texts,
            length=256,
            judge=judge,
            data=data / "corpus" / "valid-novels.jsonl.xz",
            with_mauve=False,
            save=False,
        )
        names = ("judge_perplexity", "entropy_nats", "repetition")
        rows = {f"{point.how.sampler} ({point.nfe_mean:.0f} evaluations)": point for point in quality.points}
        found[task] = {
            name: {key: getattr(point, key) for key in names}
            for name, point in {**rows, "held-out text": quality.real}.items()
        }
    return found


def hashes(data: Path) -> dict[str, str]:
    """SHA-256 of each split's lines, unpacked."""
    found = {}
    for split in ("train", "valid-novels", "valid-others"):
        with lzma.open(data / "corpus" / f"{split}.jsonl.xz", "rb") as lines:
            found[split] = hashlib.file_digest(lines, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
    return found


def card(numbers: dict[str, Any]) -> str:
    """The card as Markdown."""
    text = (HERE / "card.md").read_text(encoding="utf-8")
    held_out, num_others = numbers["held_out"], _num_held_out(numbers["sources"], "others")
    titles = [TITLES.get(title, title.replace("_", " ")) for title in held_out]
    parts = {
        "num_novels": _counted(len(titles), "novel"),
        "num_held_out_novels": _counted(len(titles), "held-out novel"),
        "novels": f"{_counted(len(titles), 'novel')} ({', '.join(f'*{title}*' for title in titles)})",
        "and_others": " and the other documents" * (num_others > 0),
        "were": "was" if len(titles) == 1 and num_others == 0 else "were",
        "vocab_size": f"{numbers['vocab_size']:,}",
        "likelihoods": _likelihood_table(numbers["likelihoods"], numbers.get("own_order"), numbers["sources"]),
        "own_order": _own_order_lines(numbers.get("own_order")),
        "before_packing": _before_packing(numbers["likelihoods"]),
        "packing": _packing_lines(numbers.get("packing")),
        "judge": _judge_table(numbers.get("judge"), numbers.get("judge_name")),
        "beside_demo": _beside_demo(numbers.get("beside_demo")),
        "infillings": "\n\n".join(map(_infilling, range(NUM_PLACES), numbers["infillings"])),
        "continuations": "\n\n".join(map(_continuation, range(NUM_PLACES), numbers["continuations"])),
        "sources": _source_table(numbers["sources"]),
        "hashes": "\n".join(f"    {sha256}  {split}.jsonl" for split, sha256 in numbers["hashes"].items()),
        "machine": numbers["machine"],
        "parameters": f"{numbers['parameters']:,}",
        "bytes": f"{numbers['bytes'] / 1e6:.1f} MB",
        **{name: str(value) for name, value in numbers["config"].items()},
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], text)


def _likelihood_table(found: dict[str, Any], own: dict[str, Any] | None, sources: dict[str, Any]) -> str:
    titles = {
        name: _counted(_num_held_out(sources, name), what)
        for name, what in {"novels": "held-out novel", "others": "other held-out document"}.items()
    }
    lines = [
        "| text | likelihood | nats per token | bits per character | perplexity per token |",
        "|---|---|---|---|---|",
    ]
    for name, costs in found.items():
        asked = {
            likelihood if cost["is_exact"] else f"{likelihood} ({costs['draws']:,} draws)": cost
            for likelihood, cost in costs.items()
            if isinstance(cost, dict) and "is_exact" in cost
        }
        if own is not None and name == "novels":
            asked[f"{own['name']} ({own['num_sequences'] or 'all'} sequences)"] = own
        for likelihood, cost in asked.items():
            at_most = "exactly" if cost["is_exact"] else "at most"
            lines.append(
                f"| {titles[name]} | {likelihood} | {at_most} {cost['nats_per_token']:.4f} ± "
                f"{cost['standard_error']:.4f} | {cost['bits_per_character']:.4f} | {cost['perplexity']:.1f} |"
            )
        if costs["unigram"]:
            lines.append(f"| {titles[name]} | unigram, the floor | {costs['unigram']['nats_per_token']:.4f} | | |")
    return "\n".join(lines)


def _num_held_out(sources: dict[str, Any], name: str) -> int:
    """How many documents of a split are held out."""
    return sum(source.get(f"valid-{name}_documents", 0) for source in sources.values())


def _counted(number: int, what: str) -> str:
    return f"{WORDS[number] if number < len(WORDS) else number} {what}{'s' * (number != 1)}"


def _before_packing(found: dict[str, Any]) -> str:
    machine = found.get("novels", {}).get("before_packing")
    if machine is None:
        return "All are of the packed weights."
    return f"Those of the novels are of the weights before packing, at the end of training ({machine})."


def _own_order_lines(own: dict[str, Any] | None) -> str:
    if own is None:
        return "What the novels cost in the own order of a sampler was not measured yet."
    if own["num_sequences"] is None:
        return f"The own order is of the packed weights ({own['machine']}, {own['date']})."
    return (
        f"The own order is of the packed weights, over {own['num_sequences']} of the sequences alone: its error is "
        f"mostly that of which these are (`{own['command']}`; {own['machine']}, {own['date']})."
    )


def _packing_lines(found: dict[str, Any] | None) -> str:
    if not found:
        return "What rounding to 8 bits costs was not measured yet (`models/box/card.py DATA --run RUN`)."
    parts = [f"{nats:+.4f} ± {error:.4f} {name}" for name, (nats, error) in found.items()]
    return f"Rounding to 8 bits costs {', '.join(parts)} (nats per token, paired, on held-out novels)."


def _judge_table(found: dict[str, Any] | None, name: str | None) -> str:
    if not found:
        return "No judge has read its texts yet: `models/box/card.py DATA --judge FOLDER` asks one."
    lines = [
        f"Judge: {name or 'none'}." if name else "No judge has read these texts; the entropy of their tokens is known.",
        "",
        "| task | by | judge's perplexity | entropy, nats | repeated 4-grams |",
        "|---|---|---|---|---|",
    ]
    for task, rows in found.items():
        for way, point in rows.items():
            perplexity = "" if point["judge_perplexity"] is None else f"{point['judge_perplexity']:.1f}"
            lines.append(f"| {task} | {way} | {perplexity} | {point['entropy_nats']:.3f} | {point['repetition']:.1%} |")
    return "\n".join(lines)


def _beside_demo(found: dict[str, Any] | None) -> str:
    if found is None:
        return "It was not compared yet: `models/box/card.py DATA --judge FOLDER --demo FOLDER` does."
    return "\n".join([
        "That one learns Shakespeare's plays, letter by letter, in minutes on a CPU. Here both read "
        f"{_counted(found['num_plays']['valid'], 'play')} that neither was trained on: the",
        f"demo, with its own settings, was trained on the {found['num_plays']['train']} that the box has read. What is "
        f"compared is a character, in bits. {beside_demo.NUM_PASSAGES} passages of {beside_demo.NUM_CHARACTERS}",
        f"characters, evenly spaced, none chosen: the first {beside_demo.NUM_GIVEN} characters were continued, or "
        f"{beside_demo.GAP[1] - beside_demo.GAP[0]} in the middle filled. The judge is the one above, which",
        "has surely read Shakespeare. Of a continuation it is told what the judge pays for a character, of a filled "
        "passage how many bits it pays more than for the",
        "passage as it was. *Entropy*, in nats, is of the box's tokens in a continuation, whoever wrote it.",
        "",
        beside_demo.table(found),
        "",
        "The first three passages, as each went on:",
        "",
        *(f"- {name}: {_gone_on(text)}" for name, model in found["models"].items() for text in model["texts"]),
        "",
        f"`python models/box/card.py DATA --judge FILE.gguf --demo FOLDER`; {found['machine']}, {found['date']}.",
    ])  # fmt: skip


def _gone_on(text: str) -> str:
    given, written = text[: beside_demo.NUM_GIVEN], text[beside_demo.NUM_GIVEN :]
    between = " " * (given[-1:].isspace() or written[:1].isspace())  # some passages are cut within a word
    return f"{_line(given.strip())}{between}**{_line(_plain(written.strip()))}**"


def _infilling(number: int, row: dict[str, Any]) -> str:
    text = row["given"][0]
    for filled, given in zip(row["filled"], row["given"][1:], strict=True):
        inner = filled.strip()
        text += filled.replace(inner, f"**{_plain(inner)}**") if inner else filled
        text += given
    were = "; ".join(row["were"])
    return f"{number + 1}. {_line(text)}\n\n   (there stood: {_line(were)})"


def _continuation(number: int, row: dict[str, Any]) -> str:
    written = row["written"]
    return f"{number + 1}. {_line(row['prompt'])} **{_line(_plain(written.strip()))}**"


def _plain(text: str) -> str:
    return text.replace("*", "\\*")


def _line(text: str) -> str:
    """Text in one line of Markdown; a line end is shown as a slash."""
    return re.sub(r"\s*\n\s*", " / ", text).replace("<", "&lt;")


def _source_table(sources: dict[str, Any]) -> str:
    total = sum(source.get("train_characters", 0) for source in sources.values())
    lines = ["| source | documents | characters | share | licence |", "|---|---|---|---|---|"]
    for name, source in sources.items():
        count = source.get("train_characters", 0)
        lines.append(
            f"| {name} | {source.get('train_documents', 0):,} | {count:,} | {count / total:.1%} | {source['licence']} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="box")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--judge")
    parser.add_argument("--demo", type=Path, help="folder for the run of the demo, which --judge reads too")
    parser.add_argument("--judge_name", help="what the card calls the judge")
    parser.add_argument("--device")
    parser.add_argument("--num_draws", type=int, help="masked sequences (default: as its training took last)")
    parser.add_argument("--num_sequences", type=int, help="sequences in the order of spread (default: all)")
    parser.add_argument("--evaluation", type=Path, help="an evaluation of the held-out novels before packing (JSON)")
    parser.add_argument("--num_texts", type=int, default=64, help="texts for the judge")
    parser.add_argument("--numbers", type=Path, default=HERE / "card.json")
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    parser.add_argument("--again", action="store_true", help="measure all anew")
    arguments = parser.parse_args(argv)
    lm = load_lm(arguments.model, device=arguments.device)
    assert isinstance(lm, MaskedDiffusionLM)
    numbers: dict[str, Any] = {}
    if arguments.numbers.exists() and not arguments.again:
        numbers = json.loads(arguments.numbers.read_text(encoding="utf-8"))
    if numbers.get("weights", lm.fingerprint()) != lm.fingerprint():
        raise SystemExit(f"{arguments.numbers} is of other weights: --again measures these")
    known = None if arguments.evaluation is None else Evaluation.load(arguments.evaluation)
    held_out = read_rows(arguments.data / "corpus" / "valid-novels.jsonl.xz")
    places = excerpts(held_out)
    about: dict[str, Callable[[], Any]] = {
        "weights": lm.fingerprint,
        "machine": lambda: device_name(lm.device),
        "parameters": lambda: sum(weight.numel() for weight in lm.network.parameters()),
        "bytes": lambda: sum(file.stat().st_size for file in Path(lm.home or ".").rglob("*") if file.is_file()),
        "config": lambda: settings_of(lm),
        "sources": lambda: json.loads((arguments.data / "sources.json").read_text(encoding="utf-8")),
        "hashes": lambda: hashes(arguments.data),
        "held_out": lambda: [novel["title"] for novel in held_out],
        "vocab_size": lambda: lm.tokenizer.vocab_size,
        "infillings": lambda: infillings(lm, places),
        "continuations": lambda: continuations(lm, places),
        "likelihoods": lambda: likelihoods(lm, arguments.data, arguments.num_draws, known),
        "own_order": lambda: own_order(lm, arguments.data, arguments.num_sequences),
    }
    if arguments.judge is not None:
        about["judge"] = lambda: judged(lm, arguments.judge, arguments.data, arguments.num_texts)
        about["judge_name"] = lambda: arguments.judge_name or Path(arguments.judge).name
    if arguments.demo is not None:
        if arguments.judge is None:
            parser.error("--demo: the two are compared by what a judge says too: name one with --judge")
        about["beside_demo"] = lambda: beside_demo.beside_demo(lm, arguments.data, arguments.demo, arguments.judge)
    if arguments.run is not None:
        about["packing"] = lambda: packing(lm, arguments.run, arguments.data, arguments.num_draws)
    for name, measure in about.items():
        if name not in numbers:
            numbers[name] = measure()
            write_json(arguments.numbers, numbers)
    arguments.out.write_text(card(numbers), encoding="utf-8")
    print(f"card       {arguments.out}")


def settings_of(lm: MaskedDiffusionLM) -> dict[str, Any]:
    """Settings that the card speaks of."""
    sections = (lm.config.model, lm.config.optim, lm.config.train, lm.config.data, lm.config.objective)
    return {name: value for section in sections for name, value in asdict(section).items()}


if __name__ == "__main__":
    main()
