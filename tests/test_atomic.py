"""Files that are whole or not there."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from mdlm_atat.atomic import write_json


def test_writers_of_one_file_do_not_take_each_other_s(tmp_path):
    file = tmp_path / "results.json"

    def write_often(writer: int) -> None:
        for _ in range(50):
            write_json(file, [writer] * 1000)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write_often, writer) for writer in range(4)]:
            done.result()
    assert len(set(json.loads(file.read_text()))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_file_is_on_the_disk_before_it_takes_the_old_one_s_place_and_so_is_its_name_afterwards(tmp_path, disk):
    file = tmp_path / "results.json"
    write_json(file, [1, 2, 3])
    assert disk.is_synced_before_it_is_renamed(file, file)
