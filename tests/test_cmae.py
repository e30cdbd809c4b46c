"""The cross-modal autoencoder: layers, losses, and what trains what."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmark.api import Batch
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.engine.training import build
from benchmark.registry import registry
from benchmark.stage import bind
from methods.blocks.convolutional import CMAE_CMR, CMAE_ECG
from methods.blocks.convolutional_networks import (
    DenselyConnected,
    Residual,
    pooled_shape,
)
from methods.cmae_start import reconstruction_error

ECG_SHAPE, CMR_SHAPE = (12, 600), (1, 50, 96, 96)
PARTS = {"ecg", "cmr", "ecg_decoder", "cmr_decoder"}


def make(scale="smoke", **changes):
    entry = registry().method("cmae")
    method = entry.on_track("paper", scale).replace(**changes)
    return bind(method, cohort=SimulatedCohort(people=300), seed=0)


def batch_for(method, people=4, training=True):
    generator = torch.Generator().manual_seed(1)
    views = {
        name: torch.rand(people, *view.shape, generator=generator)
        for name, view in method.views().items()
    }
    return Batch(views, training=training, progress=0.0)


def count(module):
    return sum(p.numel() for p in module.parameters())


# ------------------------------------------------------------------------------------- networks


def dense(inputs, filters, depth, kernel):
    """Weights and biases of convolutions that read everything before them."""
    return sum((inputs + n * filters) * filters * kernel + filters for n in range(depth))


def test_encoders_and_decoders_have_the_published_sizes():
    ecg, ecg_decoder = CMAE_ECG.build(ECG_SHAPE)
    stem = (12 * 71 * 23 + 23) + (23 * 71 * 23 + 23) + (23 * 23 + 23)
    code = 300 * 46 * 256 + 256 + 2 * 256
    assert count(ecg) == stem + dense(23, 46, 5, 71) + code == 5_469_501
    there = 256 * 300 * 46 + 300 * 46
    assert count(ecg_decoder) == there + dense(46, 46, 5, 71) + 46 * 12 + 12

    cmr, cmr_decoder = CMAE_CMR.build(CMR_SHAPE)
    stem = (50 * 9 * 24 + 24) + (24 * 9 * 24 + 24) + (24 * 24 + 24)
    levels = dense(24, 40, 3, 9) + 2 * dense(40, 40, 3, 9)
    code = 12 * 12 * 40 * 256 + 256 + 2 * 256
    assert count(cmr) == stem + levels + code == 1_734_240
    there = 256 * 12 * 12 * 40 + 12 * 12 * 40
    assert count(cmr_decoder) == there + 3 * dense(40, 40, 3, 9) + 40 * 50 + 50


@pytest.mark.parametrize(("network", "shape"), [(CMAE_ECG, ECG_SHAPE), (CMAE_CMR, CMR_SHAPE)])
def test_codes_have_256_numbers_and_decode_to_what_was_encoded(network, shape):
    encoder, decoder = network.build(shape)
    x = torch.rand(2, *shape)
    with torch.no_grad():
        features = encoder(x)
        assert features.tokens is None
        assert features.pooled.shape == (2, encoder.width) == (2, 256)
        assert (
            decoder(features.pooled).shape
            == encoder.target(x).shape
            == (2, *shape[-len(encoder.size) :])
        )
        # The code comes out of a fresh layer norm.
        assert features.pooled.mean(1).abs().max() < 1e-5


@pytest.mark.parametrize(("dimensions", "extent"), [(1, (20,)), (2, (6, 8))])
def test_residual_block_adds_what_it_read(dimensions, extent):
    block = Residual(dimensions, 3, (4, 4, 4), 3, "gelu").double()
    x = torch.randn(2, 3, *extent, dtype=torch.float64)
    convolve = (functional.conv1d, functional.conv2d)[dimensions - 1]
    weights = [(c.weight, c.bias) for c in block.convolutions]
    expected = functional.gelu(convolve(x, *weights[0], padding=1))
    for (weight, bias), residual in zip(weights[1:], block.residuals, strict=True):
        y = functional.gelu(convolve(expected, weight, bias, padding=1))
        # A convolution over single points is a matrix product over channels.
        mixed = torch.einsum("oc,bc...->bo...", residual.weight.flatten(1), y)
        expected = expected + mixed + residual.bias.reshape(1, -1, *[1] * dimensions)
    torch.testing.assert_close(block(x), expected)


def test_densely_connected_layers_read_all_before_them():
    block = DenselyConnected(1, 3, 5, 3, 7, "mish").double()
    assert [c.in_channels for c in block.convolutions] == [3, 8, 13]
    x = torch.randn(2, 3, 30, dtype=torch.float64)

    def layer(n, *parts):
        convolution = block.convolutions[n]
        y = functional.conv1d(torch.cat(parts, 1), convolution.weight, convolution.bias, padding=3)
        return y * torch.tanh(torch.log1p(torch.exp(y)))

    first = layer(0, x)
    second = layer(1, x, first)
    torch.testing.assert_close(block(x), layer(2, x, first, second))


def test_a_size_that_cannot_be_halved_is_refused():
    assert pooled_shape((50, 96, 96), (40, 40, 40)) == (40, 12, 12)
    with pytest.raises(ValueError, match="no multiple of 8"):
        pooled_shape((50, 96, 84), (40, 40, 40))


def test_cines_are_standardised_one_by_one_and_ecgs_keep_their_voltage():
    method = make()
    encoders = build(method)
    batch = batch_for(method)
    target = encoders.cmr.target(batch.cmr)
    assert target.mean((1, 2, 3)).numpy() == pytest.approx(np.zeros(4), abs=1e-5)
    assert target.std((1, 2, 3), correction=0).numpy() == pytest.approx(np.ones(4), abs=1e-4)
    with torch.no_grad():
        code = encoders.cmr(batch.cmr).pooled
        torch.testing.assert_close(
            encoders.cmr(0.3 * batch.cmr + 0.5).pooled, code, atol=1e-3, rtol=0
        )
        assert torch.isfinite(encoders.cmr(torch.zeros_like(batch.cmr)).pooled).all()
        doubled = encoders.ecg(2 * batch.ecg).pooled
        assert (doubled - encoders.ecg(batch.ecg).pooled).abs().max() > 0.01
    assert torch.equal(encoders.ecg.target(batch.ecg), batch.ecg)


# ------------------------------------------------------------------------------------- losses


class Constant(torch.nn.Module):
    """Gives back the same whatever the code."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, code):
        return self.output


