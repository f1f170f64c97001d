"""atat generate: texts from a trained model."""

from __future__ import annotations

from argparse import Namespace

from mdlm_atat.cli.made_texts import make_texts
from mdlm_atat.cli.model import (
    add_model_arguments,
    add_reading_arguments,
    check_encoding_is_for_file,
    check_model,
    load_model,
    text_file,
    warn_of_file_name,
)
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.cli.sampling import (
    add_sampling_arguments,
    check_arguments,
    how_to_sample,
)
from mdlm_atat.errors import UserError
from mdlm_atat.plugins import trusted
from mdlm_atat.runs.texts import Item, check_each, read_items
from mdlm_atat.samplers.template import unescaped


def make_parser() -> Parser:
    parser = Parser(
        "atat generate",
        "Generate texts with a trained model.",
        """examples:
  atat generate --prompt "It was a dark and stormy night" --watch
  atat generate runs/demo --watch
  atat generate runs/demo --prompt "ROMEO:" --num_samples 4 --seed 7
  atat generate runs/demo --sampler first_hitting:sizes=cosine --steps 32 --animate romeo.html
  atat generate runs/demo --prompts prompts.jsonl --out texts.jsonl
""",
    )
    add_model_arguments(parser, or_box=True)
    parser.add_argument("--prompt", default="", help="text to begin with")
    parser.add_argument(
        "--prompts",
        type=text_file,
        help='a file of prompts, one a line, - for standard input; or .jsonl with "prompt" and "id" on each line',
    )
    add_reading_arguments(parser, texts="prompts", file="--prompts", has_gaps=True, escape_name="read_escapes")
    parser.add_argument("--num_samples", type=whole(1), default=1, help="texts for each prompt")
    parser.add_argument(
        "--length",
        type=whole(1),
        help="tokens in all, prompt included (default: the model's; longer ones go in blocks)",
    )
    parser.add_argument("--max_new_tokens", type=whole(1), help="tokens after the prompt, in place of --length")
    add_sampling_arguments(parser)
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    check_arguments(arguments)
    items = read_prompts(arguments)
    check_model(arguments.model, text="a text to begin with goes after --prompt")
    with trusted(arguments.trust_plugins):
        write_texts(arguments, items)
    return 0


def write_texts(arguments: Namespace, items: list[Item]) -> None:
    lengths = {"length": arguments.length, "max_new_tokens": arguments.max_new_tokens}
    how = how_to_sample(arguments)
    lm = load_model(arguments)
    lm.prompt_rows([], **lengths)  # refuses lengths that no prompt can have
    check_each(items, lambda prompt: lm.prompt_rows([prompt], **lengths))
    make_texts(
        lm,
        arguments,
        items,
        lambda prompts, more: lm.generate(prompts, **lengths, **how, **more),
        row_of=lambda prompt: lm.prompt_rows([prompt], **lengths)[0],
        title_field="prompt",
    )


def read_prompts(arguments: Namespace) -> list[Item]:
    prompt, file, escape = arguments.prompt, arguments.prompts, arguments.read_escapes
    check_encoding_is_for_file(arguments.encoding, file, "--prompts")
    if file is None:
        warn_of_file_name(prompt, "to read prompts from the file of that name, write --prompts {}")
        return [Item(0, unescaped(prompt) if escape else prompt)]
    if prompt:
        raise UserError("give --prompt or --prompts, not both")
    return read_items(file, "--prompts", "prompt", encoding=arguments.encoding, escape=escape)
