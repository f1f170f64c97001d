"""The one thread that asks the model: jobs wait for it in a queue, and texts that can be filled together are."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from mdlm_atat.device import explain_out_of_memory
from mdlm_atat.lm import LanguageModel
from mdlm_atat.lm.filling import Filling
from mdlm_atat.serve.jobs import Call, Dropped, Fill, Job, heard
from mdlm_atat.serve.limits import Limits
from mdlm_atat.serve.mistakes import RequestError

CLOSE_TIMEOUT_S = 10.0


class Worker:
    """Does jobs one after the other, but for texts of several requests with the same settings and lengths: they are
    filled in one batch. A text has a seed of its own, and is the same alone."""

    def __init__(self, lm: LanguageModel, limits: Limits, others: Sequence[LanguageModel] = ()) -> None:
        """`lm` fills texts; jobs that are calls may ask `others` too."""
        self._lm, self._limits, self._models = lm, limits, [lm, *others]
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._is_closing = False
        for each in self._models:
            each.on_evaluation = self.check
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def num_active(self) -> int:
        return len(self._running)

    @property
    def num_queued(self) -> int:
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether its thread has not ended."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Put a job into the queue. Raises RequestError where that is full, and where the server is shutting down."""
        with self._changed:
            if self._is_closing:
                raise RequestError("the server is shutting down", status=503)
            if len(self._waiting) >= self._limits.max_queue:
                raise RequestError(f"{len(self._waiting)} requests are waiting already: try again later", status=429)
            self._waiting.append(job)
            if self._running or len(self._waiting) > 1:
                job.wait_behind(len(self._running) + len(self._waiting) - 1)
            self._changed.notify()

    def drop(self, job: Job) -> None:
        """Nobody waits for a job any more: it leaves the queue at once, or the model within one evaluation."""
        job.cancel()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._tell_places()

    def close(self) -> None:
        """End all jobs, and the thread."""
        with self._changed:
            self._is_closing = True
            for job in [*self._waiting, *self._running]:
                job.fail(RequestError("the server is shutting down", status=503))
            self._waiting.clear()
            self._changed.notify()
        self._thread.join(CLOSE_TIMEOUT_S)
        for each in self._models:
            each.on_evaluation = None

    def check(self) -> None:
        """On the model's thread, raise Dropped where nobody waits for what it is doing."""
        if threading.current_thread() is self._thread and self._running and all(job.is_over for job in self._running):
            raise Dropped

    def _work(self) -> None:
        while self._do_next():  # in a call of its own: nothing of a job is kept while there is none
            self._running = []

    def _do_next(self) -> bool:
        job = self._next()
        if job is None:
            return False
        try:
            self._do(job)
        except Exception as error:  # of ours: the thread goes on
            for each in {job, *self._running}:
                each.fail(error)
        return True

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting and not self._is_closing:
                self._changed.wait()
            if self._is_closing:
                return None
            job = self._waiting.popleft()
            self._running = [job]
            self._tell_places()
            return job

    def _tell_places(self) -> None:
        for ahead, job in enumerate(self._waiting, start=len(self._running)):
            job.wait_behind(ahead)

    def _do(self, job: Job) -> None:
        match job:
            case Call():
                self._attempt(job, lambda: job.end(job.work()))
            case Fill():
                if self._prepare(job):
                    self._fill(job)
            case _:
                raise AssertionError(job)

    def _attempt(self, job: Job, work: Callable[[], object]) -> bool:
        """Do what is one job's alone; what goes wrong is told to that. Returns whether it went well."""
        job.begin()
        try:
            with explain_out_of_memory("ask for fewer or shorter texts"):
                self.check()
                work()
        except Dropped:
            job.give_up()
        except Exception as error:
            job.fail(error)
        else:
            return True
        finally:
            job.pause()
        return False

    def _prepare(self, job: Fill) -> bool:
        return self._attempt(job, lambda: job.prepare(self._lm))

    def _fill(self, first: Fill) -> None:
        """Fill the next texts of a job, and as many of others as go with them."""
        slots = self._slots(first)
        jobs = list(dict.fromkeys(job for job, _ in slots))
        for job in jobs:
            job.begin()
        with self._changed:
            self._running = list(jobs)
            self._tell_places()
        try:
            with explain_out_of_memory("ask for fewer or shorter texts"):
                self._take_steps(slots)
        except Dropped:
            pass
        except Exception as error:
            for job in jobs:
                job.fail(error)
        for job in jobs:
            self._running = [job]
            self._settle(job)
        with self._changed:
            self._waiting += [job for job in jobs if job.waiting and not job.is_over]

    def _settle(self, job: Fill) -> None:
        """A job has no text in the batch any more: answer it, if it has none that waits."""
        job.pause()
        if job.is_over:
            job.give_up()
        elif not job.waiting:
            self._attempt(job, lambda: job.finish(self._lm))

    def _slots(self, first: Fill) -> list[tuple[Fill, int]]:
        """Texts to be filled together, as (job, number)."""
        size = self._limits.batch_size
        slots = [(first, number) for number in first.waiting[:size]]
        with self._changed:
            others = [job for job in self._waiting if isinstance(job, Fill) and job.how == first.how]
        for job in others:
            if len(slots) >= size:
                break
            if job.plan is None and not (job.is_quick and self._prepare(job)):
                if job.is_over:
                    self.drop(job)
                continue
            if job.batch == first.batch and self._leave_queue(job):
                slots += [(job, number) for number in job.waiting[: size - len(slots)]]
        for job, number in slots:
            job.waiting.remove(number)
        return slots

    def _leave_queue(self, job: Job) -> bool:
        with self._changed:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            return True

    def _take_steps(self, slots: list[tuple[Fill, int]]) -> None:
        rows, seeds = [], []
        for job, number in slots:
            assert job.plan is not None
            rows.append(job.plan.rows[number])
            seeds.append(job.plan.seeds[number])
        filling, warned = heard(lambda: Filling(self._lm, rows, slots[0][0].how, seeds))
        for job, _ in slots:
            job.warn(warned)
        left = dict(enumerate(slots))
        for place, (job, number) in left.items():
            job.start(number, filling, place)
        with self._lm.inference():
            for _ in filling:
                for place, (job, number) in list(left.items()):
                    if job.is_over or job.look(number, filling, place):
                        filling.leave(place)
                        del left[place]
                        if all(job is not other for other, _ in left.values()):
                            self._settle(job)  # it need not wait for the others
                            self._running = list(dict.fromkeys(other for other, _ in left.values()))
                if not left:
                    return
        for place, (job, number) in left.items():
            job.take(number, filling, place)
