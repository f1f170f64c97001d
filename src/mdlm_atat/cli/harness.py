"""atat harness: a trained model on the tasks of lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path

from mdlm_atat.cli.model import add_model_arguments, check_model
from mdlm_atat.cli.parser import Parser, real, whole
from mdlm_atat.samplers.catalogue import check_order, split_spec
from mdlm_atat.task_names import check_task_names


def make_parser() -> Parser:
    parser = Parser(
        "atat harness",
        "Run tasks of lm-evaluation-harness on a trained model.",
        """examples:
  atat harness runs/mine --tasks lambada_openai hellaswag
  atat harness runs/mine --tasks lambada_openai,hellaswag --limit 100
  atat harness runs/mine --tasks arc_easy --num_fewshot 5 --order any --num_draws 512
  atat harness runs/mine --tasks my_task --include_path tasks/

Tasks that ask for a likelihood get the exact one of a model that reads left to right, else an upper bound on the nats;
the table says which. Needs an extra: pip install 'mdlm-atat[hub]'. docs/howto/harness.md has more.
""",
    )
    add_model_arguments(parser, or_box=True)
    parser.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        metavar="TASK",
        help="names, with commas or spaces between them, * for any letters, or .yaml files",
    )
    parser.add_argument("--include_path", type=Path, help="folder of tasks of your own, as .yaml files")
    parser.add_argument(
        "--limit", type=real(0), help="examples of each task, or a share of them below 1 (default: all)"
    )
    parser.add_argument(
        "--num_fewshot", type=whole(0), help="examples before a question, where the task does not fix it"
    )
    parser.add_argument("--batch_size", type=whole(1), default=32, help="rows that go through the network together")
    parser.add_argument("--num_draws", type=whole(2), default=128, help="draws for a likelihood that is estimated")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the draws")
    parser.add_argument(
        "--order", help="left_to_right, any, or a sampler, whose own order it is (default: the first the model has)"
    )
    parser.add_argument("--sampler", help="what texts are written by (default: the model's own)")
    parser.add_argument(
        "--max_gen_toks", type=whole(1), default=256, help="tokens that are written where the task does not say"
    )
    parser.add_argument("--out", type=Path, help="file of the results (default: in harness/ of the model's folder)")
    parser.add_argument("--samples", action="store_true", help="store every question with its answers too")
    return parser


def main(argv: list[str]) -> int:
    arguments = vars(make_parser().parse(argv))
    if arguments["order"] is not None:
        check_order(arguments["order"])
    if arguments["sampler"] is not None:
        split_spec(arguments["sampler"])  # refuses an unknown name
    check_model(arguments["model"])
    names = [name for word in arguments.pop("tasks") for name in word.split(",") if name]
    check_task_names(tuple(names), arguments["include_path"])  # before what takes seconds to import
    from mdlm_atat.harness import run_tasks  # which says so where the extra is missing

    out = arguments.pop("out")
    found = run_tasks(arguments.pop("model"), names, save=True if out is None else out, **arguments)
    if found.is_main:
        print(found)
        if found.file is not None:
            print(f"stored in {found.file}")
    return 0