def test_ecg_errors_cost_their_log_cosh_and_cine_errors_their_square():
    method = make()
    encoders = build(method)
    batch = batch_for(method, people=3)
    generator = torch.Generator().manual_seed(2)
    for modality in ("ecg", "cmr"):
        target = getattr(encoders, modality).target(batch.views[modality])
        # Small errors and some far beyond what cosh can hold in single precision.
        size = 10 ** torch.empty_like(target).uniform_(-3, 2.5, generator=generator)
        error = size * torch.randn(target.shape, generator=generator)
        setattr(encoders, f"{modality}_decoder", Constant(target + error))
        x = ((target + error) - target).double().numpy()
        expected = np.logaddexp(x, -x) - np.log(2) if modality == "ecg" else x**2
        loss = reconstruction_error(encoders, modality, batch, torch.zeros(3, 16))
        assert loss.item() == pytest.approx(expected.mean(), rel=1e-5)


def keras_cross_entropy(truth, prediction):
    """``CategoricalCrossentropy`` summed over the batch: normalised and clipped predictions."""
    prediction = prediction / prediction.sum(-1, keepdims=True)
    return -(truth * np.log(np.clip(prediction, 1e-7, 1 - 1e-7))).sum()


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("scale", [0.0, 1.3])
@pytest.mark.parametrize("pair", ["contrast", "coded"])
def test_pair_loss_against_the_formula(pair, scale):
    method = make(pair=pair)
    encoders = build(method).double()
    encoders.log_scale.value.data.fill_(scale)
    rng = np.random.default_rng(3)
    ecg, cmr = rng.normal(size=(2, 5, 16))
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (ecg, cmr)]
    found = [softmax(np.exp(scale) * x) for x in (unit[0] @ unit[1].T, unit[1] @ unit[0].T)]
    if pair == "contrast":
        expected = -np.mean([np.log(np.diag(p)).mean() for p in found])
    else:
        expected = np.mean([keras_cross_entropy(p, np.eye(5)) for p in found]) / 5
    loss = method.pair_loss(encoders, torch.from_numpy(ecg), torch.from_numpy(cmr))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert encoders.log_scale.value.grad.abs() > 1e-3


