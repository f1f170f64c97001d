"""The routes of the server."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, TypeVar

from aiohttp import web

from mdlm_atat.serve.answers import Shown
from mdlm_atat.serve.completions import Completion
from mdlm_atat.serve.events import EventStream, as_json, plain
from mdlm_atat.serve.guard import HEADERS, Guard
from mdlm_atat.serve.jobs import Job, Tell
from mdlm_atat.serve.mailbox import Done, Failed, Framed, Mailbox, Queued, Started
from mdlm_atat.serve.mistakes import RequestError
from mdlm_atat.serve.openapi import openapi
from mdlm_atat.serve.requests import (
    ClassifyRequest,
    CompletionRequest,
    GenerateRequest,
    InfillRequest,
    Request,
    Sampled,
    ScoreRequest,
    parse_json,
    read_request,
)
from mdlm_atat.serve.service import Service
from mdlm_atat.serve.worker import Worker
from mdlm_atat.terminal import printable, steers

PAGE_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}
BODY_TIMEOUT_S = 30
MAX_SEED_DRAWN = 2**31
BYTES_OF_A_CHARACTER = 12  # two \uXXXX
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
R = TypeVar("R", bound=Request)


class Server:
    """A service behind its routes."""

    def __init__(self, service: Service, worker: Worker, guard: Guard, *, log_texts: bool = False) -> None:
        self._service, self._worker, self._guard, self._log_texts = service, worker, guard, log_texts
        self._created = int(time.time())
        self._openapi = as_json(openapi(with_classifier=service.classifier is not None))

    def app(self) -> web.Application:
        """The routes as an application of aiohttp."""
        most = BYTES_OF_A_CHARACTER * self._service.limits.max_characters + 2**16
        app = web.Application(middlewares=[self._guarded], client_max_size=most)
        get, post = app.router.add_get, app.router.add_post
        get("/health", self.health)
        get("/openapi.json", self.openapi)
        get("/v1/model", self.model)
        get("/v1/models", self.models)
        post("/v1/infill", self.infill)
        post("/v1/generate", self.generate)
        post("/v1/score", self.score)
        post("/v1/classify", self.classify)
        post("/v1/completions", self.completions)
        get("/", self.page)
        get(r"/{name:[\w-]+\.[a-z]+}", self.page)
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._close)
        return app

    async def page(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name", "index.html")
        kind = PAGE_TYPES.get("." + name.rpartition(".")[2])
        file = files("mdlm_atat.serve").joinpath("page", name)
        if kind is None or not file.is_file():
            raise web.HTTPNotFound
        charset = "utf-8" if kind.startswith("text/") else None
        return web.Response(body=file.read_bytes(), content_type=kind, charset=charset)

    async def health(self, request: web.Request) -> web.StreamResponse:
        del request
        return answered({"status": "ok", "active": self._worker.num_active, "queued": self._worker.num_queued})

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(text=self._openapi, content_type="application/json")

    async def model(self, request: web.Request) -> web.StreamResponse:
        del request
        return answered(self._service.describe())

    async def models(self, request: web.Request) -> web.StreamResponse:
        del request
        model = {"id": self._service.name, "object": "model", "created": self._created, "owned_by": "mdlm-atat"}
        return answered({"object": "list", "data": [model]})

    async def infill(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request, InfillRequest)
        seed = seed_of(body.seed)
        return await self._texts(request, body, seed, lambda tell: self._service.infill(body, seed, tell))

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request, GenerateRequest)
        seed, max_tokens = seed_of(body.seed), self._service.max_tokens_of(body)
        return await self._texts(
            request, body, seed, lambda tell: self._service.generate(body, seed, max_tokens, tell), max_tokens
        )

    async def score(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request, ScoreRequest)
        return await self._called(request, lambda tell: self._service.score(body, tell))

    async def classify(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request, ClassifyRequest)
        return await self._called(request, lambda tell: self._service.classify(body, tell))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request, CompletionRequest)
        seed = seed_of(body.seed)
        completion = Completion(self._service, body, self._created)
        mailbox = Mailbox()
        jobs = [
            self._service.complete(body, number, seed, lambda event, number=number: mailbox.put(event, number))
            for number in range(len(body.prompts))
        ]
        stream = EventStream(request, has_names=False) if body.stream else None
        async with self._working(jobs), self._telling_mistakes(stream):
            left = len(jobs)
            while left:
                number, event = await mailbox.get()
                match event:
                    case Failed(error):
                        raise self._mistake(error)
                    case Done():
                        left -= 1
                        chunks = completion.done(number, event)
                    case Framed():
                        chunks = completion.frame(number, event)
                    case _:
                        chunks = []
                if stream is not None:
                    for chunk in chunks:
                        await stream.send(chunk)
        if stream is None:
            whole = completion.whole()
            self._log(request, whole)
            return answered(whole)
        if not stream.has_failed:
            await stream.send("[DONE]")
        return await stream.close()

    async def _texts(
        self,
        request: web.Request,
        body: Sampled,
        seed: int,
        make: Callable[[Tell], Job],
        max_tokens: int | None = None,
    ) -> web.StreamResponse:
        """Answer with texts, all at once or with each step of the first of them."""
        mailbox = Mailbox()
        job = make(mailbox.put)
        stream = EventStream(request) if body.stream else None
        shown: Shown | None = None
        seen = 0
        async with self._working([job]), self._telling_mistakes(stream):
            while True:
                _, event = await mailbox.get()
                match event:
                    case Done():
                        texts = self._service.answer(body, seed, event, max_tokens=max_tokens)
                        self._log(request, texts)
                        if stream is None:
                            return answered(texts)
                        await stream.send(texts, "result")
                        break
                    case Failed(error):
                        raise self._mistake(error)
                    case _ if stream is None:
                        continue
                    case Queued():
                        await stream.send(event, "queued")
                    case Started(num_steps):
                        await stream.send({"seed": seed, "num_steps": num_steps}, "start")
                    case Framed(_, frame):
                        if shown is None:
                            assert frame.row is not None
                            shown = Shown(self._service.lm.tokenizer, frame.row)
                        num_kept = self._service.stopped_at(body, frame)
                        await stream.send(shown.frame(frame, seen, num_kept), "frame")
                        seen = frame.step
        assert stream is not None
        await stream.send({}, "end")
        return await stream.close()

    async def _called(self, request: web.Request, make: Callable[[Tell], Job]) -> web.StreamResponse:
        """Answer with what one call of the model gives."""
        mailbox = Mailbox()
        async with self._working([make(mailbox.put)]):
            while True:
                _, event = await mailbox.get()
                if isinstance(event, Failed):
                    raise self._mistake(event.error)
                if isinstance(event, Done):
                    self._log(request, event.value)
                    return answered(event.value)

    @asynccontextmanager
    async def _working(self, jobs: Sequence[Job]) -> AsyncIterator[None]:
        """The jobs are in the queue, and leave the model at the end of the block: also where the client has left."""
        try:
            for job in jobs:
                self._worker.submit(job)
            yield
        finally:
            for job in jobs:
                self._worker.drop(job)

    @asynccontextmanager
    async def _telling_mistakes(self, stream: EventStream | None) -> AsyncIterator[None]:
        """A mistake, ours too, ends the block and is told in the stream, if there is one: no other answer can be given
        once it has begun."""
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):  # the client has left
            raise
        except Exception as error:
            if stream is None:
                raise
            found = error if isinstance(error, RequestError) else self._mistake(error)
            await stream.fail(found.body())

    async def _read(self, request: web.Request, kind: type[R]) -> R:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await request.read()
        except TimeoutError as error:
            raise RequestError(f"the body did not come within {BODY_TIMEOUT_S} seconds") from error
        found = read_request(kind, parse_json(body))
        self._service.check(found)
        if self._log_texts:
            self._log(request, found)
        return found

    def _mistake(self, error: BaseException) -> RequestError:
        """What went wrong as the client hears of it. What is our fault is shown in the terminal, without what the error
        says: that may hold text."""
        found = RequestError.of(error)
        if found.status == 500:
            lines = traceback.format_tb(error.__traceback__)
            last = str(error) if self._log_texts else "what it says may hold text, and is shown with --log_texts only"
            print("".join(lines) + f"{type(error).__name__}: {printable(last)}", file=sys.stderr, flush=True)
        return found

    def _log(self, request: web.Request, content: Any) -> None:
        if self._log_texts:
            line = {"time": round(time.time(), 3), "path": request.path, "content": plain(content)}
            print(for_terminal(json.dumps(line, ensure_ascii=False)), file=sys.stderr, flush=True)

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let through what is allowed, and answer every mistake in JSON."""
        try:
            self._guard.check(request, is_page=handler == self.page)
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            found = RequestError(error.reason, status=error.status if error.status in (404, 405, 413) else 400)
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return answered(found.body(), found.status, allow)
        except RequestError as error:
            more = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
            more |= {"Retry-After": "1"} if error.status == 429 else {}
            return answered(error.body(), error.status, more)
        except (asyncio.CancelledError, ConnectionError):  # the client has left
            raise
        except Exception as error:
            return answered(self._mistake(error).body(), 500)

    async def _close(self, app: web.Application) -> None:
        del app
        await asyncio.to_thread(self._worker.close)


def seed_of(seed: int | None) -> int:
    """The seed that was asked for, else one of chance."""
    return secrets.randbelow(MAX_SEED_DRAWN) if seed is None else seed


def answered(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(text=as_json(value), status=status, content_type="application/json", headers=headers)


def for_terminal(text: str) -> str:
    r"""JSON with what a terminal obeys as \u escapes: those from U+007F on, which JSON may hold as they are."""
    return "".join(f"\\u{ord(char):04X}" if steers(char) else char for char in text)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    response.headers.update(HEADERS)
