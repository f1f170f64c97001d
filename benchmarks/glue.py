"""Fine-tune runs on GLUE's five tasks, five seeds each.

    python -m benchmarks.glue runs/*/runs/atat/seed-0 runs/*/runs/mdlm/seed-0 --data glue --out glue.json

The same as a loop of `atat finetune RUN --task TASK --data glue --seeds 5`, whose files in the run's folder it reads
and writes: a seed that is there is not trained again. What a task gave is in --out as soon as it is there. The result
is that of the last epoch; *near chance* says that its 95% interval, over seeds and examples, reaches down to what the
class that most examples have would score.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import exit_code
from benchmarks.points import is_stored, name_of, read_or_begin
from benchmarks.results.glue import TASKS, is_near_chance, mean_over_seeds

from mdlm_atat import finetune, load_lm
from mdlm_atat.atomic import check_writable, write_json
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.finetuning.metrics import title
from mdlm_atat.formats import with_error


def show(points: Sequence[Mapping[str, Any]]) -> None:
    print(f"{'':30} {'task':6} {'metric':22} {'mean':>18} {'95% interval':>18} {'baseline':>9}")
    for point in points:
        for name, metric in point["metrics"].items():
            found = mean_over_seeds(metric, point["num_dev"])
            ends = "" if found.interval95 is None else "[{:.4f}, {:.4f}]".format(*found.interval95)
            told = "  near chance" if is_near_chance(found, metric["baseline"]) else ""
            mean = with_error(found.value, found.standard_error, decimals=4)
            print(f"{point['run']:30} {point['task']:6} {title(name):22} {mean:>18} {ends:>18} "
                  f"{metric['baseline']:9.4f}{told}")  # fmt: skip


def main() -> None:
    parser = Parser("python -m benchmarks.glue", __doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--data", type=Path, help="folder with GLUE's files, a folder a task (default: the hub)")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write, and to go on with")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=whole(1), default=5)
    parser.add_argument("--epochs", type=whole(1), help="default: those of atat finetune")
    args = parser.parse(sys.argv[1:])
    check_writable(args.out, "--out")
    how: dict[str, Any] = {} if args.epochs is None else {"epochs": args.epochs}
    stored = read_or_begin(args.out, "benchmarks.glue", {"seeds": args.seeds, **how})
    for run in args.runs:
        lm = load_lm(run)
        for task in args.tasks:
            what = {"run": name_of(run), "weights": lm.fingerprint(), "task": task}
            if is_stored(stored, what, args.out):
                continue
            result = finetune(lm, task=task, data=args.data, seeds=args.seeds, keep_classifier=False, **how)
            metrics = {
                name: {
                    "values": list(found.values),
                    "standard_error": found.standard_error,
                    "baseline": found.baseline,
                }
                for name, found in result.metrics.items()
            }
            about = result.record()
            kept = {name: about[name] for name in ("settings", "num_train", "num_dev", "elapsed_s")}
            stored["points"].append({**what, "metrics": metrics, **kept})
            write_json(args.out, stored)
    show(stored["points"])


if __name__ == "__main__":
    sys.exit(exit_code(main))
