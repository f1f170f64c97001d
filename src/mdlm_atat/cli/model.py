"""What the commands that use a trained model have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mdlm_atat.cli.parser import Parser
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import kind_of_folder

if TYPE_CHECKING:
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM


def add_model_arguments(parser: Parser) -> None:
    parser.add_argument("model", type=Path, help="a run folder, one of its checkpoints, or a saved model")
    parser.add_argument("--device", help="cpu, cuda or mps (default: a GPU if there is one)")
    parser.add_argument(
        "--precision",
        choices=["auto", "float32", "bf16"],
        default="auto",
        help="arithmetic of the network; auto: bf16 on a GPU that has it",
    )
    add_trust_argument(parser)


def add_trust_argument(parser: Parser) -> None:
    parser.add_argument(
        "--trust_plugins",
        action="store_true",
        help="import the plugins that a run, a model or a tokenizer names: it runs their code",
    )


def check_model(folder: Path, flag: str | None = None) -> None:
    """UserError where there is no model in the folder that `flag` names: answered before torch is imported, which takes
    seconds."""
    try:
        kind_of_folder(folder)
    except UserError as error:
        raise UserError(f"{flag}: {error}" if flag else str(error)) from error


def load_model(arguments: argparse.Namespace) -> MaskedDiffusionLM | CausalLM:
    """The model that was named; damaged checkpoints that were passed over are warned of."""
    from rich.console import Console

    from mdlm_atat.lm import load_lm

    console = Console(stderr=True)
    return load_lm(
        arguments.model,
        device=arguments.device,
        precision=arguments.precision,
        say=lambda text: console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True),
    )