def test_pair_losses_at_certainty_and_at_chance():
    intended, coded = make(), make(pair="coded")
    encoders = build(intended)
    same = torch.ones(4, 16)
    assert intended.pair_loss(encoders, same, same).item() == pytest.approx(math.log(4))
    assert coded.pair_loss(encoders, same, same).item() == pytest.approx(0.75 * 16.118, abs=2e-3)
    encoders.log_scale.value.data.fill_(6.0)
    certain = torch.eye(4, 16)
    assert intended.pair_loss(encoders, certain, certain).item() == pytest.approx(0, abs=1e-6)
    assert coded.pair_loss(encoders, certain, certain).item() == pytest.approx(0, abs=1e-6)


def test_both_decoders_read_one_mixture_of_the_two_codes():
    method = make("full", pair_weight=0.1)
    encoders = build(method)
    read = {}
    for modality in ("ecg", "cmr"):
        decoder = getattr(encoders, f"{modality}_decoder")
        decoder.register_forward_pre_hook(lambda _, x, name=modality: read.update({name: x[0]}))
    drawn = []
    for training in (True, False):
        batch = batch_for(method, people=2, training=training)
        with torch.no_grad():
            terms = method.loss(encoders, batch)
            ecg, cmr = encoders.ecg(batch.ecg).pooled, encoders.cmr(batch.cmr).pooled
        assert torch.equal(read["ecg"], read["cmr"])
        from_ecg, from_cmr = read["ecg"] == ecg, read["ecg"] == cmr
        assert (from_ecg ^ from_cmr).all()
        assert torch.equal(from_ecg[0], from_ecg[1])
        assert from_ecg[0].float().mean().item() == pytest.approx(0.5, abs=0.15)
        drawn.append(from_ecg[0])
        pair = 0.1 * method.pair_loss(encoders, ecg, cmr)
        assert terms["pair"].item() == pytest.approx(pair.item(), rel=1e-5)
        for modality in ("ecg", "cmr"):
            error = reconstruction_error(encoders, modality, batch, read["ecg"])
            assert terms[modality].item() == pytest.approx(error.item(), rel=1e-4)
    assert not torch.equal(*drawn)


# ------------------------------------------------------------------------------------- stages


def test_every_parameter_of_every_stage_receives_a_gradient():
    method = make()
    for stage in (method, method.ecg, method.cmr):
        encoders = build(stage)
        sum(stage.loss(encoders, batch_for(stage)).values()).backward()
        without = [n for n, p in encoders.named_parameters() if not p.grad.abs().sum() > 0]
        assert not without


def test_joint_training_starts_from_both_autoencoders():
    method = make()
    joint = build(method)
    assert {n for n, part in joint.named_children() if count(part)} == PARTS | {"log_scale"}
    starts = method.initial_weights()
    assert set(starts) == PARTS
    for part, stage in starts.items():
        weights = build(stage).state_dict()
        own = {
            k.removeprefix(f"{part}."): v for k, v in weights.items() if k.startswith(f"{part}.")
        }
        getattr(joint, part).load_state_dict(own)
    assert not method.uses_labels


def test_the_code_is_the_shared_space():
    method = make()
    encoders = build(method)
    assert method.two_tower
    code = torch.rand(3, 16)
    assert encoders.project_ecg(code) is code
    assert encoders.project_cmr(code) is code


def test_paper_recipe():
    recipe = make("full").recipe
    assert recipe == make("full").ecg.recipe == make("full").cmr.recipe
    assert recipe.steps(28_000) == (696, 128)
    assert (recipe.batch_size, recipe.patience, recipe.learning_rate) == (4, 64, 5e-5)
    assert recipe.optimiser == "adam"
    assert recipe.weight_decay == 0


def test_rehearsal_is_small_and_of_the_same_parts():
    small = build(make())
    assert {n for n, _ in small.named_children()} == {
        n for n, _ in build(make("full")).named_children()
    }
    assert count(small) < 150_000
    assert make().views()["cmr"].shape == (1, 10, 32, 32)
