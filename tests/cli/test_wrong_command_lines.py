"""Wrong command lines of every command: one message, exit code 2, nothing created, and never a traceback."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path

import pytest

from mdlm_atat.cli.main import main

WRONG = """
nothing
trian demo
tarin
--verison
-x
--train
train
train nothing
train dmeo
train demo extra
train demo --nothing
train demo --out
train demo --method
train demo --method nothing
train demo --method FOLDER
train demo --method FILE
train demo --resume FOLDER
train --resume
train --resume missing
train --resume FILE
train --resume FOLDER --method atat
train --resume FOLDER --out other
train --resume FOLDER --init FOLDER
train --init missing
train --init FOLDER
train --init FILE
train missing.yaml
train missing/run
train FOLDER
train FILE
train empty.yaml
train list.yaml
train latin.yaml
train circle.yaml
train twice.yaml
train bomb.yaml
train passwd.yaml
train demo --max_minutes
train demo --max_minutes ten
train demo --max_minutes -1
train demo --max_minutes nan
train demo --max_minutes 1 --max_minutes 2
train demo --train.num_steps
train demo --train.num_steps many
train demo --train.num_steps 1.5
train demo --train.num_steps 0
train demo --train.num_steps -5
plan
plan demo
plan --params 1B --tokens 1B --gpus 0
plan FOLDER --tokens 1B --vocab_size 65
plan FILE --tokens 1B
plan latin.yaml --tokens 1B
train demo --train.num_steps 1000000000000000000
train demo --train.num_steps true
train demo --train.num_steps 5 --train.num_steps 6
train demo --train.seed 18446744073709551616
train demo --train.seed -1
train demo --train.seed x
train demo --train.batch_size 0
train demo --train.batch_size 1000000000
train demo --train.batch_size 1e9
train demo --train.batch_size 7 --train.num_micro_batches 2
train demo --train.num_micro_batches 0
train demo --train.num_micro_batches -1
train demo --train.precision half
train demo --train.compile maybe
train demo --train.ema_decay 1
train demo --train.ema_decay -0.1
train demo --train.loggers nothing
train demo --train.log_interval_steps 0
train demo --train.keep_interval_steps -1
train demo --train.nothing 1
train demo --tran.seed 1
train demo --train. 1
train demo --.seed 1
train demo --seed 1
train demo --model.width 100000000
train demo --model.width 0
train demo --model.width 100 --model.num_heads 3
train demo --model.width -8
train demo --model.num_layers 1000000000
train demo --model.num_layers 0
train demo --model.num_heads 0
train demo --model.dropout 1.0
train demo --model.dropout -0.5
train demo --model.dropout nan
train demo --model.dropout inf
train demo --model.norm batch
train demo --model.kind nothing
train demo --model.mlp_ratio 0
train demo --model.tied maybe
train demo --data.length 1
train demo --data.length -4
train demo --data.length 1000000000
train demo --data.length x
train demo --data.source missing.txt
train demo --data.source ./missing
train demo --data.source
train demo --data.mode loop
train demo --data.validation_fraction 0
train demo --data.validation_fraction 1.5
train demo --data.detokenize nothing
train demo --data.nothing 1
train demo --objective.schedule nothing
train demo --objective.schedule
train demo --objective.exponent -1
train demo --objective.beta 1
train demo --objective.beta 0 1
train demo --objective.beta 1 2 3
train demo --objective.window 0.7 0.3
train demo --objective.uniform_share 2
train demo --objective.weighting heavy
train demo --objective.clip 0
train demo --objective.causal_share 1.5
train demo --objective.causal_share -1
train demo --objective.time_sampling often
train demo --importance.mode some
train demo --importance.width 100000000
train demo --importance.width 7 --importance.num_heads 2
train demo --importance.loss_weight 0
train demo --importance.train_share 0
train demo --importance.prior_share 2
train demo --masking.strategy nothing
train demo --masking.temperature 0
train demo --masking.position_strength 100
train demo --masking.strategy position
train demo --masking.position slope
train demo --curriculum.kind often
train demo --curriculum.boundaries 0.6 0.3
train demo --curriculum.boundaries 0.3
train demo --curriculum.patience 0
train demo --curriculum.smoothing 1
train demo --curriculum.temperatures 1 1
train demo --curriculum.max_steps 5 --curriculum.min_steps 10
train demo --optim.lr 0
train demo --optim.lr -1e-3
train demo --optim.lr fast
train demo --optim.lr 1e999
train demo --optim.kind nothing
train demo --optim.betas 0.9
train demo --optim.betas 0.9 1.0
train demo --optim.decay often
train demo --optim.warmup_steps -1
train demo --optim.grad_clip -1
train demo --optim.momentum 1
train demo --eval.num_draws 1
train demo --eval.num_draws 1000000000000
train demo --eval.batch_size 1000000000
train demo --eval.num_samples -1
train demo --eval.sample_steps 0
data nothing
data prepare
data prepare missing.txt
data prepare FILE --length x
data prepare FILE --length -4
data prepare FILE --length 1000000000
data prepare FILE --num_workers 0
data prepare FILE --num_workers -1
data prepare FILE --num_workers x
data prepare FILE --mode loop
data prepare FILE --nothing
data prepare FILE --out
data prepare FILE --tokenizer ./missing
data prepare FILE --validation_fraction 2
data prepare FILE --detokenize nothing
data prepare FILE FILE
data train-tokenizer
data train-tokenizer FILE
cache nothing
cache list extra
cache clear --nothing
eval
eval missing
eval FOLDER
eval FILE
eval box --num_draws x
eval FOLDER --num_draws 1
eval box --batch_size 0
eval box --seed -1
eval box --seed x
eval box --nothing
eval box --precision half
eval box --json
eval box --json FOLDER
eval box --json missing/a.json
eval box --json FILE/a.json
eval box --seed 1 --seed 2
generate missing
generate FOLDER
generate FILE
generate --num_samples 0
generate --num_samples -1
generate --num_samples x
generate --length 0
generate --length -3
generate --max_new_tokens 0
generate --steps 0
generate --steps x
generate --temperature -1
generate --temperature hot
generate --top_k -1
generate --top_p x
generate --seed x
generate --seed 99999999999999999999
generate --seed 1 --seed 2
generate --sampler nothing
generate --sampler
generate --batch_size 0
generate --block_size 0
generate --seed_rule often
generate --guide_order 1
generate --guide_logits 2
generate --trace
generate --resume
generate --resume --overwrite --out a.jsonl
generate --out FOLDER
generate --out missing/a.txt
generate --out FILE
generate --prompts missing.txt
generate --prompts FILE --prompt x
generate --encoding latin-1
generate --precision half
generate --promt x
infill
infill --file missing.txt
infill --nothing
infill "a [MASK] b" --steps 0
infill "a [MASK] b" --overwrite
infill "a [MASK] b" --length_seed 3
infill "a [MASK:5] b" --length_draws 64
infill "a [MASK:2-2] b" --length_prior text
infill "a [MASK] b" --guide_order 2
generate --overwrite
generate --guide_logits 0.5
classify missing "a text" --overwrite
finetune --task FILE --dev FILE --folds 3
finetune --task FILE --probe --backbone_dropout 0.1
train demo --max_minutes 3 --train.max_minutes 4
infill "a [MASK] b" --num_samples 0
infill "a [MASK] b" --out missing/a.txt
infill "a [MASK] b" "b" "c"
infill "a [MASK] b" --sampler nothing
score
score box
score box --file missing.txt
score box text --num_draws 1
score box text --seed -1
score box text --nothing
serve missing
serve --port 99999
serve --port x
serve --host
serve --max_texts 0
serve --nothing
experiment nothing
experiment run
experiment run nothing
experiment run missing.yaml
experiment run empty.yaml
experiment run list.yaml
experiment run bomb.yaml
experiment run quick --processes 0
experiment run quick --seeds x
experiment run quick --seeds -1
experiment run quick --budget lots
experiment run quick --task -1
experiment run quick --nothing
experiment report
experiment report missing
samplers nothing
samplers bench
samplers bench missing
samplers bench box --out missing/a.json
plan tiny --tokens 1B --json
plan tiny --tokens 1B --json FOLDER
plan tiny --tokens 1B --json missing/a.json
plan tiny --tokens 1B --json FILE/a.json
push
push FOLDER
inspect box --num_draws 0
inspect box --seed -1
inspect box --nothing
finetune
finetune missing
finetune FOLDER --task nothing
finetune box --epochs 0
finetune box --nothing
classify
classify missing
classify FOLDER x
classify FOLDER --nothing
""".strip().splitlines()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER/notes.txt").write_text("a folder of something else")
    (tmp_path / "FILE").write_text("a text, and no model\n")
    for name, text in {
        "empty": "",
        "list": "[1, 2]",
        "circle": "base: circle.yaml",
        "twice": "train: {seed: 1, seed: 2}",
        "passwd": "base: /etc/passwd",
        "bomb": "a: &a [1, 1]\n" + "".join(f"a{i}: &a [*a, *a]\n" for i in range(50)),
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "latin.yaml").write_bytes(b"data: {source: \xe9}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_they_are_as_many_as_were_promised_and_different():
    assert len(set(WRONG)) == len(WRONG) >= 230


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_one_message(line: str, place: Path, capsys: pytest.CaptureFixture[str]):
    before = sorted(place.rglob("*"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of settings without effect
        code = main(shlex.split(line))
    out, err = capsys.readouterr()
    assert code == 2, out
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert "root:" not in err
    assert out == ""
    assert sorted(place.rglob("*")) == before
