"""The queue: whose turn it is, and for how long."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import Slow, served

from lm.made_models import two_way_lm


def test_a_request_of_many_texts_lets_others_in_between_its_batches_and_pays_for_its_own_time_alone():
    slow = Slow(two_way_lm(letters="abc", length=16), 0.05)
    with served(slow.lm, batch_size=2) as client, ThreadPoolExecutor(2) as pool:
        may_go = client.hold()
        start, ended = time.monotonic(), {}
        many = pool.submit(client.infill, "a[MASK:3]b", sampler="left_to_right", num_samples=6, seed=1)
        many.add_done_callback(lambda _: ended.update(many=time.monotonic()))
        client.wait_until(lambda: client.worker.num_queued == 1)
        one = pool.submit(client.infill, "a[MASK:12]b", sampler="left_to_right", seed=1)
        one.add_done_callback(lambda _: ended.update(one=time.monotonic()))
        client.wait_until(lambda: client.worker.num_queued == 2)
        may_go.set()
        assert (many.result().status, one.result().status) == (200, 200)
    assert ended["one"] < ended["many"]
    total_s, own_s = ended["many"] - start, many.result().json["elapsed_s"]
    assert own_s >= 9 * 0.05
    assert total_s - own_s >= 12 * 0.05
    texts = [result["text"] for result in many.result().json["results"]]
    alone = slow.lm.infill("a[MASK:3]b", sampler="left_to_right", alternatives=6, seed=1)
    assert texts == [text.text for text in alone]


@pytest.mark.slow
def test_a_short_text_is_answered_while_a_long_one_of_the_same_batch_is_written_on():
    slow = Slow(two_way_lm(letters="abc", length=48), 0.05)
    slow.lm._steps = None  # whose reading is not slow
    with served(slow.lm) as client, ThreadPoolExecutor(2) as pool:
        may_go = client.hold()
        long = pool.submit(client.generate, "a", max_tokens=40, seed=1)
        client.wait_until(lambda: client.worker.num_queued == 1)
        short = pool.submit(client.generate, "ab", max_tokens=2, seed=1)
        client.wait_until(lambda: client.worker.num_queued == 2)
        may_go.set()
        assert short.result().json["results"][0]["nfe"] == 2
        client.wait_until(lambda: client.worker.num_active == 1)
        assert not long.done()
        assert long.result().json["results"][0]["nfe"] == 40
    assert slow.num_evaluations == 40  # in one batch
