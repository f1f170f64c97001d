"""Whole plans: what is chosen, what breaks first, a command that trains as planned, and mistakes in one message."""

from __future__ import annotations

import json
import math
import shlex

import pytest

from mdlm_atat.cli import train
from mdlm_atat.cli.main import main
from mdlm_atat.config import size
from mdlm_atat.config.files import save_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.runs.request import RunRequest
from mdlm_atat.scaling.lines import lines_of
from mdlm_atat.scaling.measured import measured
from mdlm_atat.scaling.plan import USABLE, Plan, plan


def limit_of(found: Plan, words: str) -> tuple[float, bool]:
    limit = next(limit for limit in found.limits if words in limit.what)
    return limit.ratio, limit.is_mended


def test_a_billion_parameters_on_64_gpus_are_held_whole_by_each_and_take_hours():
    found = plan(params=1e9, tokens=100e9, gpus=64, method="atat")
    assert found.chosen is not None
    assert found.chosen.way.kind == "data-parallel"
    assert found.sizes.num_parameters == pytest.approx(1e9, rel=0.04)
    assert [option.fits for option in found.options] == [True] * 6
    assert found.config.train.num_steps == math.ceil(100e9 / (found.config.train.batch_size * 1024))
    assert found.config.train.batch_size % (64 * 8) == 0  # five of eight sequences are read left to right
    assert found.total_s is not None
    assert 3600 < found.total_s < 30 * 86400


def test_8_billion_parameters_and_a_trillion_tokens_need_sharding_and_a_checksum_of_two_terabytes():
    found = plan(params=8e9, tokens=1e12, gpus=256)
    assert found.chosen is not None
    assert found.chosen.way.kind == "sharded"
    ratio, is_mended = limit_of(found, "without sharding")
    assert ratio > 1
    assert is_mended
    seconds = 2e12 / measured().host.checksum_bytes_per_s
    assert limit_of(found, "the checksum of the token file")[0] == pytest.approx(seconds / 1800)
    ranks = [(limit.is_mended, -limit.ratio) for limit in found.limits]
    assert ranks == sorted(ranks)
    assert limit_of(found, "the loader's order")[0] == pytest.approx(24 * 1e12 / 1024 * 8 / (8 * 128 * 2**30))
    assert limit_of(found, "the networks that")[0] == pytest.approx(4 * found.sizes.num_parameters / (128 * 2**30))
    assert found.token_bytes == 2 * 10**12
    assert found.checkpoint.in_parts
    assert found.checkpoint.num_bytes == pytest.approx(16 * found.sizes.num_parameters, rel=1e-4)


def test_bytes_are_planned_with_their_end_of_text():
    found = plan("demo", tokens=1e6, settings={"data.tokenizer": "byte"})
    assert found.vocab_size == load_tokenizer("byte").vocab_size == 257


def test_8_billion_parameters_fit_on_no_single_gpu_and_the_plan_says_what_breaks():
    found = plan(params=8e9, tokens=1e12)
    assert found.chosen is None
    assert found.command is None
    assert not any(option.fits for option in found.options)
    assert all(option.memory.peak > USABLE * found.gpu.memory_gib * 2**30 for option in found.options)
    assert found.limits[0].ratio > 1
    assert any(line.startswith("  BREAKS") for line in lines_of(found))


def test_a_batch_that_does_not_fit_is_cut_into_as_few_parts_as_fit():
    found = plan("mdlm-owt", tokens=1e9)
    assert found.chosen is not None
    assert (found.config.train.batch_size, found.chosen.num_micro_batches) == (
        512,
        2,
    )  # 376 at once were measured to fit
    assert found.chosen.memory.peak < USABLE * found.gpu.memory_gib * 2**30


PLANNED = [
    {"params": 1e9, "tokens": 1e11, "gpus": 64, "method": "atat"},
    {"params": 8e9, "tokens": 1e12, "gpus": 256},
    {"config": "mdlm-owt", "tokens": 1e9, "gpus": 2},
    {"config": "large", "tokens": 1e9, "gpus": 6, "method": "muon", "settings": {"train.batch_size": 60}},
    {"config": "tiny", "tokens": 1e6, "settings": {"model.mlp_width": None, "optim.betas": [0.8, 0.9]}},
    {"config": "causal-char", "tokens": 1e6, "vocab_size": 65},
    {"config": "small", "params": 3e8, "tokens": 1e9, "gpus": 8, "gpus_per_machine": 4, "gpu": "h100"},
]


