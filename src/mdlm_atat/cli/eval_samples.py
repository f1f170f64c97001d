"""atat eval --samples: how good the texts are that a model generates, over steps and temperatures."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.cli.model import load_model
from mdlm_atat.cli.parser import Parser, real, whole
from mdlm_atat.errors import UserError

if TYPE_CHECKING:
    from mdlm_atat.data.tokens import TokenDataset
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
    from mdlm_atat.lm.results import Generated
    from mdlm_atat.scoring.samples import Quality

HEADER = (
    f"{'steps':>6} {'temp':>5} {'NFE':>7} {'seconds':>8} {'judge, nats':>15} {'gen. PPL':>9} {'entropy':>8} "
    f"{'bigram':>7} {'dist-2':>6} {'rep-4':>6} {'MAUVE':>13}"
)


def add_sample_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("samples")
    group.add_argument("--samples", type=whole(2), metavar="N", help="generate so many texts and measure them instead")
    group.add_argument(
        "--judge", help="who finds them likely or not: a causal run of ours, or a hub's causal model or its folder"
    )
    group.add_argument("--steps", type=whole(1), nargs="+", help="numbers of steps (default: the sampler's own)")
    group.add_argument("--temperature", type=real(0), nargs="+", help="temperatures (default: 1)")
    group.add_argument("--sampler", metavar="NAME[:OPTION=VALUE,...]", help="see atat samplers (default: the model's)")
    group.add_argument("--length", type=whole(1), help="tokens of a text (default: the model's)")


def run_samples(arguments: Namespace) -> None:
    """Measure every number of steps at every temperature, storing each as soon as it is there."""
    from mdlm_atat.device import explain_out_of_memory

    lm = load_model(arguments)
    batch_size = arguments.batch_size or lm.config.eval.batch_size
    with explain_out_of_memory(f"try --batch_size {max(1, batch_size // 2)}"):
        measure_samples(lm, arguments, batch_size)


def measure_samples(lm: MaskedDiffusionLM | CausalLM, arguments: Namespace, batch_size: int) -> None:
    from mdlm_atat.atomic import write_json
    from mdlm_atat.report.sample_quality import draw_quality
    from mdlm_atat.runs.evaluate import open_data
    from mdlm_atat.scoring.samples import Quality, cautions, real_texts
    from mdlm_atat.studies.sampler_bench import load_judge

    assert lm.home is not None
    length = arguments.length or lm.max_length
    points = grid(lm, arguments)
    check_points(lm, points, arguments.sampler, length)
    data = open_data(lm, arguments.data, column=arguments.column or "text", split=arguments.split)
    real = real_texts(data, arguments.samples, length, arguments.seed)
    judge, same_text = None, False
    if arguments.judge is not None:
        judge = load_judge(arguments.judge, device=lm.device, batch_size=min(16, batch_size))
        same_text = same_training_text(lm.home, arguments.judge)
    head = {
        "weights": lm.fingerprint(),
        "judge": None if judge is None else judge.name,
        "sampler": arguments.sampler or lm.default_sampler,
        "num_texts": arguments.samples,
        "length": length,
        "seed": arguments.seed,
        "corpus_hash": data.manifest.splits[data.split].sha256,
    }
    name = lm.checkpoint.folder.name if lm.checkpoint else "saved"
    file = arguments.json or lm.home / f"samples-{name}-{arguments.samples}x{length}-{arguments.seed}.json"
    record = stored(file, head)
    quality = Quality(judge, real, decode=lm.tokenizer.decode, fingerprint=lm.tokenizer.fingerprint())
    if record is None:
        record = {**head, **about(lm, data), "real": quality.of_real_text(), "points": []}
    print(HEADER)
    for steps, temperature in points:
        point = find(record, steps, temperature)
        if point is None:
            point = measure(lm, quality, head, steps, temperature, batch_size)
            point["cautions"] = cautions(point, record["real"], length=length, judge_saw_training_text=same_text)
            record["points"].append(point)
            write_json(file, record)
        print(row(point), flush=True)
    print(row({**record["real"], "name": "validation text"}))
    for line in caution_lines([part for part in record["points"] if (part["steps"], part["temperature"]) in points]):
        print(line)
    print(f"{'stored':10} {file}, {draw_quality(record, file.with_suffix('.png'))}")


def about(lm: MaskedDiffusionLM | CausalLM, data: TokenDataset) -> dict[str, Any]:
    """Everything needed to trace the numbers."""
    from mdlm_atat.provenance import code_version, commit, cpu
    from mdlm_atat.scoring.records import TextIdentity

    return {
        **asdict(TextIdentity.of(data)),
        "checkpoint": lm.checkpoint.folder.name if lm.checkpoint else str(lm.home),
        "code_version": code_version(),
        "commit": commit(),
        "machine": {"cpu": cpu(), "device": lm.device_name, "precision": lm.precision},
    }


def grid(lm: MaskedDiffusionLM | CausalLM, arguments: Namespace) -> list[tuple[int | None, float]]:
    """(steps, temperature) of every point."""
    if arguments.steps and lm.kind == "causal":
        raise UserError("--steps: a causal model takes one step a token")
    points = [
        (steps, temperature) for temperature in arguments.temperature or [1.0] for steps in arguments.steps or [None]
    ]
    return list(dict.fromkeys(points))


def check_points(
    lm: MaskedDiffusionLM | CausalLM, points: Sequence[tuple[int | None, float]], sampler: str | None, length: int
) -> None:
    """A mistake in how to sample shows here, before a judge is loaded."""
    from mdlm_atat.lm import How

    canvas = lm.prompt_canvas([""], length)
    for steps, temperature in points:
        lm.denoiser(lm.rule(How(sampler=sampler, steps=steps, temperature=temperature), canvas))


def measure(
    lm: MaskedDiffusionLM | CausalLM,
    quality: Quality,
    head: dict[str, Any],
    steps: int | None,
    temperature: float,
    batch_size: int,
) -> dict[str, Any]:
    """One point of the frontier."""
    from mdlm_atat.progress import progress_bar
    from mdlm_atat.samplers.seeds import text_seeds

    num_texts = head["num_texts"]
    texts: list[Generated] = []
    start_s = time.perf_counter()
    with progress_bar("writing") as on_progress:
        while len(texts) < num_texts:
            numbers = range(len(texts), min(len(texts) + batch_size, num_texts))
            texts += lm.generate(
                [""] * len(numbers),
                length=head["length"],
                sampler=head["sampler"],
                steps=steps,
                temperature=temperature,
                seed=text_seeds(head["seed"], numbers),
            )
            on_progress(len(texts), num_texts)
    seconds = time.perf_counter() - start_s
    return {
        "sampler": head["sampler"],
        "steps": steps,
        "temperature": temperature,
        "curve": f"temperature {temperature:g}",
        "nfe_mean": sum(text.nfe for text in texts) / num_texts,
        "nfe_max": max(text.nfe for text in texts),
        "seconds": seconds,
        "tokens_per_s": num_texts * head["length"] / seconds,
        **quality([text.tokens for text in texts]),
    }


def stored(file: Path, head: dict[str, Any]) -> dict[str, Any] | None:
    """What an interrupted command has measured already. Raises UserError where the file is of something else."""
    if not file.exists():
        return None
    record: Any = None
    with suppress(ValueError):
        record = json.loads(file.read_text(encoding="utf-8"))
    advice = "name another file with --json, or delete it"
    if not isinstance(record, dict) or "points" not in record:
        raise UserError(f"{file} holds no evaluation of samples; {advice}")
    other = [name for name, value in head.items() if record.get(name) != value]
    if other:
        raise UserError(f"{file} holds an evaluation with another {', '.join(other)}; {advice}")
    return record


def find(record: dict[str, Any], steps: int | None, temperature: float) -> dict[str, Any] | None:
    return next(
        (part for part in record["points"] if (part["steps"], part["temperature"]) == (steps, temperature)), None
    )


def same_training_text(home: Path, judge: str) -> bool:
    """Whether the judge is a run of ours that was trained on the same text as this model."""
    runs = [home, Path(judge), Path(judge).parent.parent]  # the last is a checkpoint's
    data = [
        json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]
        for run in runs
        if (run / "run.json").is_file()
    ]
    mine, others = data[:1], data[1:]
    return any(mine[0][name] == other[name] for other in others for name in ("source", "hash"))


def row(point: dict[str, Any]) -> str:
    """One line of the table; what was not measured is left empty."""

    def shown(name: str, form: str) -> str:
        value = point.get(name)
        return "" if value is None else format(value, form)

    def with_error(name: str, error: str, form: str) -> str:
        missing = point.get(name) is None
        spread = point.get(error)
        return "" if missing else shown(name, form) + ("" if spread is None else f" ± {spread:{form}}")

    steps = (
        point.get("name")
        or f"{point['steps'] or 'own':>6} {shown('temperature', 'g'):>5} {shown('nfe_mean', '.1f'):>7}"
    )
    return (
        f"{steps:20} {shown('seconds', '.1f'):>8} {with_error('judge_nats', 'judge_error', '.3f'):>15} "
        f"{shown('judge_perplexity', ',.2f'):>9} {shown('entropy_nats', '.3f'):>8} "
        f"{shown('bigram_entropy_nats', '.3f'):>7} {shown('distinct_2', '.3f'):>6} {shown('repetition', '.3f'):>6} "
        f"{with_error('mauve', 'mauve_spread', '.3f'):>13}"
    )


def caution_lines(points: Sequence[dict[str, Any]]) -> list[str]:
    """Each caution once, with the points that it is of unless it is of all."""
    which: dict[str, list[str]] = {}
    for point in points:
        name = f"{point['steps'] or 'own'} steps at {point['temperature']:g}"
        for text in point["cautions"]:
            which.setdefault(text, []).append(name)
    return [
        f"{'warning':10} {text if len(names) == len(points) else ', '.join(names) + ': ' + text}"
        for text, names in which.items()
    ]
