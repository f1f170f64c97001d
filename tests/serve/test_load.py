"""Many clients at once: none is lost, and memory stays as it is."""

from __future__ import annotations

import gc
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import Client, served

from lm.made_models import two_way_lm
from mdlm_atat.serve.jobs import Call, Fill
from mdlm_atat.serve.mailbox import Mailbox
from processes import Started

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def ask(client: Client, number: int) -> str:
    """One request of many kinds; every ninth leaves in the middle of its stream. Returns what came of it."""
    rng = random.Random(number)
    seed = number % 7
    text = f"the [MASK:{1 + number % 5}] cat {'sat ' * (number % 3)}[MASK:2] a"
    if number % 9 == 8:
        connection = client.open("/v1/generate", {"prompt": "the ", "max_tokens": 8, "stream": True})
        connection.recv(64)
        connection.close()
        return "left"
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/infill", {"text": text, "seed": seed}),
        ("/v1/infill", {"text": text, "seed": seed, "stream": True}),
        ("/v1/infill", {"text": text, "seed": seed, "num_samples": 3, "sampler": "first_hitting"}),
        ("/v1/generate", {"prompt": "the cat"[: number % 8], "max_tokens": 8, "seed": seed}),
        ("/v1/completions", {"prompt": "the ", "max_tokens": 6, "stream": True, "stop": "a"}),
        ("/v1/completions", {"prompt": "the ", "suffix": " a", "max_tokens": 4, "min_tokens": 4, "seed": seed}),
        ("/v1/score", {"texts": ["the cat sat"]}),
        ("/v1/infill", {"text": "no gap"}),
    ]
    path, body = rng.choice(requests)
    answer = client.post(path, body)
    if body.get("text") == "no gap":
        return "refused" if answer.status == 400 else f"{path} {answer.status}"
    is_whole = answer.status == 200 and b'"error":' not in answer.body
    if body.get("stream"):
        is_whole = is_whole and answer.events[-1] in (("end", {}), (None, "[DONE]"))
    return "answered" if is_whole else f"{path} {answer.status} {answer.body[:200]!r}"


def ask_all(client: Client, numbers: range, num_clients: int) -> Counter[str]:
    with ThreadPoolExecutor(num_clients) as pool:
        return Counter(pool.map(lambda number: ask(client, number), numbers))


def num_kept() -> int:
    """Jobs and mailboxes that are still there."""
    gc.collect()
    return sum(type(thing) in (Fill, Call, Mailbox) for thing in gc.get_objects())


@pytest.mark.slow
def test_of_54_requests_of_30_clients_at_once_none_is_lost_and_nothing_of_them_is_kept():
    with served(two_way_lm(letters="the cat sno", length=48)) as client:
        found = ask_all(client, range(54), 30)
        client.wait_until(lambda: client.is_idle)
        client.wait_until(lambda: num_kept() == 0)
    assert set(found) == {"answered", "refused", "left"}
    assert found["left"] == 6


@pytest.mark.large
def test_memory_is_flat_over_2000_requests_of_50_clients_and_none_is_lost(runs: Path):
    process = Started(["serve", str(runs / "masked"), "--port", "0"])
    while "Ctrl-C" not in process.output_so_far:
        time.sleep(0.05)
    client = Client(int(process.output_so_far.rpartition(":")[2].partition("/")[0]), None)
    memory_mb, found, start = [], Counter[str](), time.monotonic()
    for first in range(0, 2000, 250):
        found += ask_all(client, range(first, first + 250), 50)
        client.wait_until(lambda: client.is_idle)
        pages = Path(f"/proc/{process.process.pid}/statm").read_text().split()[1]
        memory_mb.append(int(pages) * PAGE_BYTES / 2**20)
    print(
        f"{found} in {time.monotonic() - start:.0f} s; MB of memory after each 250: {[round(mb) for mb in memory_mb]}"
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert set(found) == {"answered", "refused", "left"}
    assert sum(found.values()) == 2000
    assert memory_mb[-1] - memory_mb[1] < 20
    assert process.errors == ""
