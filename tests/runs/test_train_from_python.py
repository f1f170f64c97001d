"""Training from Python: the same run as the command line's, heard step by step, stopped, resumed, extended."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mdlm_atat as ma
from mdlm_atat import plugins
from mdlm_atat.config.arguments import short_names
from mdlm_atat.data.tokenizers import CharTokenizer
from tiny_runs import MASKED, TINY, WORDS, write_text
from tiny_runs import train as train_by_command

PLUGIN = '''
from dataclasses import dataclass
import torch
from mdlm_atat.core.strategies.rates import ExponentMasking

class VowelsLast(ExponentMasking):
    """Reads token ids."""

    def __init__(self, schedule, tokenizer, *, strength: float = 1.0) -> None:
        self.schedule, self.strength = schedule, strength
        ids = [i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]) in "aeiou"]
        self.is_vowel = torch.zeros(tokenizer.vocab_size)
        self.is_vowel[ids] = 1.0

    def log_exponent(self, clean):
        self.is_vowel = self.is_vowel.to(clean.tokens.device)
        return -self.strength * self.is_vowel[clean.tokens].double()

class Cubic:
    def mask_rate(self, t): return t**3
    def weight(self, t): return 3 / t

@dataclass(frozen=True)
class Late:
    low: float = 0.25
    """Lowest t."""

    def quantile(self, u): return self.low + (1 - self.low) * u

class Bag(torch.nn.Module):
    """Knows how many tokens of each kind are visible."""

    modes = frozenset({"masked"})

    def __init__(self, vocab_size: int, max_length: int, *, width: int = 8, depth: int = 1) -> None:
        super().__init__()
        self.vocab_size, self.max_length = vocab_size, max_length
        self.embedding = torch.nn.Embedding(vocab_size + 1, width)
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(depth)))
        self.output = torch.nn.Linear(width, vocab_size)

    def hidden(self, z_t, t, lengths=None):
        return self.layers(self.embedding(z_t)) + self.embedding(z_t).mean(1, keepdim=True)

    def output_layer(self):
        return self.output.weight, self.output.bias

    def logits(self, hidden):
        return self.output(hidden)

    def forward(self, z_t, t, lengths=None):
        return self.logits(self.hidden(z_t, t, lengths))

class Tied(Bag):
    def __init__(self, vocab_size, max_length, width=16, depth: int = 1, has_buffer: bool = False):
        super().__init__(vocab_size, max_length, width=width, depth=depth)
        self.output = torch.nn.Linear(width, vocab_size + 1, bias=False)
        self.output.weight = self.embedding.weight
        self.scale = torch.nn.Parameter(torch.rand(width), requires_grad=False)
        self.register_buffer("ones", torch.ones(width), persistent=has_buffer)

    def hidden(self, z_t, t, lengths=None):
        return super().hidden(z_t, t, lengths) * self.scale * self.ones

    def output_layer(self):
        return self.output.weight[: self.vocab_size], None

    def logits(self, hidden):
        return torch.nn.functional.linear(hidden, *self.output_layer())

class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-4, beta: float = 0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - group["beta"])
                    p.sub_(group["lr"] * m.sign())

class Slowing(torch.optim.Optimizer):
    def __init__(self, params, lr, keeps=None):
        super().__init__(params, {"lr": lr, "num_steps": 0, "window": (1, 2)})
        self.keeps = keeps
        if keeps == "tensor":
            self.param_groups[0]["keeps"] = torch.zeros(1)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["num_steps"] += 1
            assert isinstance(group["window"], tuple)
            for p in group["params"]:
                if p.grad is not None:
                    count = self.state[p]["count"] = self.state[p].get("count", 0) + 1
                    p.sub_(group["lr"] * p.grad / (group["num_steps"] + count))
                    if self.keeps == "set":
                        self.state[p]["seen"] = {count}
'''

TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=8)) for seed in range(90)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    """One run from Python, with what its callback heard."""
    heard: list[tuple[int, dict]] = []
    made = ma.train(
        "demo",
        data=text,
        out=tmp_path_factory.mktemp("runs") / "one",
        on_step=lambda step, values: heard.append((step, dict(values))),
        progress=False,
        settings={**MASKED, **TINY},
        log_interval_steps=2,
    )
    return made, heard


@pytest.fixture(autouse=True)
def report(run: object, no_report: None) -> None:
    """Of the shared run alone."""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "a_plugin_for_training.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_allowed", set())
    yield "a_plugin_for_training"
    sys.modules.pop("a_plugin_for_training", None)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


def test_python_and_the_command_line_train_the_same_weights_bit_for_bit(run, text, tmp_path):
    assert train_by_command(text, tmp_path / "two", train__log_interval_steps=2) == 0
    ours, theirs = weights(run[0].folder), weights(tmp_path / "two")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_callback_hears_all_8_steps_and_what_is_logged_of_every_second(run):
    made, heard = run
    assert [step for step, _ in heard] == list(range(1, 9))
    assert [step for step, values in heard if "train/loss" in values] == [2, 4, 6, 8]
    assert [step for step, values in heard if "eval/nelbo_nats_per_token" in values] == [4, 8]
    assert made.metrics == [{"step": step, **values} for step, values in heard if values]


def test_metrics_have_one_row_a_step(run):
    rows = [json.loads(line) for line in (run[0].folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert {"train/loss", "eval/nelbo_nats_per_token"} <= rows[1].keys()


def test_a_run_opens_from_its_folder_and_has_model_settings_record_and_report(run):
    made = ma.Run(run[0].folder)
    assert made.config.train.num_steps == 8
    assert made.stopped is None
    assert made.record["preset"] == "demo"
    assert made.report.is_file()
    assert made.num_steps_taken == 8
    assert "step 8 of 8" in repr(made)
    (evaluation,) = made.evaluations
    assert evaluation.num_draws == 32
    assert evaluation.bits_per_character > 0
    generated = made.model.generate("the", length=16, steps=2)
    assert generated.text.startswith("the")  # type: ignore[union-attr]
    with pytest.raises(ma.UserError, match="no run folder"):
        ma.Run(run[0].folder / "checkpoints")


def test_a_callback_that_returns_true_stops_with_a_checkpoint_and_the_run_goes_on_bit_for_bit(run, text, tmp_path):
    stopped = ma.train(
        "demo", data=text, out=tmp_path / "three", on_step=lambda step, _: step == 3, progress=False,
        settings={**MASKED, **TINY}, log_interval_steps=2,
    )  # fmt: skip
    assert stopped.stopped == "on_step returned True"
    assert stopped.num_steps_taken == 2
    done = ma.train(resume=stopped, progress=False)
    assert done.stopped is None
    ours, whole = weights(done.folder), weights(run[0].folder)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_training_works_in_a_thread_that_may_not_set_signals(text, tmp_path):
    found: list[ma.Run] = []
    thread = threading.Thread(
        target=lambda: found.append(
            ma.train("demo", data=text, out=tmp_path / "t", progress=False, settings=TINY, num_steps=1)
        )
    )
    thread.start()
    thread.join()
    assert found[0].num_steps_taken == 1


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_training_has_gradients_where_the_caller_has_turned_them_off(off, text, tmp_path, plugin):
    """As notebooks do for all their cells, by torch.set_grad_enabled(False)."""
    with plugins.trusted():
        network = plugins.resolve("backbone", f"{plugin}:Bag")
    tokenizer = CharTokenizer.from_texts(TEXTS)
    lm = ma.MaskedDiffusionLM(network(tokenizer.vocab_size, 16), tokenizer)
    with off():
        made = ma.train("demo", data=text, out=tmp_path / "t", progress=False, settings=TINY, num_steps=1)
        lm.fit(TEXTS, progress=False, num_steps=1, batch_size=4, settings={"eval.num_draws": 32})
        assert not torch.is_grad_enabled()
    assert made.num_steps_taken == 1


def test_progress_says_the_plan_before_a_step_is_tried_and_that_the_warm_up_was_cut(text, tmp_path, capsys):
    settings = {name: value for name, value in TINY.items() if name != "optim.warmup_steps"}
    ma.train("demo", data=text, out=tmp_path / "run", settings=settings, num_steps=6)
    out = capsys.readouterr().out
    assert "warm-up of 3 steps: optim.warmup_steps = 100 would be more than half of all 6" in out
    assert out.index("training   6 steps") < out.index("machine ")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_step": 4}, "no setting num_step; did you mean num_steps?"),
        ({"width": 4}, r"several sections have it: say `model=\{'width': ...\}` or `importance="),
        ({"num_steps": "4"}, "`train.num_steps=`: expected a whole number, found '4'"),
        ({"model": {"widht": 4}}, "`model.widht=`: unknown key; did you mean model.width"),
        ({"settings": {"optim.lr": -1.0}}, "optim.lr is -1.0"),
        ({"method": "atta"}, "unknown method 'atta'; did you mean atat"),
        ({"masking": "unifrom"}, "did you mean uniform"),
        ({"optimizer": "no.such:Lion"}, "no module no"),
    ],
)
def test_a_wrong_argument_gets_one_message_before_anything_is_made(text, tmp_path, keywords, message):
    with pytest.raises(ma.UserError, match=message):
        ma.train("demo", data=text, out=tmp_path / "run", **keywords)
    assert not (tmp_path / "run").exists()


def test_a_corpus_brings_its_tokenizer_mode_and_length(text, tmp_path):
    settings: dict[str, Any] = {"tokenizer": "byte", "mode": "pad", "length": 16, "documents": "line"}
    corpus = ma.prepare(text, out=tmp_path / "corpus", progress=False, **settings)
    model = {name: value for name, value in TINY.items() if not name.startswith("data.")}
    made = ma.train("demo", data=corpus, out=tmp_path / "run", progress=False, settings=model, num_steps=1)
    data = made.config.data
    assert (data.source, data.tokenizer, data.mode, data.length) == (str(corpus.folder), "byte", "pad", 16)
    with pytest.raises(ma.UserError, match="prepared with the tokenizer byte, not char"):
        ma.train("demo", data=corpus, out=tmp_path / "b", progress=False, settings=model, tokenizer="char")


def test_train_says_what_to_name_when_nothing_is_named():
    with pytest.raises(ma.UserError, match=r"train\('demo'\)"):
        ma.train()
    with pytest.raises(ma.UserError, match="leave out `method=`"):
        ma.train(resume="runs/x", method="atat")


IN_PYTHON = """
import numpy
from mdlm_atat import RunConfig, UserError
from mdlm_atat.config.schema import MaskingConfig, ModelConfig, TrainConfig
for make in (
    lambda: TrainConfig(num_steps="6"),
    lambda: ModelConfig(width=6.5),
    lambda: MaskingConfig(strategy="uniformly"),
    lambda: RunConfig(model={"width": 64}),
    lambda: TrainConfig(num_steps=1.5, batch_size=True),
):
    try:
        make()
    except UserError as error:
        print(str(error).replace(chr(10), " / "))
