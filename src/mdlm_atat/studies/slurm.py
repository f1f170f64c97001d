"""Write a SLURM job array that runs a grid, with one task for each run, and submit it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mdlm_atat.atomic import make_folder, write_text
from mdlm_atat.errors import UserError

SCRIPT = "slurm.sh"
# `wait` returns at a signal too: the task is over when it is not there any more
REQUEUEING = """\
# A task is told (TERM) two minutes before its time is over, or when its place goes to another job: it ends with a
# checkpoint, is queued again and goes on from there. A job that was cancelled is not running any more, and stays so.
{command} &
task=$!
trap 'kill -TERM "$task" 2> /dev/null' TERM
while wait "$task"; code=$?; kill -0 "$task" 2> /dev/null; do :; done
if [ "$code" = 143 ] && scontrol show job "$SLURM_JOB_ID" | grep -q JobState=RUNNING; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def write_array_script(
    folder: Path,
    name: str,
    tasks: Sequence[int],
    *,
    options: Sequence[str],
    at_once: int | None,
    done: Path | None = None,
) -> Path:
    """Write FOLDER/slurm.sh, whose task i, one of `tasks`, runs `atat experiment run FOLDER --task i`, with `--done`
    where a file is given. Returns its path.

    `options` are given to sbatch as they are. They come last, so that they win over the script's own. `at_once` limits
    the number of tasks that run at the same time. Raises UserError for an option that cannot be one of sbatch.
    """
    for option in options:
        if not option.startswith("-") or "\n" in option:
            raise UserError(f"{option!r} is no option of sbatch; expected e.g. --time=4:00:00")
    here, home = Path.cwd(), folder.resolve()
    limit = "" if at_once is None else f"%{at_once}"
    elsewhere = "" if done is None else f"--done {shlex.quote(str(done.resolve()))} "
    command = (
        f"{shlex.quote(sys.executable)} -m mdlm_atat experiment run {shlex.quote(str(home))} {elsewhere}"
        '--task "$SLURM_ARRAY_TASK_ID"'
    )
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --array={_ranges(tasks)}{limit}",
        f"#SBATCH --output={home}/logs/slurm-%A_%a.txt",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:TERM@120",
        *(f"#SBATCH {option}" for option in options),
        f"cd {shlex.quote(str(here))} || exit 1",
        REQUEUEING.format(command=command),
    ]
    make_folder(folder / "logs")
    script = folder / SCRIPT
    write_text(script, "\n".join(lines))
    mode = script.stat().st_mode
    script.chmod(mode | (mode & 0o444) >> 2)  # whoever may read it may run it
    return script


def _ranges(tasks: Sequence[int]) -> str:
    """`0-3,7` for the tasks 0, 1, 2, 3 and 7."""
    runs: list[list[int]] = []
    for task in tasks:
        if runs and runs[-1][-1] == task - 1:
            runs[-1].append(task)
        else:
            runs.append([task])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def submit(script: Path) -> str:
    """Hand the script to sbatch. Returns the number of the job. Raises UserError where sbatch is missing or refuses."""
    if shutil.which("sbatch") is None:
        raise UserError(
            f"there is no sbatch on this machine; the script is written: submit it where there is: {script}"
        )
    found = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise UserError(f"sbatch refused {script}: {found.stderr.strip() or 'it said nothing'}")
    return found.stdout.strip().partition(";")[0]
