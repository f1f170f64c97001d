"""A server that answers as `atat serve` does, with made words in place of a model's: what the page is tested with."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mdlm_atat.samplers.template import Gap, parse_template

PAGE = Path(__file__).parents[2] / "src" / "mdlm_atat" / "serve" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
WORDS = "dark cold lonely starless quiet winter bitter moonless autumn silent".split()


@dataclass
class Script:
    """What the server does, and what was asked of it."""

    words: list[str] = field(default_factory=lambda: list(WORDS))
    frame_s: float = 0.0
    """Between two steps."""
    held_after: int | None = None
    """Frames after which it waits until `go` is set."""
    go: threading.Event = field(default_factory=threading.Event)
    is_thinking: bool = False
    """It does not begin before `go` is set."""
    ahead: int = 0
    """Requests before each."""
    temperature: float = 1.0
    """What it takes by default."""
    broken_after: int | None = None
    """Frames after which the connection breaks."""
    complaint: tuple[int, str] | None = None
    """Status and message of the answer to any request but for the model."""
    is_last_watched: bool = False
    """The text whose steps were sent is the unlikeliest."""
    warnings: list[str] = field(default_factory=list)
    has_importance: bool = True
    modes: tuple[str, ...] = ("masked", "causal")
    classifier: dict[str, Any] | None = None
    vocab_size: int = 8192
    asked: list[tuple[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    """Authorization of each request for more than a file of the page."""
    cut_off: threading.Event = field(default_factory=threading.Event)
    """Set where a client has gone before the end."""

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.asked if asked == path]

    def model(self) -> dict[str, Any]:
        how = {"sampler": "spread", "steps": None, "temperature": self.temperature, "top_p": 1.0}
        return {
            "name": "stand-in",
            "modes": list(self.modes),
            "parameters": 1_000_000,
            "max_length": 512,
            "tokenizer": {"name": "made", "vocab_size": self.vocab_size},
            "samplers": [
                {"name": "spread", "help": "The most certain tokens first, far from each other."},
                {"name": "ancestral", "help": "T steps through time."},
                {"name": "left_to_right", "help": "Left to right, one token at a time."},
            ],
            "defaults": {"infill": how, "generate": how},
            "limits": {"max_tokens": 512, "max_texts": 16, "max_seconds": 60, "max_characters": 20_000},
            "has_importance": self.has_importance,
            "classifier": self.classifier,
            "about": "A stand-in of 1M parameters: made words, nothing learned.",
        }


def gaps_of(text: str, escape: bool) -> list[str | int]:
    """Given texts and the numbers of tokens of the gaps: of a range, its middle."""
    return [
        (part.shortest + part.longest) // 2 if isinstance(part, Gap) else part
        for part in parse_template(text, escape=escape)
    ]


def result_of(parts: list[str | int], words: list[str], sample: int, seed: int, importance: bool) -> dict[str, Any]:
    pieces: list[dict[str, Any]] = []
    number, step = 0, 0
    for part in parts:
        if isinstance(part, str):
            pieces.append({"text": part, "given": True, "gap": None, "tokens": []})
            continue
        tokens = []
        for place in range(part):
            word = words[(seed + 3 * sample + step) % len(words)]
            step += 1
            tokens.append(
                {
                    "text": word if place == 0 else f" {word}",
                    "confidence": round(0.07 + (step * 0.19) % 0.92, 2),
                    "step": step,
                    "importance": round((step * 0.31) % 1, 2) if importance else None,
                }
            )
        text = "".join(token["text"] for token in tokens)
        pieces.append({"text": text, "given": False, "gap": number, "tokens": tokens})
        number += 1
    fillings = [piece["text"] for piece in pieces if not piece["given"]]
    return {
        "text": "".join(piece["text"] for piece in pieces),
        "pieces": pieces,
        "fillings": fillings,
        "lengths": [part for part in parts if isinstance(part, int)],
        "nats": 20.25 + 1.5 * sample,
        "settled": None,
        "seed": str(seed),
        "nfe": step,
    }


def frame_of(result: dict[str, Any], step: int) -> dict[str, Any]:
    def token(made: dict[str, Any]) -> dict[str, Any]:
        if made["step"] > step:
            return {"text": "░", "state": "hidden", "confidence": None, "importance": made["importance"]}
        return {**made, "state": "new" if made["step"] == step else "final"}

    pieces = [{**piece, "tokens": [token(made) for made in piece["tokens"]]} for piece in result["pieces"]]
    return {"step": step, "pieces": pieces}


class Handler(BaseHTTPRequestHandler):
    script: Script
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def reply(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(content)

    def reply_json(self, content: object, status: int = 200) -> None:
        self.reply(status, json.dumps(content).encode(), "application/json")

    def do_GET(self) -> None:
        self.script.asked.append((self.path, None))
        path = PAGE / (self.path.removeprefix("/") or "index.html")
        if self.path == "/v1/model":
            self.script.tokens.append(self.headers["Authorization"])
            self.reply_json(self.script.model())
        elif path.parent == PAGE and path.suffix in TYPES and path.exists():
            self.reply(200, path.read_bytes(), TYPES[path.suffix])
        else:
            self.reply_json({"error": {"message": "not found", "type": "not_found", "field": None}}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.script.asked.append((self.path, body))
        self.script.tokens.append(self.headers["Authorization"])
        if self.script.complaint is not None:
            status, message = self.script.complaint
            self.reply_json({"error": {"message": message, "type": "UserError", "field": None}}, status)
        elif self.path == "/v1/infill":
            self.make(body, gaps_of(body["text"], body["escape"]), "infill")
        elif self.path == "/v1/generate":
            self.make(body, [part for part in (body["prompt"], body["max_tokens"]) if part], "generate")
        elif self.path == "/v1/score":
            score = {"nats": 41.5, "standard_error": 0.0, "num_tokens": 10, "nats_per_token": 4.15, "is_exact": True}
            self.reply_json({"scores": [{**score, "likelihood": "left to right"}]})
        elif self.path == "/v1/classify":
            assert self.script.classifier is not None
            labels = self.script.classifier["labels"]
            shares = {label: 2.0 ** -(number + 1) for number, label in enumerate(labels)}
            result = {"label": None, "probabilities": shares, "score": 3.25, "is_cut": True}
            if labels:
                result |= {"label": labels[0], "score": None, "is_cut": False}
            self.reply_json({"labels": labels, "results": [result]})
        else:
            self.reply_json({"error": {"message": "not found", "type": "not_found", "field": None}}, 404)

    def make(self, body: dict[str, Any], parts: list[str | int], what: str) -> None:
        seed = 7 if body["seed"] is None else body["seed"]
        results = [
            result_of(parts, self.script.words, sample, seed, body["importance"])
            for sample in range(body["num_samples"])
        ]
        answer = {
            "id": "1",
            "seed": seed,
            "results": results[::-1] if self.script.is_last_watched else results,
            "watched": len(results) - 1 if self.script.is_last_watched else 0,
            "warnings": self.script.warnings,
            "repeat": {"command": f"atat {what} --seed {seed}", "python": f"lm.{what}(seed={seed})"},
            "elapsed_s": 0.4,
        }
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.send("queued", {"ahead": self.script.ahead})
            while self.script.is_thinking and not self.script.go.wait(0.02):
                self.send("queued", {"ahead": self.script.ahead})
            self.send("start", {"seed": seed, "num_steps": results[0]["nfe"]})
            for step in range(results[0]["nfe"] + 1):
                if step == self.script.broken_after:
                    return
                if step == self.script.held_after:
                    while not self.script.go.wait(0.02):
                        self.send("queued", {"ahead": 0})
                self.send("frame", frame_of(results[0], step))
                time.sleep(self.script.frame_s)
            self.send("result", answer)
            self.send("end", {})
        except OSError:
            self.script.cut_off.set()

    def send(self, event: str, data: object) -> None:
        self.wfile.write(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode("ascii"))


class StandIn:
    """The server, on a port of its own, until `close`."""

    def __init__(self) -> None:
        self.script = Script()
        handler = type("ScriptedHandler", (Handler,), {"script": self.script})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.script.go.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
