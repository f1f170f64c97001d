"""`atat serve` as a process: what it prints, and how it ends."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from mdlm_atat.cli.main import main
from mdlm_atat.serve.server import PORT, address, listen
from processes import Started

URL = re.compile(r"serving (.*) at (http://([\w.\[\]:-]+):(\d+)/(#token=(\S+))?) \(Ctrl-C ends it\)\n")


def started(*flags: str, port: str = "0") -> tuple[Started, re.Match[str]]:
    process = Started(["serve", *flags, "--port", port])
    deadline = time.monotonic() + 60
    while (found := URL.fullmatch(process.output_so_far)) is None:
        assert time.monotonic() < deadline, process.output_so_far
        time.sleep(0.02)
    return process, found


def asked(port: int, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET" if body is None else "POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_prints_one_line_answers_and_ends_cleanly_in_the_middle_of_a_stream(number: signal.Signals, runs: Path):
    process, found = started(str(runs / "masked"))
    assert found[1] == str(runs / "masked")
    port = int(found[4])
    assert asked(port, "/v1/infill", {"text": "the [MASK:3] sat", "seed": 1})[0] == 200
    with socket.create_connection(("127.0.0.1", port), timeout=30) as stream:
        body = json.dumps({"text": "the [MASK:2-16] sat", "stream": True, "sampler": "left_to_right"})
        stream.sendall(
            f"POST /v1/infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(30) == 0
    assert process.errors == ""
    assert URL.fullmatch(process.output)


def test_other_machines_are_let_in_by_a_token_that_is_made_and_printed(runs: Path):
    process, found = started(str(runs / "causal"), "--host", "0.0.0.0")
    port, token = int(found[4]), found[6]
    assert found[3] == socket.gethostname()
    assert len(token) >= 32
    assert asked(port, "/v1/model")[0] == 401
    status, model = asked(port, "/v1/model", Authorization=f"Bearer {token}")
    assert (status, model["modes"]) == (200, ["causal"])
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert token not in process.errors


def test_a_port_that_is_taken_is_refused_and_the_next_one_found_where_none_is_named(
    runs: Path, capsys: pytest.CaptureFixture[str]
):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is taken: choose another" in refused(
            ["serve", str(runs / "masked"), "--port", str(port)], capsys
        )
    with listen("127.0.0.1", None) as first, listen("127.0.0.1", None) as second:
        ports = [each.getsockname()[1] for each in (first, second)]
    assert PORT <= ports[0] < ports[1] < PORT + 100


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "203.0.113.9"], "cannot listen at 203.0.113.9"),
        (["--host", "1.2.3.4.5"], "there is no host 1.2.3.4.5"),
        (["--token", ""], "--token is empty"),
        (["--token", " a"], "--token may have letters, digits and signs of ASCII"),
        (["--token", "clé"], "--token may have letters, digits and signs of ASCII"),
        (["--tls_cert", "a.crt"], "--tls_cert a.crt needs --tls_key too"),
        (["--tls_cert", "a.crt", "--tls_key", "a.key"], "--tls_cert a.crt: there is no such file"),
        (["--classifier", "nosuch"], "there is no folder nosuch"),
        (["--max_texts", "0"], "--max_texts is 0"),
        (["--prot", "1"], "unknown flag; did you mean --port?"),
    ],
)
def test_mistakes_end_in_one_message(flags: list[str], message: str, runs: Path, capsys: pytest.CaptureFixture[str]):
    assert message in refused(["serve", str(runs / "masked"), *flags], capsys)


def test_the_address_of_the_page_has_the_token_behind_its_hash():
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        assert address(sock) == f"http://127.0.0.1:{port}/"
        assert address(sock, "a/b c") == f"http://127.0.0.1:{port}/#token=a%2Fb%20c"


def test_help_names_every_limit(capsys: pytest.CaptureFixture[str]):
    assert main(["serve", "--help"]) == 0
    out = capsys.readouterr().out
    for flag in (
        "--max_tokens",
        "--max_texts",
        "--max_seconds",
        "--max_characters",
        "--max_queue",
        "--token",
        "--host",
    ):
        assert flag in out