@pytest.mark.parametrize("asked", PLANNED, ids=lambda asked: str(asked.get("config") or asked.get("params")))
def test_the_command_trains_as_planned(asked, monkeypatch):
    monkeypatch.setattr(size, "machine_memory", lambda: None)  # which may be less than the network needs
    found = plan(**asked)
    assert found.command is not None
    words = shlex.split(found.command)
    arguments = train.make_parser().parse(words[words.index("train") + 1 :])
    request = RunRequest(config=arguments.preset, method=arguments.method, settings=arguments.settings)
    assert request.run_config() == found.config
    assert found.chosen is not None
    way, train_as = found.chosen.way, found.config.train
    assert (train_as.shard, train_as.recompute) == (way.kind == "sharded", way.recompute)
    assert train_as.num_micro_batches == found.chosen.num_micro_batches
    several = found.machines.num_gpus > 1
    assert words[0] == ("torchrun" if several else "atat")
    assert ("--nnodes" in words) == (found.machines.num > 1)
    if several:
        assert words[words.index("--nproc-per-node") + 1] == str(found.machines.gpus_here)


def test_a_file_of_settings_and_a_configuration_are_planned_alike(tmp_path):
    config = plan("tiny", tokens=1e6).config
    file = tmp_path / "mine.yaml"
    save_config(config, file)
    assert plan(file, tokens=1e6).options == plan(config, tokens=1e6).options
    assert (plan(file, tokens=1e6).command or "").split()[2] == str(file)


def test_a_network_that_this_machine_could_not_hold_is_planned():
    huge = {"model.num_layers": 200, "model.width": 20480, "model.num_heads": 160, "train.batch_size": 2048}
    found = plan("large", tokens=1e12, gpus=2048, settings=huge)
    assert found.sizes.num_parameters > 1e12
    assert found.limits[0].ratio > 1


