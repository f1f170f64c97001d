"""Requests that are answered, on a disk where anything may lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdlm_atat.errors import UserError
from mdlm_atat.harness.finished import Finished, file_of_rank, files_of, read_finished


@pytest.mark.parametrize("name", ["a", "a b", "a[1]", "a*", "[ab]?", "50%"])
def test_answers_of_all_processes_are_found_again_whatever_the_file_is_called(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.requests.jsonl"
    for rank in range(2):
        kept = Finished(file_of_rank(file, rank), {})
        kept.add({f"key {rank}": [rank, True]})
    (tmp_path / f"{name}.requests-other.jsonl").write_text("of somebody else")
    (tmp_path / "a1.requests.jsonl").write_text("of somebody else")
    assert read_finished(file) == {"key 0": [0, True], "key 1": [1, True]}
    assert files_of(file) == sorted(file_of_rank(file, rank) for rank in range(2))


@pytest.mark.parametrize("damage", [b"5", b"null", b"{", b"\xff\xfe", b"[1, 2, 3]", b"\0" * 9], ids=repr)
def test_a_damaged_line_is_told_and_a_damaged_end_is_left_out(damage: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.requests.jsonl"
    Finished(file, {}).add({"key": 1.5})
    whole = file.read_bytes()
    file.write_bytes(whole + damage)
    assert read_finished(file) == {"key": 1.5}
    assert file.read_bytes() == whole
    file.write_bytes(whole + damage + b"\n" + whole)
    with pytest.raises(UserError, match=r"a\.requests\.jsonl holds something else than answers, in line 2: delete it"):
        read_finished(file)
