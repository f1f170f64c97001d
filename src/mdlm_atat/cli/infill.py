"""atat infill: texts with gaps, filled by a trained model."""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdlm_atat.cli.made_texts import make_texts
from mdlm_atat.cli.model import (
    add_model_and_text_arguments,
    add_reading_arguments,
    check_encoding_is_for_file,
    check_model,
    load_model,
    model_and_text_or_file,
    text_file,
    warn_of_file_name,
)
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.cli.sampling import (
    add_sampling_arguments,
    check_arguments,
    how_to_sample,
)
from mdlm_atat.data.unpack import ending_of
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import BOX, follow
from mdlm_atat.plugins import trusted
from mdlm_atat.runs.texts import Document, Item, check_each, read_items
from mdlm_atat.samplers.template import MAX_DRAWS, QUICK_DRAWS, Gap, nearly_gaps, parse_template

if TYPE_CHECKING:
    from mdlm_atat.lm import Infilled
    from mdlm_atat.lm.results import Layouts


def make_parser() -> Parser:
    parser = Parser(
        "atat infill",
        "Fill the gaps of a text: [MASK] is one token, [MASK:5] five, [MASK:3-8] as many of three to eight "
        "as suit the text around it best.",
        r"""examples:
  atat infill "It was a [MASK:3] night, and the [MASK] in the [MASK:2] had gone out."
  atat infill runs/novels "The [MASK:5] sat on the [MASK:2]."
  atat infill runs/novels "She [MASK:3-8], and left." --num_samples 4
  atat infill runs/novels "She [MASK:3-8], and left." --num_samples 2 --candidates 32
  atat infill runs/novels --file letter.txt --out letter-filled.txt
  atat infill runs/novels --file templates.jsonl --out filled.jsonl
  atat infill runs/novels --escape "Type \[MASK] for a gap,\n[MASK:4]."

All but the gaps comes out as it was given, of a document byte for byte. To have [MASK] in a text that is no gap, add
--escape and write \[MASK]. A .jsonl file has "template" and, if you like, "id" on each line.
""",
    )
    add_model_and_text_arguments(parser, "template", "a text with gaps")
    parser.add_argument(
        "--file",
        type=text_file,
        help="a document with gaps, - for one on standard input, or a .jsonl file of templates",
    )
    add_reading_arguments(parser, texts="templates and the document", has_gaps=True)
    parser.add_argument("--num_samples", type=whole(1), default=1, help="ways to fill each template")
    parser.add_argument(
        "--candidates",
        type=whole(1),
        help="draw so many ways and keep the --num_samples that are likeliest from left to right, best first; for "
        "models trained in both modes (default: as many as --num_samples)",
    )
    parser.add_argument(
        "--pick",
        choices=["likeliest", "fair"],
        default="likeliest",
        help="of the --candidates keep the likeliest, which are duller than what the model would write; fair: draw "
        "among them, each by its probability left to right over that with which it was made (default: likeliest)",
    )
    parser.add_argument(
        "--length_draws",
        type=whole(1),
        help="most draws to estimate what each choice of the gaps' lengths costs: fewer where it is settled before; "
        "more are surer and slower, and fewer than 64 a quick, rough choice "
        f"(default: {MAX_DRAWS}, which takes minutes on a CPU for a large model; for the model in the box "
        f"{QUICK_DRAWS})",
    )
    parser.add_argument(
        "--length_seed",
        type=whole(0),
        default=0,
        help="the seed of these draws: where the choice is settled, another one chooses the same lengths",
    )
    parser.add_argument(
        "--length_prior",
        choices=["text", "uniform"],
        help="text: a gap is one unit, within a sentence, a phrase or a word as its ends are, by how long those of the "
        "training text are; uniform: all lengths are as likely beforehand (default: text where the model has it)",
    )
    add_sampling_arguments(parser)
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    check_arguments(arguments)
    arguments.model, arguments.template, arguments.file = model_and_text_or_file(
        arguments, "template", command="infill"
    )
    items, document = read_templates(arguments)
    if arguments.template is not None:
        warn_of_file_name(arguments.template, "to fill the gaps of the file of that name, write --file {}")
    check_each(items, lambda text: parse_template(text, escape=arguments.escape))
    say_what_is_no_gap(items, escape=arguments.escape)
    check_lengths_are_chosen(arguments, items)
    check_model(arguments.model)
    if arguments.length_draws is None:
        arguments.length_draws = QUICK_DRAWS if follow(arguments.model) == BOX else MAX_DRAWS
    with trusted(arguments.trust_plugins):
        write_texts(arguments, items, document)
    return 0


