"""What runs pay for texts that none of them was trained on.

    python -m benchmarks.zero_shot runs/*/runs/{mdlm,atat}/seed-0 --texts wikitext-2.txt plays.txt --out zero-shot.json

The same as `atat eval RUN --zero-shot TEXT ... --mode wrap`, whose files in the run's folder it writes, for several
runs and in one file. What a run pays for a text is in --out as soon as it is there, and not scored again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.command import exit_code
from benchmarks.points import is_stored, name_of, read_or_begin
from benchmarks.results.zero_shot import zero_shot_rows

from mdlm_atat import load_lm
from mdlm_atat.atomic import check_writable, write_json
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.errors import UserError
from mdlm_atat.runs.zero_shot import evaluate_zero_shot


def main() -> None:
    parser = Parser("python -m benchmarks.zero_shot", __doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--texts", nargs="+", required=True, help="files, or what atat eval --zero-shot takes")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write, and to go on with")
    parser.add_argument("--num_draws", type=whole(32), default=8192)
    args = parser.parse(sys.argv[1:])
    check_writable(args.out, "--out")
    names = {text: Path(text).name.partition(".")[0] for text in args.texts}
    if len(set(names.values())) < len(names):
        raise UserError(f"two --texts have one name: {', '.join(names.values())}; rename a file")
    stored = read_or_begin(args.out, "benchmarks.zero_shot", {"num_draws": args.num_draws, "seed": 0, "mode": "wrap"})
    for run in args.runs:
        lm = load_lm(run)
        for text, name in names.items():
            what = {"run": name_of(run), "weights": lm.fingerprint(), "text": name}
            if is_stored(stored, what, args.out):
                continue
            (found,) = evaluate_zero_shot(lm, [text], mode="wrap", num_draws=args.num_draws).values()
            costs = {"any_order": found if found.is_bound else None, "left_to_right": found.left_to_right}
            numbers = {key: [cost.nats_per_token, cost.standard_error] for key, cost in costs.items() if cost}
            counts = {"num_tokens": found.counts.num_tokens, "corpus_hash": found.text.corpus_hash}
            stored["points"].append({**what, **numbers, **counts})
            write_json(args.out, stored)
    print("\n".join(" | ".join(f"{cell:24}" for cell in row) for row in zero_shot_rows(stored["points"])))


if __name__ == "__main__":
    sys.exit(exit_code(main))
