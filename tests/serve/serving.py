"""A server of the tests, in a thread of its own, and clients of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_atat import CausalLM, MaskedDiffusionLM
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.finetuning.classifier import TextClassifier
from mdlm_atat.lm import LanguageModel
from mdlm_atat.serve.app import Server
from mdlm_atat.serve.guard import Guard
from mdlm_atat.serve.jobs import Call
from mdlm_atat.serve.limits import Limits
from mdlm_atat.serve.repeat import ModelNamed
from mdlm_atat.serve.server import listen, serving
from mdlm_atat.serve.service import Service
from mdlm_atat.serve.worker import Worker

NAMED = ModelNamed(["runs/toy"], "lm")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def mistake(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def events(self) -> list[tuple[str | None, Any]]:
        """Of an event stream: (name, data)."""
        assert self.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        return events_of(self.body)


def events_of(body: bytes) -> list[tuple[str | None, Any]]:
    """Read a stream as a client does that cuts at empty lines, and at nothing else."""
    text = body.decode("ascii")
    assert text.endswith("\n\n")
    found = []
    for block in text[:-2].split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        assert set(lines) <= {"event", "data"}
        data = lines["data"]
        found.append((lines.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found


class Client:
    """Requests to a server, each over a connection of its own."""

    def __init__(self, port: int, worker: Worker | None, trusts: ssl.SSLContext | None = None) -> None:
        """`worker`: that of a server in this process. `trusts`: speak TLS, and trust this."""
        self.port, self._worker, self._trusts = port, worker, trusts

    @property
    def worker(self) -> Worker:
        assert self._worker is not None
        return self._worker

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        if self._trusts is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        else:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=60, context=self._trusts)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, content, {name.replace("_", "-"): value for name, value in headers.items()})

    def infill(self, text: str, **more: Any) -> Answer:
        return self.post("/v1/infill", {"text": text, **more})

    def generate(self, prompt: str = "", **more: Any) -> Answer:
        return self.post("/v1/generate", {"prompt": prompt, **more})

    def complete(self, prompt: Any = "", **more: Any) -> Answer:
        return self.post("/v1/completions", {"prompt": prompt, **more})

    def open(self, path: str, body: Any) -> socket.socket:
        """A connection over which a request was sent, to be read, or closed."""
        content = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip, br\r\nContent-Length: {len(content)}"
        connection.sendall(f"{head}\r\n\r\n".encode() + content)
        return connection

    def hold(self) -> threading.Event:
        """Keep the model busy until the event that is returned is set: requests wait behind it."""
        may_go = threading.Event()
        self.worker.submit(Call(lambda _: None, 60, lambda: may_go.wait(10)))
        self.wait_until(lambda: self.worker.num_active == 1)
        return may_go

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float = 10.0) -> float:
        """Seconds until something is so."""
        start = time.monotonic()
        while not is_so():
            assert time.monotonic() - start < timeout_s, "it never was"
            time.sleep(0.005)
        return time.monotonic() - start

    @property
    def is_idle(self) -> bool:
        return self.get("/health").json == {"status": "ok", "active": 0, "queued": 0}


@contextmanager
def served(
    lm: LanguageModel,
    *,
    token: str | None = None,
    classifier: TextClassifier | None = None,
    named: ModelNamed = NAMED,
    log_texts: bool = False,
    guard: Guard | None = None,
    tls: ssl.SSLContext | None = None,
    trusts: ssl.SSLContext | None = None,
    **limits: int,
) -> Iterator[Client]:
    """Serve a model in this process, and end it."""
    service = Service(lm, named, "toy", "a toy", Limits(**limits), classifier)
    worker = Worker(lm, service.limits, [] if classifier is None else [classifier.lm])
    server = Server(service, worker, guard or Guard("127.0.0.1", token), log_texts=log_texts)
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    started = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        await serving(server.app(), sock, started.set, tls)

    def run_all() -> None:
        try:
            asyncio.run(run())
        except asyncio.CancelledError:
            return

    thread = threading.Thread(target=run_all)
    thread.start()
    assert started.wait(10)
    try:
        yield Client(port, worker, trusts)
    finally:
        loop, task = running[0]
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)
        assert not thread.is_alive()
        assert not worker.is_alive


def causal_by_heart(text: str, tokenizer: Tokenizer) -> CausalLM:
    """A model that writes one text, whatever it is given."""
    table = 99.0 * torch.nn.functional.one_hot(torch.tensor(tokenizer.encode(text)), tokenizer.vocab_size)

    def network(x: Tensor) -> Tensor:
        return table[: x.shape[1]].expand(len(x), -1, -1)

    return CausalLM(network, tokenizer, max_length=len(table))


class Slow:
    """A model whose every evaluation takes a while, and is counted."""

    def __init__(self, lm: MaskedDiffusionLM, seconds: float) -> None:
        self.lm, self.seconds, self.num_evaluations = lm, seconds, 0
        hidden = lm.network.hidden

        def slow(*given: Any, **more: Any) -> Tensor:
            self.num_evaluations += 1
            time.sleep(self.seconds)
            return hidden(*given, **more)

        lm.network.hidden = slow