def say_what_is_no_gap(items: Sequence[Item], *, escape: bool) -> None:
    """Say which parts of the texts look like gaps and are text."""
    parts = [part for item in items for part in parse_template(item.text, escape=escape) if isinstance(part, str)]
    found = sorted({nearly for part in parts for nearly in nearly_gaps(part)})
    if found:
        are = "is text and no gap" if len(found) == 1 else "are text and no gaps"
        print(f"{', '.join(found[:5])} {are}; gaps are written [MASK], [MASK:5] or [MASK:3-8]", file=sys.stderr)


def check_lengths_are_chosen(arguments: Namespace, items: Sequence[Item]) -> None:
    """Raise UserError for an option of how lengths are chosen where every gap has the one that it has."""
    gaps = [part for item in items for part in parse_template(item.text, escape=arguments.escape)]
    varies = any(isinstance(gap, Gap) and gap.shortest < gap.longest for gap in gaps)
    for name in ("length_draws", "length_seed", "length_prior"):
        if getattr(arguments, name) and not varies:
            raise UserError(f"--{name} has no effect without a gap of several lengths, such as [MASK:3-8]")


def write_texts(arguments: Namespace, items: list[Item], document: Document | None) -> None:
    from mdlm_atat.lm.how import How

    how = how_to_sample(arguments)
    lm = load_model(arguments)
    num_candidates = lm.num_candidates(arguments.candidates, arguments.num_samples)
    lm.check_pick(arguments.pick, arguments.candidates, How.of(how, lm.infill).with_default(lm.gap_sampler))
    check_each(items, lambda text: lm.check_template(text, arguments.candidates, escape=arguments.escape))
    how |= {name: getattr(arguments, name) for name in ("length_draws", "length_seed", "length_prior", "escape")}
    layouts: Layouts = {}  # lengths are chosen once, not in every batch
    make_texts(
        lm,
        arguments,
        items,
        lambda templates, more: lm.infill(templates, layouts=layouts, **how, **more),
        row_of=lambda text: layouts[tuple(parse_template(text, escape=arguments.escape))].row,
        title_field="template",
        num_candidates=num_candidates if "causal" in lm.modes else None,
        pick=arguments.pick,
        on_first=explain_lengths,
        on_shown=explain_nats,
        document=document,
    )


def read_templates(arguments: Namespace) -> tuple[list[Item], Document | None]:
    """The templates, and the document where they are one."""
    template, file, encoding = arguments.template, arguments.file, arguments.encoding
    check_encoding_is_for_file(encoding, file)
    if file is None:
        return [Item(0, template)], None
    if ending_of(file) == ".jsonl":
        return read_items(file, "--file", "template", encoding=encoding), None
    document = Document.read(file, encoding)
    return [Item(0, document.text)], document


def explain_lengths(text: Infilled) -> None:
    """Say why the gaps of variable length got the lengths that they have."""
    costs = text.length_costs
    if costs is None:
        return
    what = {
        "left to right": "what the given text costs by the gaps' lengths, whatever they hold, left to right",
        "any order": "what the given text costs by the gaps' lengths, the gaps masked",
    }[costs.likelihood]
    taken = {
        "uniform": "the least is taken; all are as likely beforehand",
        "text": "+ -log of the prior from the training text; the least sum is taken",
    }[costs.prior]
    print(f"{what}; nats ± standard error ({taken}):", file=sys.stderr)
    for lengths, nats in sorted(costs.nats.items()):
        mark = "  <-" if lengths == text.lengths else ""
        prior = f" + {costs.prior_nats[lengths]:.2f}" if costs.prior == "text" else ""
        cost = f"{nats:.2f} ± {costs.errors[lengths]:.2f}" if math.isfinite(nats) else "no filling that was drawn fits"
        print(f"  {', '.join(map(str, lengths))}: {cost}{prior}{mark}", file=sys.stderr)
    after = f"after {max(costs.num_draws.values()):,} draws"
    if not math.isfinite(costs.nats[costs.chosen]):
        print(
            f"not settled {after}: none that was drawn goes on with the given text, whatever the length; more of them "
            "(--length_draws) or another text may",
            file=sys.stderr,
        )
        return
    margin = "no filling that was drawn fits with other lengths"
    if math.isfinite(costs.margin):
        margin = f"{', '.join(map(str, costs.second))} costs {costs.margin:.2f} ± {costs.margin_error:.2f} nats more"
    if costs.is_settled:
        print(f"settled {after}: {margin}", file=sys.stderr)
    else:
        print(
            f"not settled {after}: {margin}, and other draws (--length_seed) may choose other lengths; more of them "
            "(--length_draws) tell better",
            file=sys.stderr,
        )


def explain_nats(texts: Sequence[Infilled]) -> None:
    """Say what filled texts are ranked by, where the model knows it."""
    nats = [f"{text.nats_left_to_right:.2f}" for text in texts if text.nats_left_to_right is not None]
    if nats:
        of_each = "" if len(texts) == 1 else " of each text"
        print(f"nats{of_each} from the first gap on, left to right: {', '.join(nats)}", file=sys.stderr)
