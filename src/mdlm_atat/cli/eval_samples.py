"""atat eval --samples: how good the texts are that a model generates, over steps and temperatures."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mdlm_atat.cli.data import reading_arguments
from mdlm_atat.cli.model import load_model
from mdlm_atat.cli.parser import Parser, real, whole

if TYPE_CHECKING:
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
    from mdlm_atat.report.quality_lines import Column
    from mdlm_atat.scoring.quality import HowSampled, SampleQuality


def add_sample_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("samples")
    group.add_argument("--samples", type=whole(2), metavar="N", help="generate so many texts and measure them instead")
    group.add_argument(
        "--judge",
        help="who finds them likely or not: a run of ours that reads left to right, or a causal model of the hub: its "
        "name, its folder or a .gguf file",
    )
    group.add_argument("--steps", type=whole(1), nargs="+", help="numbers of steps (default: the sampler's own)")
    group.add_argument("--temperature", type=real(0), nargs="+", help="temperatures (default: 1)")
    group.add_argument("--sampler", metavar="NAME[:OPTION=VALUE,...]", help="see atat samplers (default: the model's)")
    group.add_argument("--length", type=whole(1), help="tokens of a text (default: the model's)")


def run_samples(arguments: Namespace) -> None:
    """Measure every number of steps at every temperature, and print the table."""
    from mdlm_atat.report.quality_lines import SAMPLES, caution_lines
    from mdlm_atat.scoring.quality import HowSampled

    lm = load_model(arguments)
    sampler = arguments.sampler or (lm.gap_sampler if arguments.steps else lm.default_sampler)
    ways = [
        HowSampled(sampler, steps, temperature)
        for temperature in dict.fromkeys(arguments.temperature or [1.0])
        for steps in dict.fromkeys(arguments.steps or [None])
    ]
    print_quality(
        lm,
        ways,
        SAMPLES,
        lambda record: caution_lines([point for point in record.points if point.how in ways]),
        num_texts=arguments.samples,
        length=arguments.length,
        judge=arguments.judge,
        data=arguments.data,
        split=arguments.split,
        **reading_arguments(arguments),
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        save=arguments.json or True,
    )


def print_quality(
    lm: MaskedDiffusionLM | CausalLM,
    ways: Sequence[HowSampled],
    columns: Sequence[Column],
    notes: Callable[[SampleQuality], list[str]],
    **options: Any,
) -> None:
    """Measure texts made in some ways, with the `options` of sample_quality: a line of a table as soon as one is
    measured, validation text's below them, and `notes` on the whole; then draw it."""
    from mdlm_atat.atomic import stored_if_possible
    from mdlm_atat.report.quality_lines import header, point_line, real_line
    from mdlm_atat.report.sample_quality import draw_quality
    from mdlm_atat.runs.sample_quality import sample_quality

    waiting = [header(columns)]  # until there is a line: what is refused has no table

    def show(*lines: str) -> None:
        print(*waiting, *lines, sep="\n", flush=True)
        waiting.clear()

    record = sample_quality(lm, ways, on_point=lambda point: show(point_line(point, columns)), **options)
    show(real_line(record.real, columns), *notes(record))
    if record.file is not None:
        with stored_if_possible(picture := record.file.with_suffix(".png")):
            print(f"{'stored':10} {record.file}, {draw_quality(record, picture)}")
