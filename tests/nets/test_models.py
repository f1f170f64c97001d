import pytest
import torch

from mdlm_atat.config.build import build_model
from mdlm_atat.config.files import load_config
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.nets.ema import EMA

# preset: (tokens of its tokenizer, parameters). char and demo: Shakespeare's 64 characters and eos
SIZES = {
    "demo": (65, 798_976),
    "char": (65, 10_658_688),
    "causal-char": (65, 10_658_688),
    "tiny": (50_257, 19_172_096),
    "small": (30_522, 108_441_600),
    "medium": (50_257, 353_627_136),
    "large": (50_257, 772_442_880),
    "mdlm-owt": (50_257, 169_627_218),
}


def num_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("preset", SIZES)
def test_each_preset_has_the_promised_number_of_parameters(preset):
    vocab_size, promised = SIZES[preset]
    config = load_config(preset)
    with torch.device("meta"):
        network = build_model(config, vocab_size)
    assert num_parameters(network) == promised


def test_mdlms_published_ddit_has_its_169_6_million_parameters_shape_by_shape():
    config = load_config("mdlm-owt")
    with torch.device("meta"):
        network = build_model(config, 50_257)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes["embedding.weight"] == (50_258, 768)
    assert shapes["output.weight"] == (50_258, 768)
    assert shapes["output.bias"] == (50_258,)
    assert shapes["blocks.0.attention.qkv.weight"] == (2304, 768)
    assert "blocks.0.attention.qkv.bias" not in shapes
    assert shapes["blocks.11.modulation.weight"] == (6 * 768, 128)
    assert shapes["modulation.weight"] == (2 * 768, 128)
    assert not [name for name in shapes if name.startswith("norm") and name.endswith("bias")]


def network(**more) -> ATATDiT:
    torch.manual_seed(0)
    made = ATATDiT(13, 20, num_layers=2, width=16, num_heads=2, **more)
    for p in made.parameters():  # zero-initialised layers would hide what they do
        torch.nn.init.normal_(p, std=0.3)
    return made.eval()


VARIANTS = {
    "plain": {},
    "untied": {"tied": False},
    "time": {"time_conditioning": True, "time_width": 8},
    "rms_qk": {"norm": "rms", "qk_norm": True},
    "extra": {"extra_outputs": 3, "tied": False},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_cover_the_vocabulary_and_leave_out_the_mask(variant):
    made = network(**VARIANTS[variant])
    z_t = torch.randint(0, 14, (3, 20), generator=torch.Generator().manual_seed(0))
    assert made(z_t, torch.rand(3)).shape == (3, 20, 13)
    assert made.mask_id == 13


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_does_not_change_a_rows_logits(variant):
    made = network(**VARIANTS[variant])
    z_t = torch.randint(0, 14, (1, 9), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.4])
    alone = made(z_t, t)
    padded = torch.nn.functional.pad(z_t, (0, 11), value=5)
    torch.testing.assert_close(made(padded, t, torch.tensor([9]))[:, :9], alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(made(padded, t)[:, :9], alone, atol=1e-2)  # without lengths it would


def test_the_denoiser_sees_both_sides_of_a_position():
    made = network()
    z_t = torch.full((1, 20), 13)
    changed_right, changed_left = z_t.clone(), z_t.clone()
    changed_right[0, 15], changed_left[0, 2] = 1, 1
    t = torch.ones(1)
    assert not torch.allclose(made(z_t, t)[0, 8], made(changed_right, t)[0, 8])
    assert not torch.allclose(made(z_t, t)[0, 8], made(changed_left, t)[0, 8])


@torch.no_grad()
def test_features_of_sigma_are_those_of_1000_t_at_a_thousandth_of_the_total_noise():
    by_t, by_sigma = (network(time_conditioning=True, time_width=8, time_features=kind) for kind in ("t", "sigma"))
    z_t = torch.randint(0, 14, (3, 9), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.5, 1.0])
    sigma = torch.tensor([0.0, 0.69214768, 6.90775528])  # of which sigma(1) = log 1000
    torch.testing.assert_close(by_sigma(z_t, t), by_t(z_t, sigma / 1000), rtol=0, atol=1e-5)


def test_only_a_time_conditioned_denoiser_looks_at_t():
    z_t = torch.full((1, 20), 13)
    early, late = torch.tensor([0.1]), torch.tensor([0.9])
    assert network()(z_t, early).equal(network()(z_t, late))
    conditioned = network(time_conditioning=True, time_width=8)
    assert not torch.allclose(conditioned(z_t, early), conditioned(z_t, late))


def test_positions_matter_and_only_through_their_distance():
    made = network()
    z_t = torch.full((1, 20), 13)
    z_t[0, 4], z_t[0, 7] = 1, 2
    swapped = z_t.clone()
    swapped[0, 4], swapped[0, 7] = 2, 1
    t = torch.ones(1)
    assert not torch.allclose(made(z_t, t)[0, 5], made(swapped, t)[0, 5])
    moved = torch.full((1, 20), 13).roll(0)
    moved[0, 6], moved[0, 9] = 1, 2  # the same pair two places on, far from both ends of a row of masks
    inner, outer = made(z_t[:, 2:12], t)[0, 3], made(moved[:, 4:14], t)[0, 3]
    torch.testing.assert_close(inner, outer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_fresh_network_knows_next_to_nothing(tied):
    torch.manual_seed(0)
    made = ATATDiT(100, 32, num_layers=2, width=64, num_heads=4, tied=tied, time_conditioning=True)
    logits = made(torch.full((2, 32), 100), torch.ones(2))
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.arange(64) % 100)
    assert nll.item() == pytest.approx(torch.tensor(100.0).log().item(), abs=0.15)


def test_dropout_acts_in_training_alone():
    made = network(dropout=0.5)
    z_t, t = torch.full((1, 20), 13), torch.ones(1)
    assert made(z_t, t).equal(made(z_t, t))
    made.train()
    assert not made(z_t, t).equal(made(z_t, t))


def causal() -> CausalTransformer:
    torch.manual_seed(0)
    made = CausalTransformer(13, 20, num_layers=2, width=16, num_heads=2)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return made.eval()


def test_the_causal_model_sees_only_what_is_left_of_a_position():
    made = causal()
    x = torch.randint(0, 13, (2, 20), generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 13
    before, after = made(x), made(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8], rtol=1e-6, atol=1e-6)
    assert (before[:, 8:] - after[:, 8:]).abs().amax(-1).min() > 1e-4


def test_the_causal_model_is_a_distribution_over_all_27_sequences_of_3_tokens():
    torch.manual_seed(0)
    made = CausalTransformer(3, 3, num_layers=2, width=16, num_heads=2).double()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.cartesian_prod(*[torch.arange(3)] * 3)  # (27, 3)
    log_probs = made(x).log_softmax(-1).gather(-1, x[..., None])[..., 0].sum(1)
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_the_average_follows_its_formula_and_swaps_in_and_out():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    ema = EMA(model, decay=0.9)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(1, 4):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
        ema.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * p.detach() for name, p in model.named_parameters()}
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="inside"), ema.swapped_in(model):
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), average[name])
        raise RuntimeError("inside")
    for name, p in model.named_parameters():
        assert p.detach().equal(trained[name])
        torch.testing.assert_close(ema.average[name], average[name])