assert type(TrainConfig(num_steps=numpy.int64(6)).num_steps) is int
"""


def test_settings_made_in_python_are_checked_as_a_file_is():
    # in a process of its own: here a type checker watches every call
    done = subprocess.run([sys.executable, "-c", IN_PYTHON], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "train.num_steps: expected a whole number, found '6'",
        "model.width: expected a whole number, found 6.5",
        "masking.strategy: unknown masking strategy 'uniformly', expected one of uniform, importance, position, "
        "curriculum, literal_importance, literal_curriculum, or a plugin as package.module:Name; did you mean uniform?",
        "model: expected a ModelConfig, found dict",
        "train.num_steps: expected a whole number, found 1.5 / train.batch_size: expected a whole number, found true",
    ]


def test_every_short_name_leads_to_one_setting():
    names = short_names()
    assert names["data"] == "data.source"
    assert names["masking"] == "masking.strategy"
    assert names["optimizer"] == "optim.kind"
    assert names["batch_size"] == "train.batch_size"
    assert "width" not in names


@pytest.mark.slow
def test_a_strategy_a_schedule_a_density_and_an_optimizer_of_ones_own_train_and_come_back(text, tmp_path, plugin):
    made = ma.train(
        "demo",
        data=text,
        out=tmp_path / "run",
        progress=False,
        settings=TINY,
        masking={"strategy": f"{plugin}:VowelsLast", "options": {"strength": 0.5}},
        objective={
            "schedule": f"{plugin}:Cubic",
            "time_sampling": f"{plugin}:Late",
            "time_options": {"low": 0.5},
            "weighting": "flat",
        },
        optimizer=f"{plugin}:Lion",
        time_conditioning=True,
        time_through="embedding",
        lr=1e-4,
    )
    assert "train/rate_mismatch" in made.metrics[-1]
    assert "eval/schedule_nelbo_nats_per_token" in made.metrics[-1]
    needed = json.loads((made.folder / "plugins.json").read_text())
    assert {one["name"] for one in needed} == {f"{plugin}:{name}" for name in ("VowelsLast", "Cubic", "Late", "Lion")}
    assert made.model.generate("", length=16, sampler="follow_rates", steps=2)
    # a folder from elsewhere, in a process where nobody has named the plugin
    plugins._allowed.clear()
    sys.modules.pop(plugin)
    with pytest.raises(ma.UserError, match="trust_plugins=True"):
        ma.load_lm(made.folder)
    with pytest.raises(ma.UserError, match="trust_plugins=True"):
        ma.train(resume=made, progress=False, num_steps=10)
    assert plugin not in sys.modules
    again = ma.train(resume=made, progress=False, num_steps=10, trust_plugins=True)
    assert again.num_steps_taken == 10


@pytest.mark.slow
def test_an_optimizer_that_counts_in_its_groups_and_for_each_weight_goes_on_bit_for_bit(text, tmp_path, plugin):
    def start(name: str, **more: Any) -> ma.Run:
        settings = {**MASKED, **TINY, "optim.kind": f"{plugin}:Slowing", "optim.lr": 1.0, **more}
        return ma.train("demo", data=text, out=tmp_path / name, progress=False, settings=settings)

    whole = start("whole")
    parts = start("parts", **{"train.max_minutes": 1e-9})
    assert parts.num_steps_taken < 8
    again = ma.train(resume=parts, progress=False, trust_plugins=True)
    assert again.num_steps_taken == 8
    ours, theirs = weights(again.folder), weights(whole.folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(ma.UserError, match=r"Slowing keeps the tensor 'keeps' in a group of weights, and a checkpoint"):
        start("tensor", **{"optim.options": {"keeps": "tensor"}})


def test_an_optimizer_whose_state_a_checkpoint_would_not_hold_is_refused_before_the_first_step(text, tmp_path, plugin):
    heard: list[int] = []
    with pytest.raises(ma.UserError, match=r"Slowing keeps 'seen' of a weight, which is a set, and a checkpoint would"):
        ma.train(
            "demo",
            data=text,
            out=tmp_path / "run",
            progress=False,
            settings={**MASKED, **TINY, "optim.kind": f"{plugin}:Slowing", "optim.options": {"keeps": "set"}},
            on_step=lambda step, _: heard.append(step),
            log_interval_steps=1,
        )
    assert heard == []


def test_a_network_of_ones_own_trains_with_its_own_settings_writes_and_scores(tmp_path, plugin):
    made = ma.train(
        "demo",
        data=TEXTS,
        out=tmp_path / "run",
        progress=False,
        settings=TINY,
        model={"kind": f"{plugin}:Bag", "options": {"depth": 2}},
        causal_share=0.0,
    )
    assert [name for name in weights(made.folder) if name.startswith("layers")] == [
        f"layers.{layer}.{part}" for layer in (0, 1) for part in ("bias", "weight")
    ]
    assert made.model.score("the cat sat").nats > 0  # type: ignore[union-attr]
    assert len(made.model.generate(["the", "a"], length=16, steps=4)) == 2
    with pytest.raises(ma.UserError, match="depth: expected a whole number"):
        ma.train("demo", data=TEXTS, out=tmp_path / "x", progress=False, settings=TINY,
                 model={"kind": f"{plugin}:Bag", "options": {"depth": "deep"}})  # fmt: skip


@pytest.mark.slow
def test_a_network_with_tied_weights_and_one_that_is_not_trained_comes_back_and_a_stored_buffer_is_refused(
    text, tmp_path, plugin
):
    settings = {**MASKED, **TINY, "model.kind": f"{plugin}:Tied"}
    made = ma.train("demo", data=text, out=tmp_path / "run", progress=False, settings=settings)
    network = ma.load_lm(made.folder, trust_plugins=True).network
    assert network.output.weight is network.embedding.weight
    assert network.scale.equal(weights(made.folder)["scale"])
    average = load_file(made.folder / "checkpoints" / "last" / "ema.safetensors")
    assert network.embedding.weight.equal(average["embedding.weight"])
    again = ma.train(resume=made, progress=False, num_steps=10, trust_plugins=True)
    assert weights(again.folder)["scale"].equal(network.scale)
    saved = again.model.save_pretrained(tmp_path / "saved")
    assert ma.load_lm(saved, trust_plugins=True).fingerprint() == again.model.fingerprint()
    with pytest.raises(ma.UserError, match=r"has the buffer 'ones', which checkpoints do not hold: .*persistent=False"):
        ma.train(
            "demo",
            data=text,
            progress=False,
            out=tmp_path / "b",
            settings={**settings, "model.options": {"has_buffer": True}},
        )
    assert not (tmp_path / "b").exists()


def test_a_bare_network_is_trained_in_place_without_a_folder(tmp_path, plugin, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with plugins.trusted():
        network = plugins.resolve("backbone", f"{plugin}:Bag")
    tokenizer = CharTokenizer.from_texts(TEXTS)
    torch.manual_seed(0)
    lm = ma.MaskedDiffusionLM(network(tokenizer.vocab_size, 16), tokenizer)
    before = lm.score(TEXTS[0], seed=1)
    heard: list[int] = []
    rows = lm.fit(
        TEXTS, on_step=lambda step, _: heard.append(step), progress=False, num_steps=60, batch_size=16, lr=3e-2,
        settings={"train.log_interval_steps": 20, "train.eval_interval_steps": 60, "eval.num_draws": 32},
    )  # fmt: skip
    assert heard == list(range(1, 61))
    assert [row["step"] for row in rows] == [20, 40, 60]
    assert "eval/nelbo_nats_per_token" in rows[-1]
    after = lm.score(TEXTS[0], seed=1)
    assert after.nats < before.nats - 10
    assert not list(tmp_path.glob("*/config.yaml"))
    with pytest.raises(ma.UserError, match="did you mean num_steps"):
        lm.fit(TEXTS, num_stepz=3)


def test_a_text_that_a_network_is_trained_on_in_place_is_what_its_settings_are_said_of(tmp_path, plugin):
    with plugins.trusted():
        network = plugins.resolve("backbone", f"{plugin}:Bag")
    tokenizer = CharTokenizer.from_texts(TEXTS)
    lm = ma.MaskedDiffusionLM(network(tokenizer.vocab_size, 16), tokenizer)
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["body", *(f'"{text}"' for text in TEXTS)]))
    settings = {"train.eval_interval_steps": 60, "eval.num_draws": 32, "data.column": "body"}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        lm.fit(table, progress=False, num_steps=1, batch_size=4, settings=settings)
    assert not said
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    says = pytest.warns(UserWarning, match="delimiter has no effect with data.source = .*rows.jsonl")
    with says, pytest.raises(ma.UserError, match="body"):
        lm.fit(tmp_path / "rows.jsonl", progress=False, settings={"data.column": "body", "data.delimiter": ";"})


def test_a_plugins_own_settings_are_checked_as_ours_are(text, tmp_path, plugin):
    def start(**options):
        return ma.train(
            "demo", data=text, out=tmp_path / "run", progress=False, settings=TINY, time_conditioning=True,
            masking={"strategy": f"{plugin}:VowelsLast", "options": options},
        )  # fmt: skip

    with pytest.raises(ma.UserError, match=r"masking.options.strenght: .* did you mean strength"):
        start(strenght=1.0)
    with pytest.raises(ma.UserError, match=r"masking.options.strength: expected a number, found 'high'"):
        start(strength="high")


def test_a_model_folder_that_names_a_package_that_is_not_there_says_what_to_install(run, tmp_path):
    saved = run[0].model.save_pretrained(tmp_path / "model")
    (saved / "plugins.json").write_text(
        json.dumps([{"kind": "masking", "name": "vowels:Last", "distribution": "vowels-last", "version": "2.0"}])
    )
    with pytest.raises(ma.UserError, match=r"pip install vowels-last==2.0"):
        ma.load_lm(saved)
