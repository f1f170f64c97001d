"""atat finetune: a trained model on tasks with labels, over several seeds, or its frozen backbone as a probe."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from mdlm_atat.cli.model import add_model_arguments, check_model, load_model
from mdlm_atat.cli.parser import Parser, real, whole
from mdlm_atat.effect import NOT_GIVEN
from mdlm_atat.plugins import trusted

EXAMPLES = """\
examples:
  atat finetune runs/mine --task rte --data glue/            glue/RTE/{train,dev}.tsv
  atat finetune runs/mine --task mrpc                        from the hub (pip install 'mdlm-atat[hub]')
  atat finetune runs/mine --task sst2 --data glue/ --probe   train the head alone, on a frozen backbone
  atat finetune runs/mine --task reviews.csv --seeds 5       columns text, perhaps text2, and label
  atat finetune runs/mine --task mails.csv --text body --label team

Seeds that are stored already, from the same weights, examples and settings, are not run again.
docs/finetuning.md says what is measured, and how.
"""


def make_parser() -> Parser:
    parser = Parser(
        "atat finetune",
        "Fine-tune a trained model on a task with labels: sst2, cola, mrpc, rte, stsb (GLUE), or a file.",
        EXAMPLES,
    )
    add = parser.add_argument
    add_model_arguments(parser, or_box=True)
    add("--task", required=True, help="sst2, cola, mrpc, rte, stsb, or a .csv, .tsv, .json, .jsonl or .parquet file")
    add("--data", help="folder of GLUE's TSV files, or hub:NAME (default: hub:nyu-mll/glue)")
    add("--dev", type=Path, help="file: another file to score on")
    add("--dev_fraction", type=real(), help="file without --dev: hold out this share to score on")
    add(
        "--folds",
        type=whole(2),
        help="file without --dev: score all by cross-validation (default: 5 folds of fewer than 1,000 examples, else a "
        "tenth is held out)",
    )
    add("--regression", action="store_true", help="file: the labels are numbers to predict")
    add("--metric", nargs="+", help="names, or package.module:Name (default: those of the task)")
    add("--text", help="file: column of the text (default: text)")
    add("--text_pair", help="file of pairs: column of the second text (default: text2 or text_pair, if there is one)")
    add("--label", help="file: column of the label (default: label)")
    add("--encoding", help="file: encoding of one without a byte order mark, such as cp1252 (default: UTF-8)")
    add("--delimiter", help="file: what separates the columns (default: told from the first lines)")
    add("--seeds", type=whole(1), default=3, help="number of seeds")
    add("--seed", type=whole(0, 2**31 - 1), default=0, help="the first of them (default: 0)")
    add("--probe", action="store_true", help="train the head alone, on the frozen backbone")
    add(
        "--pooling",
        choices=["mean", "first", "causal_mean", "last"],
        help="default: mean; last for a causal model, causal_mean for one of both modes",
    )
    add(
        "--epochs",
        type=whole(1),
        help="passes over the training examples (default: 5, with --probe 20; of fewer than 1,000: 10, 40)",
    )
    add(
        "--batch_size", type=whole(1), help="examples of a step (default: 32, with --probe 64; of fewer than 1,000: 16)"
    )
    add("--lr", type=real(), help="peak learning rate (default: 1e-4, with --probe 1e-3)")
    add("--warmup_share", type=real(), default=0.1, help="share of steps to warm up")
    add("--weight_decay", type=real(0), default=0.01, help="weight decay")
    add("--grad_clip", type=real(0), default=1.0, help="largest gradient norm; 0: any")
    add("--dropout", type=real(), default=0.1, help="before the head")
    add("--backbone_dropout", type=real(), help="in the backbone (default: as it was trained)")
    add("--max_length", type=whole(2), help="tokens of a text or pair (default: all the model takes)")
    add("--patience", type=whole(0), default=0, help="stop after so many worse epochs (default: 0, never)")
    add(
        "--out",
        type=Path,
        help="folder of the results (default: finetune/ in the model's, or here for the model in the box)",
    )
    add("--no_classifier", action="store_true", help="store the results alone, not the first seed's classifier")
    add("--again", action="store_true", help="run seeds anew whose results are stored")
    for flag in ("--dev_fraction", "--folds"):
        parser.needs(flag, {"--dev": NOT_GIVEN})
    parser.needs("--backbone_dropout", {"--probe": NOT_GIVEN})
    return parser


def main(argv: list[str]) -> int:
    arguments = vars(make_parser().parse(argv))
    check_model(arguments["model"])
    from mdlm_atat.runs.finetune import finetune

    with trusted(arguments.pop("trust_plugins")):
        lm = load_model(Namespace(**{name: arguments.pop(name) for name in ("model", "device", "precision")}))
    first, number_of_seeds = arguments.pop("seed"), arguments.pop("seeds")
    keep_classifier = not arguments.pop("no_classifier")
    result = finetune(lm, seeds=range(first, first + number_of_seeds), keep_classifier=keep_classifier, **arguments)
    print(f"\n{result!r}" + (f"\nstored     {result.file}" if result.file.exists() else ""))
    return 0