def test_everything_is_in_the_json_and_every_number_is_finite(tmp_path, capsys):
    file = tmp_path / "plan.json"
    assert main(["plan", "--params", "350M", "--tokens", "10B", "--gpus", "16", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    stored = json.loads(file.read_text())
    assert stored == json.loads(json.dumps(plan(params=350e6, tokens=10e9, gpus=16).as_json()))
    assert stored["assumptions"]
    assert all(" ".join(line.split()) in " ".join(out.split()) for line in stored["assumptions"])
    assert stored["command"] in out
    assert [option["way"] for option in stored["options"]] == [
        f"{kind}{more}" for kind in ("one GPU", "data-parallel", "sharded") for more in ("", ", recomputed")
    ]

    def numbers(value) -> list[float]:
        if isinstance(value, dict):
            return [number for part in value.values() for number in numbers(part)]
        if isinstance(value, list):
            return [number for part in value for number in numbers(part)]
        return [value] if isinstance(value, (int, float)) else []

    assert all(math.isfinite(number) and number >= 0 for number in numbers(stored))


@pytest.mark.parametrize(
    ("word", "tokens"),
    [
        ("1B", 1e9),
        ("1b", 1e9),
        ("2.5M", 2.5e6),
        ("300k", 3e5),
        ("1.5T", 1.5e12),
        ("3e9", 3e9),
        ("1_000_000", 1e6),
        ("1,500K", 1.5e6),
    ],
)
def test_numbers_are_written_as_people_write_them(word, tokens, tmp_path, capsys):
    file = tmp_path / "plan.json"
    assert main(["plan", "tiny", "--tokens", word, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["num_tokens"] == tokens


WRONG = {
    "": "missing --tokens",
    "--params 1B": "missing --tokens",
    "--tokens 1B": "say how many parameters by --params",
    "--params 1X --tokens 1B": "--params is 1X, expected a number such as 124M",
    "--params -1 --tokens 1B": "--params is -1, expected a number such as 124M",
    "--params nan --tokens 1B": "--params is nan, expected a number such as 124M",
    "--params 1e999 --tokens 1B": "params is inf, expected at most 10,000,000,000,000",
    "--params 10 --tokens 1B": "params is 10.0, expected at least 10000",
    "--params 1M --tokens 1B": "no network has nearly 1.00 million parameters and a vocabulary of 50,257 tokens",
    "--params 1B --tokens 0": "tokens is 0.0, expected at least 1",
    "--params 1B --tokens 1e30": "tokens is 1e+30, expected at most",
    "--params 1B --tokens 1B --gpus 0": "--gpus is 0, expected at least 1",
    "--params 1B --tokens 1B --gpus 1e3": "--gpus is 1e3, expected a whole number",
    "--params 1B --tokens 1B --gpus 12": "try --gpus 8, or another number by --gpus_per_machine",
    "--params 1B --tokens 1B --gpu b300": "--gpu is 'b300', expected one of h200, h100",
    "--params 1B --tokens 1B --gpu h20": "did you mean h200?",
    "--params 1B --tokens 1B --vocab_size 1": "--vocab_size is 1, expected at least 2",
    "--params 1B --tokens 1B --vocab_size 99999999999": "vocab_size is 99,999,999,999, expected at most 16,777,216",
    "--params 1B --tokens 1,5B": "--tokens is 1,5B, expected a number such as 124M, 1.5B or 3e9",
    "--params 1,50,000 --tokens 1B": "--params is 1,50,000, expected a number",
    "--params 1B --tokens '100 B'": "--tokens is 100 B, expected a number",
    "medium --tokens 1B --train.num_steps 5": "--train.num_steps follows from --tokens, the batch and the length",
    "medium --tokens 1B --train.shard true": "--train.shard is found by the plan, which lists both ways",
    "medium --tokens 1B --train.num_micro_batches 7": "--train.num_micro_batches is found by the plan",
    "medium --tokens 1B --train.recompute false": "--train.recompute is found by the plan",
    "medium --tokens 1B --train.compile false": "false cannot be planned: steps were measured with --train.compile",
    "medium --tokens 1B --train.precision float32": "steps were measured with --train.precision auto",
    "--params 1B --tokens 1B --length 0": "--length is 0, expected at least 1",
    "--params 1B --tokens 1B --length 512 --data.length 512": "--length and --data.length are the same",
    "--params 1B --tokens 1B --model.width 64": "--params chooses model.width: leave one of them out",
    "--params 1B --tokens 1B --network_gb_s 0": "--network_gb_s is 0, expected at least 0.001",
    "--params 1B --tokens 1B --host_gib -1": "--host_gib is -1, expected at least 0.001",
    "--params 1B --tokens 1B --method nothing": "unknown method 'nothing'",
    "nothing --tokens 1B": "unknown preset 'nothing'",
    "missing.yaml --tokens 1B": "there is no file or run folder missing.yaml",
    "demo --tokens 1B": "say how many tokens it has by --vocab_size",
    "mdlm-owt --tokens 1B --gpus 7": "try --train.batch_size 511",
    "mdlm-owt --tokens 1B --method atat --gpus 2 --train.batch_size 24": "in multiples of 8; try --train.batch_size 32",
    "mdlm-owt --tokens 1B --optim.kind toys:Plain": "optim.kind = toys:Plain: a plan knows the state of",
    "tiny --tokens 1B --model.kind toys:Bare": "a plan is made for the networks of this package",
    "tiny --tokens 1B --lora.rank 4": "a plan is of a whole network: set --lora.rank 0",
    "tiny --tokens 1B --tokens 2B": "--tokens: given twice",
    "tiny extra --tokens 1B": "extra: not expected here",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_is_one_message_and_exit_code_2(words, capsys):
    assert main(["plan", *shlex.split(words)]) == 2
    printed = capsys.readouterr()
    assert WRONG[words] in printed.err
    assert printed.err.startswith("error: ")
    assert printed.out == ""


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"gpus": 0}, "gpus"),
        ({"gpus": True}, "gpus"),
        ({"vocab_size": 1}, "vocab_size"),
        ({"gpu": "tpu"}, "gpu"),
        ({"settings": {"train.shard": True}}, "train.shard"),
    ],
)
def test_from_python_a_mistake_is_a_user_error(asked, named):
    with pytest.raises(UserError, match=named):
        plan("tiny", tokens=1e6, **asked)


def test_what_is_not_measured_is_said():
    known = " ".join(plan("mdlm-owt", tokens=1e9).assumptions)
    assert "was not measured" not in known
    assert "Exchange" not in known
    unknown = " ".join(plan(params=8e9, tokens=1e9, gpus=1024, gpu="h100").assumptions)
    for words in (
        "was not measured",
        "measured on two GPUs of one machine and on no more",
        "Between machines nothing was measured: 50 GB/s",
        "Exchange was measured on NVIDIA H200",
        "were not measured, and use it less well",
    ):
        assert words in unknown


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        ({"train.batch_size": 1 << 30}, True),  # in enough parts
        ({"data.length": 1 << 20}, True),
        ({"masking.strategy": "position", "masking.position": "table", "data.length": 1 << 20}, True),
        ({"model.width": 1_048_560}, False),
    ],
    ids=str,
)
def test_absurd_sizes_are_answered_at_once(settings, fits):
    found = plan("mdlm-owt", tokens=1e12, settings=settings)
    assert (found.chosen is not None) == fits
    assert (found.limits[0].ratio > 1) >= (not fits)


def test_a_learned_table_of_positions_is_counted():
    table = {"masking.strategy": "position", "masking.position": "table", "data.length": 300}
    with_table, without = (plan("tiny", tokens=1e6, settings=each) for each in (table, {"data.length": 300}))
    assert with_table.sizes.num_parameters - without.sizes.num_parameters == 300


def test_a_default_configuration_is_planned():
    assert plan(RunConfig(), tokens=1e6, vocab_size=65).chosen is not None
