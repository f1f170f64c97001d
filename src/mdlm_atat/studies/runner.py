"""Train the runs of a grid that are not done yet, several at a time. A run that fails does not stop the others."""

from __future__ import annotations

import platform
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mdlm_atat.formats import duration, with_error
from mdlm_atat.locks import Lock, try_lock
from mdlm_atat.provenance import num_cores
from mdlm_atat.studies.jobs import Job, run_config, train_words
from mdlm_atat.studies.planning import Plan, planned_steps
from mdlm_atat.studies.processes import last_lines, start_command, stop_commands
from mdlm_atat.studies.results import stored_runs
from mdlm_atat.studies.run_record import differs_from_plan, planned_record
from mdlm_atat.studies.run_state import (
    Attempt,
    check_same_run,
    final_evaluation,
    has_begun,
    is_done,
    lock_file,
    log_file,
    read_attempts,
    write_attempts,
)

POLL_S = 0.1
OTHERS_POLL_S = 2.0  # between two looks at runs that another runner holds
Outcome = Literal["done", "failed", "skipped", "interrupted"]


@dataclass(frozen=True)
class Child:
    """A run that is being trained."""

    job: Job
    process: subprocess.Popen[bytes]
    lock: Lock
    device: str
    num_steps: int


@dataclass
class Runner:
    """Starts runs on the devices of this machine. Runners on other machines may work on the same folder."""

    folder: Path
    plan: Plan
    devices: Sequence[str]
    num_processes: int
    stop: list[int]
    """Signals heard: not empty, runs are ended with their checkpoints; twice Ctrl-C, at once."""
    say: Callable[[str], None]
    on_change: Callable[[], None]
    """Called after a run has started or ended."""
    on_wait: Callable[[], None] = lambda: None
    """Called several times a second."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def run(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        """Train every job, or wait until another runner has. Returns the outcome of each by its name."""
        started_s = time.time()
        waiting, children = list(jobs), list[Child]()
        next_look_s = 0.0
        told_of_others = False
        try:
            while (waiting or children) and not self.stop:
                for child in [child for child in children if child.process.poll() is not None]:
                    children.remove(child)
                    self._ended(child, interrupted=False)
                if waiting and len(children) < self.num_processes and time.monotonic() >= next_look_s:
                    child = self._start_next(waiting, children, started_s)
                    if child is not None:
                        children.append(child)
                        self.on_change()
                    elif waiting:
                        next_look_s = time.monotonic() + OTHERS_POLL_S
                        if not told_of_others:
                            told_of_others = True
                            self.say(f"another runner has {', '.join(job.name for job in waiting)}")
                self.on_wait()
                time.sleep(POLL_S)
        finally:
            if children:
                self._interrupt(children)
        return self.outcomes

    def give_up(self, job: Job, reason: str) -> None:
        """Store that a job failed before it could be started."""
        now_s = time.time()
        attempt = Attempt(
            started=now_s,
            ended=now_s,
            exit_code=None,
            outcome="failed",
            last_lines=reason.split("\n"),
            host=platform.node(),
            device="none",
        )
        write_attempts(self.folder, job, [*read_attempts(self.folder, job), attempt])
        self.outcomes[job.name] = "failed"

    def _start_next(self, waiting: list[Job], children: Sequence[Child], started_s: float) -> Child | None:
        """Start the first job that is neither done nor held by another runner; None where there is none.

        Jobs that are started or done are removed from `waiting`.
        """
        for job in list(waiting):
            lock = try_lock(lock_file(self.folder, job))
            if lock is None:
                continue
            waiting.remove(job)
            child = None
            try:
                child = self._start(job, lock, children, started_s)
            finally:
                if child is None:
                    lock.release()
            if child is not None:
                return child
        return None

    def _start(self, job: Job, lock: Lock, children: Sequence[Child], started_s: float) -> Child | None:
        num_steps = planned_steps(job, self.plan)
        assert num_steps is not None
        run = self.folder / job.folder
        config = run_config(job, num_steps)
        if has_begun(run):
            check_same_run(run, config)
        attempts = read_attempts(self.folder, job)
        if is_done(run, num_steps, self.plan[job.variant.key]["data"]):
            self.outcomes[job.name] = "skipped"
            self.say(f"done       {job.name}: there already")
            return None
        stored, data = stored_runs(self.folder), self.plan[job.variant.key]["data"]
        if (kept := planned_record(stored, job, num_steps, data)) is not None:
            self.outcomes[job.name] = "skipped"
            if not kept.get("elsewhere"):  # those are told together, before the first run
                self.say(f"done       {job.name}: results.json holds it; its folder is gone")
            return None
        for other in stored.get(str(job.folder), ())[:1]:
            where, differing = other.get("elsewhere") or "results.json", differs_from_plan(other, job, num_steps, data)
            self.say(f"anew       {job.name}: {where} holds it with {'; '.join(differing)}")
        if attempts and attempts[-1].failed and (attempts[-1].ended or 0) > started_s:
            self.outcomes[job.name] = "failed"  # another runner tried it while this one worked
            return None
        words = ["train", "--resume", str(run)]
        if not has_begun(run):
            if run.exists():  # killed before its first step: nothing in it can be continued
                shutil.rmtree(run)
            words = train_words(job.variant, {"train.seed": job.seed, "train.num_steps": num_steps}, run)
        busy = Counter(dict.fromkeys(self.devices, 0))
        busy.update(child.device for child in children)
        device = min(self.devices, key=lambda name: busy[name])
        attempt = Attempt(
            started=time.time(),
            ended=None,
            exit_code=None,
            outcome=None,
            last_lines=[],
            host=platform.node(),
            device=device,
        )
        write_attempts(self.folder, job, [*attempts, attempt])
        process = start_command(
            words,
            log_file(self.folder, job),
            device=device,
            num_threads=cpu_threads(self.num_processes),
            keep_open=[lock.descriptor],
        )
        self.say(f"{'continue' if words[1] == '--resume' else 'start':10} {job.name}: {num_steps:,} steps on {device}")
        return Child(job, process, lock, device, num_steps)

    def _ended(self, child: Child, *, interrupted: bool) -> None:
        job, code = child.job, child.process.returncode
        run, data = self.folder / job.folder, self.plan[job.variant.key]["data"]
        try:
            done = is_done(run, child.num_steps, data)
            lines = last_lines(log_file(self.folder, job))
            outcome = "done" if done else "interrupted" if interrupted else "failed"
            *before, attempt = read_attempts(self.folder, job)
            now_s = time.time()
            ended = replace(attempt, ended=now_s, exit_code=code, outcome=outcome, last_lines=lines)
            write_attempts(self.folder, job, [*before, ended])
        finally:
            child.lock.release()
        self.outcomes[job.name] = outcome
        if outcome == "done":
            final = final_evaluation(run, child.num_steps, data)
            assert final is not None
            self.say(
                f"done       {job.name}: {with_error(final.own_bound.nats_per_token)} nats per token, "
                f"{duration(now_s - attempt.started)}"
            )
        elif outcome == "failed":
            said = lines[-1] if lines else "it said nothing"
            self.say(f"FAILED     {job.name}: exit code {code}; {said}")
        self.on_change()

    def _interrupt(self, children: Sequence[Child]) -> None:
        self.say(f"stopping {len(children)} runs with their checkpoints; Ctrl-C again: at once, without")
        stop_commands([child.process for child in children], at_once=lambda: self.stop.count(signal.SIGINT) > 1)
        with ExitStack() as ends:  # each of them, also where another's end cannot be written down
            for child in reversed(children):
                ends.callback(self._ended, child, interrupted=True)


def cpu_threads(num_processes: int) -> int:
    """The number of cores for each of so many processes, at least 1."""
    return max(1, num_cores() // num_processes)
