"""atat plan: what a training run takes, before it is started."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from mdlm_atat.atomic import check_writable, write_json
from mdlm_atat.cli.parser import Parser, real, whole
from mdlm_atat.config.arguments import read_config
from mdlm_atat.errors import UserError
from mdlm_atat.scaling.measured import check_settings, gpu_kinds

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}


class Amount:
    """A number as 124M, 1.5B or 3e9, as `type` of an argument. A comma or _ stands between groups of three digits only:
    1,5B, as some write 1.5B, is refused."""

    metavar = "N"

    def __call__(self, word: str) -> float:
        found = re.fullmatch(
            r"((?:[0-9]+|[0-9]{1,3}(?:[_,][0-9]{3})+)(?:\.[0-9]+)?(?:e\+?[0-9]{1,3})?)([KMBGT]?)",
            word.strip(),
            re.IGNORECASE,
        )
        if found is None:
            raise argparse.ArgumentTypeError("a number such as 124M, 1.5B or 3e9")
        return float(re.sub("[_,]", "", found[1])) * UNITS[found[2].upper()]


def make_parser() -> Parser:
    parser = Parser(
        "atat plan",
        "Say what a training run takes: memory by part and by way of laying it over GPUs, tokens a second, days, what "
        "breaks first, and the command.",
        """examples:
  atat plan --params 1B --tokens 100B --gpus 64 --method atat
  atat plan mdlm-owt --tokens 33B --gpus 2              the network of a preset or file
  atat plan --params 8B --tokens 1T --gpus 1024 --json plan.json

Any setting can be given as for atat train.
""",
        takes_settings=True,
    )
    parser.add_argument("config", nargs="?", help="a preset's name, a YAML file or a run folder (default: medium)")
    parser.add_argument("--params", type=Amount(), help="parameters, in place of the depth, width and heads")
    parser.add_argument("--tokens", type=Amount(), required=True, help="tokens to train on")
    parser.add_argument("--gpus", type=whole(1, 1_000_000), default=1, help="GPUs in all")
    parser.add_argument("--gpu", choices=gpu_kinds(), default="h200", help="their kind: those that were measured")
    parser.add_argument("--length", type=whole(1), help="the same as --data.length")
    parser.add_argument("--vocab_size", type=whole(2), help="tokens of the vocabulary (default: the tokenizer's)")
    parser.add_argument("--method", help="a training method's name, or a YAML file")
    parser.add_argument("--gpus_per_machine", type=whole(1), default=8, help="GPUs of one machine")
    parser.add_argument("--network_gb_s", type=real(0.001), default=50.0, help="GB/s between machines for each GPU")
    parser.add_argument("--host_gib", type=real(0.001), default=128.0, help="a machine's memory for each GPU, in GiB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole plan here too")
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    if arguments.length is not None:
        if "data.length" in arguments.settings:
            raise UserError("--length and --data.length are the same: leave one of them out")
        arguments.settings["data.length"] = arguments.length
    if arguments.json is not None:
        check_writable(arguments.json, "--json")
    check_settings(arguments.settings)
    # a mistyped name or setting is answered here, before torch is imported
    if arguments.config is not None:
        read_config(arguments.config, arguments.method, arguments.settings, "atat plan", is_built=False)

    from mdlm_atat.scaling.lines import lines_of
    from mdlm_atat.scaling.plan import plan

    names = ("params", "tokens", "gpus", "gpu", "vocab_size", "method", "gpus_per_machine", "network_gb_s", "host_gib")
    found = plan(arguments.config, settings=arguments.settings, **{name: getattr(arguments, name) for name in names})
    if arguments.json is not None:
        write_json(arguments.json, found.as_json())
    print("\n".join(lines_of(found)))
    return 0
