"""What a client does not wait for any more, the model does not do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import Client, Slow, served

from lm.made_models import two_way_lm

STEP_S = 0.05


@pytest.fixture
def slow() -> Slow:
    return Slow(two_way_lm(letters="abcdefgh .", length=64), STEP_S)


@pytest.fixture
def client(slow: Slow) -> Iterator[Client]:
    with served(slow.lm) as client:
        yield client


def read_events(connection: socket.socket, number: int) -> bytes:
    got = b""
    while got.count(b"\ndata:") < number:
        part = connection.recv(65536)
        assert part, "the stream has ended"
        got += part
    return got


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/infill", {"text": "a[MASK:60]b", "sampler": "left_to_right", "stream": True}),
        ("/v1/generate", {"max_tokens": 60, "stream": True}),
        ("/v1/completions", {"max_tokens": 60, "stream": True}),
    ],
)
def test_a_stream_that_is_closed_after_two_events_frees_the_model_within_a_second(
    path: str, body: dict[str, object], client: Client, slow: Slow
):
    if path != "/v1/infill":
        slow.lm._steps = None  # whose reading is not counted here
    connection = client.open(path, body)
    read_events(connection, 2)
    connection.close()
    assert client.wait_until(lambda: client.is_idle) < 1
    assert slow.num_evaluations < 30
    before = slow.num_evaluations
    assert client.infill("a[MASK]b").status == 200
    assert slow.num_evaluations - before <= 2


def test_a_request_that_is_not_streamed_and_closed_frees_the_model_within_a_second(client: Client):
    connection = client.open("/v1/infill", {"text": "a[MASK:60]b", "sampler": "left_to_right"})
    client.wait_until(lambda: client.worker.num_active == 1)
    connection.close()
    assert client.wait_until(lambda: client.is_idle) < 1


def test_closing_while_the_lengths_of_gaps_are_chosen_frees_the_model_within_a_second(client: Client, slow: Slow):
    for more in ({}, {"stream": True}):
        connection = client.open("/v1/infill", {"text": "a[MASK:2-30]b[MASK:2]cc", "length_draws": 64, **more})
        client.wait_until(lambda: client.worker.num_active == 1)
        start = slow.num_evaluations
        client.wait_until(lambda start=start: slow.num_evaluations > start + 1)
        connection.close()
        assert client.wait_until(lambda: client.is_idle) < 1


def test_closing_while_it_waits_leaves_the_queue_at_once(client: Client, slow: Slow):
    may_go = client.hold()
    connections = [client.open("/v1/infill", {"text": "a[MASK:9]b", "stream": number % 2 == 0}) for number in range(6)]
    client.wait_until(lambda: client.worker.num_queued == 6)
    for connection in connections:
        connection.close()
    assert client.wait_until(lambda: client.worker.num_queued == 0) < 1
    may_go.set()
    client.wait_until(lambda: client.is_idle)
    assert slow.num_evaluations == 0


def test_a_score_that_nobody_waits_for_ends_between_two_batches_of_draws(client: Client):
    connection = client.open("/v1/score", {"texts": ["a bad face."], "order": "any", "num_draws": 4096})
    client.wait_until(lambda: client.worker.num_active == 1)
    connection.close()
    assert client.wait_until(lambda: client.is_idle) < 2


def test_of_two_requests_in_one_batch_one_may_leave_and_the_other_gets_its_text(client: Client, slow: Slow):
    alone = client.infill("a[MASK:20]b", sampler="left_to_right", seed=2).json["results"][0]["text"]
    may_go = client.hold()
    leaving = client.open("/v1/infill", {"text": "b[MASK:20]a", "sampler": "left_to_right", "stream": True})
    with ThreadPoolExecutor(1) as pool:
        staying = pool.submit(client.infill, "a[MASK:20]b", sampler="left_to_right", seed=2)
        client.wait_until(lambda: client.worker.num_queued == 2)
        may_go.set()
        read_events(leaving, 3)
        assert client.worker.num_active == 2
        leaving.close()
        assert client.wait_until(lambda: client.worker.num_active == 1) < 0.4
        assert not staying.done()
        assert staying.result().json["results"][0]["text"] == alone


def test_those_who_wait_hear_how_many_are_ahead(client: Client):
    may_go = client.hold()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.infill, "a[MASK:2]b", stream=True)
        client.wait_until(lambda: client.worker.num_queued == 1)
        other = pool.submit(client.infill, "a[MASK:3]b", stream=True)
        client.wait_until(lambda: client.worker.num_queued == 2)
        may_go.set()
        queued = [[data["ahead"] for name, data in each.result().events if name == "queued"] for each in (first, other)]
    assert queued[0][0] == 1
    assert queued[1] == [2, 1]


def test_the_first_event_comes_long_before_the_last_token_and_is_not_compressed(client: Client, slow: Slow):
    connection = client.open("/v1/infill", {"text": "a[MASK:40]b", "sampler": "left_to_right", "stream": True})
    head = read_events(connection, 2)
    assert slow.num_evaluations < 20
    assert b"content-encoding" not in head.lower()
    assert b"text/event-stream; charset=utf-8" in head
    connection.close()


@pytest.mark.slow
def test_work_that_takes_too_long_is_stopped_and_said_to_be(slow: Slow):
    with served(slow.lm, max_seconds=1) as client:
        long = {"sampler": "left_to_right"}
        refused = client.infill("a[MASK:60]b", **long)
        assert (refused.status, refused.mistake["type"]) == (413, "too_large")
        assert "stopped after 1 seconds" in refused.mistake["message"]
        name, data = client.infill("a[MASK:60]b", stream=True, **long).events[-2]
        assert (name, data["error"]["type"]) == ("error", "too_large")
        choosing = client.infill("a[MASK:2-30]b[MASK:2]cc", length_draws=64)
        assert choosing.status == 413
        assert client.infill("a[MASK:2]b").status == 200
        assert slow.num_evaluations < 100


def test_the_end_of_the_server_is_told_to_those_who_wait(slow: Slow):
    with served(slow.lm) as client, ThreadPoolExecutor(3) as pool:
        long = {"sampler": "left_to_right"}
        asked = [pool.submit(client.infill, "a[MASK:60]b", stream=stream, **long) for stream in (False, True)]
        client.wait_until(lambda: client.worker.num_active >= 1)
        client.wait_until(lambda: client.worker.num_active + client.worker.num_queued == 2)
        pool.submit(lambda: None).result()
        threading.Thread(target=client.worker.close).start()
        plain, streamed = (each.result() for each in asked)
        assert (plain.status, plain.mistake["type"]) == (503, "shutting_down")
        assert [name for name, _ in streamed.events[-2:]] == ["error", "end"]
        assert client.infill("a[MASK]b").status == 503


def test_a_full_queue_refuses_and_empties():
    slow = Slow(two_way_lm(letters="abc", length=16), 0.01)
    with served(slow.lm, max_queue=2) as client, ThreadPoolExecutor(4) as pool:
        may_go = client.hold()
        asked = [pool.submit(client.infill, "a[MASK:3]b", seed=1) for _ in range(2)]
        client.wait_until(lambda: client.worker.num_queued == 2)
        refused = client.infill("a[MASK:3]b")
        assert (refused.status, refused.mistake["type"], refused.headers["Retry-After"]) == (429, "queue_full", "1")
        assert client.complete(["a", "b"]).status == 429
        may_go.set()
        assert [each.result().status for each in asked] == [200, 200]
        assert client.infill("a[MASK:3]b").status == 200
