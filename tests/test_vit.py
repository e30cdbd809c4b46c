"""The patch transformer, its positions, poolings and weights, and the decoder behind it."""

import math

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from benchmark.encoders import Encoders
from methods.blocks.backbones import PTACL_CMR, CMRViT, ECGViT, PhasesViT
from methods.blocks.bases import DUAL_ECG, ECCL_ECG, PTACL_ECG
from methods.blocks.masked_autoencoder import Decoder, mask_and_reconstruct, visible_tokens
from methods.blocks.vit import PatchViT, normalised_projector, patchify, projector

SMALL = ECGViT(width=32, depth=3, heads=2, patch=25, rate=100)
SMALL_CMR = CMRViT(width=32, depth=3, heads=2, frames=4, size=24)
LEADS, TIMES = 12, 20


def count(module):
    return sum(p.numel() for p in module.parameters())


def on_meta(make):
    with torch.device("meta"):
        return make()


# ------------------------------------------------------------------------------- patches, tokens


def test_patchify_keeps_patches_whole():
    x = torch.arange(2 * 4 * 6).reshape(2, 4, 6)
    patches = patchify(x, (2, 3))
    assert patches.shape == (2, 4, 6)
    assert patches[0, 1].tolist() == x[0, :2, 3:].reshape(-1).tolist()
    assert patches[1, 2].tolist() == x[1, 2:, :3].reshape(-1).tolist()


@pytest.mark.parametrize(
    ("encoder", "grid", "ratio", "visible"),
    [
        (ECGViT(), (12, 25), 0.8, 59),
        (ECCL_ECG, (12, 50), 0.8, 119),
        (PTACL_ECG, (12, 50), 0.75, 150),
        (DUAL_ECG, (12, 50), 0.7, 180),
        (PTACL_CMR, (13, 7, 7), 0.9, 63),
    ],
    ids=["mmcl", "eccl", "ptacl", "dual", "ptacl-cmr"],
)
def test_tokens_are_as_many_as_published_and_so_are_the_visible_ones(encoder, grid, ratio, visible):
    network = on_meta(encoder.build)
    assert network.grid == grid
    assert network.tokens == math.prod(grid)
    assert visible_tokens(network.tokens, ratio) == visible


def test_patches_must_tile_the_input():
    with pytest.raises(ValueError, match="do not tile"):
        ECGViT(patch=99).build()


# -------------------------------------------------------------------------- against timm's network


def timm_twin(network, **pooling):
    """timm's transformer with the same weights; one lead's patch is an image patch of one row."""
    twin = VisionTransformer(
        img_size=network.size,
        patch_size=network.patch,
        in_chans=1,
        num_classes=0,
        embed_dim=network.width,
        depth=len(network.blocks),
        num_heads=network.blocks[0].attn.num_heads,
        **pooling,
    ).double()
    embed = network.embed
    own = {f"blocks.{name}": value for name, value in network.blocks.state_dict().items()}
    own |= {
        "patch_embed.proj.weight": embed.weight.reshape(network.width, 1, *network.patch),
        "patch_embed.proj.bias": embed.bias,
        "cls_token": embed.cls,
        "pos_embed": embed.positions[None],
    }
    norm, name = (network.norm, "norm") if network.pool_norm is None else (network.pool_norm, "")
    own |= {f"{name or 'fc_norm'}.{key}": value for key, value in norm.state_dict().items()}
    twin.load_state_dict(own)
    return twin.eval()


@pytest.mark.parametrize("positions", ["fixed", "trained", "learned"])
@pytest.mark.parametrize(
    ("pool", "pooling"),
    [
        ("mean", {"global_pool": "avg", "fc_norm": False}),
        ("cls", {"global_pool": "token"}),
        ("mean-then-norm", {"global_pool": "avg", "fc_norm": True}),
    ],
    ids=["mean", "cls", "mean-then-norm"],
)
def test_features_are_those_of_timms_transformer(pool, pooling, positions):
    network = SMALL.replace(pool=pool, positions=positions).build().double().eval()
    for norm in filter(None, (network.norm, network.pool_norm)):
        torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, LEADS, SMALL.samples, dtype=torch.float64)
    twin = timm_twin(network, **pooling)
    tokens = twin.forward_features(x[:, None])
    found = network(x)
    torch.testing.assert_close(found.pooled, twin.forward_head(tokens))
    torch.testing.assert_close(found.tokens, tokens[:, 1:])


def test_without_a_class_token_there_is_none_to_pool():
    network = SMALL.replace(cls_token=False).build()
    x = torch.randn(2, LEADS, SMALL.samples)
    features = network(x)
    assert features.tokens.shape == (2, LEADS * TIMES, 32)
    torch.testing.assert_close(features.pooled, features.tokens.mean(1))
    with pytest.raises(ValueError, match="class token"):
        SMALL.replace(cls_token=False, pool="cls").build()


def test_a_centred_input_is_centred_for_its_reconstruction_too():
    plain = SMALL_CMR.build().eval()
    centred = SMALL_CMR.replace(centred=True).build().eval()
    centred.load_state_dict(plain.state_dict())
    x = torch.rand(2, 1, 4, 24, 24)
    torch.testing.assert_close(centred(x).pooled, plain(2 * x - 1).pooled)
    torch.testing.assert_close(centred.patches(x), plain.patches(2 * x - 1))


def test_visible_patches_keep_their_places():
    network = SMALL.replace(positions="learned").build().eval()
    x = torch.randn(2, LEADS, SMALL.samples)
    order = torch.stack([torch.randperm(LEADS * TIMES) for _ in x])
    torch.testing.assert_close(
        network(x, order).tokens,
        network(x).tokens.gather(1, order[..., None].expand(-1, -1, 32)),
        atol=1e-5,
        rtol=1e-4,
    )


# ------------------------------------------------------------------------------------- positions


def sines_and_cosines(place, half, base):
    angle = [place * base ** (-k / half) for k in range(half)]
    return [math.sin(a) for a in angle] + [math.cos(a) for a in angle]


def test_positions_are_sines_and_cosines_of_every_axis():
    ecg = SMALL.replace(cls_token=False, position_base=100.0).build().embed.positions
    for lead in range(LEADS):
        for time in range(TIMES):
            expected = sines_and_cosines(lead, 8, 100.0) + sines_and_cosines(time, 8, 100.0)
            assert ecg[lead * TIMES + time].tolist() == pytest.approx(expected, abs=1e-6)
    cmr = SMALL_CMR.build().embed.positions[1:]
    for place, (time, row, column) in enumerate(np.ndindex(2, 2, 2)):
        expected = sines_and_cosines(time, 8, 10_000.0)
        expected += sines_and_cosines(row, 4, 10_000.0) + sines_and_cosines(column, 4, 10_000.0)
        assert cmr[place].tolist() == pytest.approx(expected, abs=1e-6)


def test_fixed_positions_are_no_weights_and_trained_ones_start_from_them():
    fixed, trained = SMALL.build(), SMALL.replace(positions="trained").build()
    assert "embed.positions" not in fixed.state_dict()
    assert isinstance(trained.embed.positions, torch.nn.Parameter)
    torch.testing.assert_close(trained.embed.positions.detach(), fixed.embed.positions)
    assert not fixed.embed.positions[0].any(), "the class token's sines and cosines are zero"


def test_learned_positions_are_a_truncated_normal():
    table = ECGViT(positions="learned").build().embed.positions
    assert table.shape == (301, 384)
    assert table.std().item() == pytest.approx(0.02, rel=0.02)
    assert table.mean().item() == pytest.approx(0, abs=3e-4)


@pytest.mark.parametrize("cls_token", [False, True])
@pytest.mark.parametrize("positions", ["trained", "learned"])
def test_every_position_receives_a_gradient(positions, cls_token):
    network = SMALL.replace(positions=positions, cls_token=cls_token).build()
    network(torch.randn(2, LEADS, SMALL.samples)).pooled.square().sum().backward()
    assert network.embed.positions.grad.abs().sum(1).gt(0).all()


# --------------------------------------------------------------------------------------- weights


def test_an_autoencoders_fixed_table_is_where_training_goes_on():
    pretrained = SMALL.build()
    encoder = SMALL.replace(positions="trained").build()
    encoder.load_state_dict(pretrained.state_dict())
    x = torch.randn(2, LEADS, SMALL.samples)
    assert torch.equal(encoder(x).pooled, pretrained(x).pooled)
    with torch.no_grad():
        encoder.embed.positions.add_(1.0)
    again = SMALL.replace(positions="trained").build()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.embed.positions, encoder.embed.positions)


def test_learned_tables_load_and_are_never_made_up():
    learned = SMALL.replace(positions="learned")
    pretrained, encoder = learned.build(), learned.build()
    assert not torch.equal(pretrained.embed.positions, encoder.embed.positions)
    encoder.load_state_dict(pretrained.state_dict())
    assert torch.equal(pretrained.embed.positions, encoder.embed.positions)
    with pytest.raises(RuntimeError, match=r"Missing key.*embed\.positions"):
        encoder.load_state_dict(SMALL.build().state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*embed\.positions"):
        SMALL.build().load_state_dict(pretrained.state_dict())


def test_the_norm_of_the_mean_is_not_the_autoencoders():
    pretrained = SMALL.build()
    torch.nn.init.normal_(pretrained.norm.weight)
    pooled = SMALL.replace(pool="mean-then-norm", positions="trained")
    encoder = Encoders(ecg=pooled.build())
    encoder.load_state_dict({f"ecg.{k}": v for k, v in pretrained.state_dict().items()})
    assert torch.equal(encoder.ecg.pool_norm.weight, torch.ones(32))
    assert torch.equal(encoder.ecg.blocks[2].mlp.fc2.weight, pretrained.blocks[2].mlp.fc2.weight)
    torch.nn.init.normal_(encoder.ecg.pool_norm.weight)
    again = Encoders(ecg=pooled.build())
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.ecg.pool_norm.weight, encoder.ecg.pool_norm.weight)


# ------------------------------------------------------------------------------------ regulation


def test_drop_path_rises_over_the_blocks_and_spares_evaluation():
    network = SMALL.replace(drop_path=1.0).build()
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.blocks]
    assert rates == [0.0, 0.5, 1.0]
    x = torch.randn(4, LEADS, SMALL.samples)
    torch.manual_seed(0)
    z = network.blocks[1](network.blocks[0](network.embed(network.patches(x))))
    torch.manual_seed(0)
    # The last block is always skipped.
    torch.testing.assert_close(network(x).tokens, network.norm(z)[:, 1:])
    plain = SMALL.build()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(x).pooled, plain.eval()(x).pooled)


def test_dropout_zeroes_embedded_values_in_training_alone():
    network = SMALL.replace(dropout=0.1).build()
    x = torch.randn(8, LEADS, SMALL.samples)
    zeros = (network.embed(network.patches(x)) == 0).float().mean().item()
    assert zeros == pytest.approx(0.1, abs=0.01)
    block = network.blocks[0]
    assert (block.attn.proj_drop.p, block.mlp.drop1.p, block.mlp.drop2.p) == (0.1, 0.1, 0.1)
    plain = SMALL.build()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(x).pooled, plain.eval()(x).pooled)


def test_frozen_layers_stay_bit_identical_with_their_table_and_class_token():
    network = SMALL.replace(positions="learned", drop_path=0.1, dropout=0.1).build()
    frozen = network.first_layers(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for layer in frozen:
        layer.requires_grad_(False).eval()
    held = {id(p) for layer in frozen for p in layer.parameters()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        network(torch.randn(4, LEADS, SMALL.samples)).pooled.square().sum().backward()
        optimiser.step()
    moved = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in network.named_parameters() if id(p) not in held}
    assert {"embed.cls", "embed.positions", "embed.weight", "blocks.1.norm1.bias"}.isdisjoint(moved)
    assert {n.split(".")[0] for n in moved} == {"blocks", "norm"}


# ----------------------------------------------------------------------------- masked autoencoder


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("positions", ["fixed", "trained", "learned"])
@pytest.mark.parametrize("settings", [SMALL, SMALL_CMR], ids=["ecg", "cmr"])
def test_masked_patches_are_predicted_whatever_the_encoder(settings, positions, pool):
    encoder = settings.replace(positions=positions, pool=pool).build()
    decoder = Decoder(width=32, depth=1, heads=2).build(encoder, 10_000.0)
    assert "positions" not in dict(decoder.named_parameters()), "the decoder's table is fixed"
    encoders = Encoders(ecg=encoder, ecg_decoder=decoder)
    x = torch.randn(3, *encoder.size)
    prediction, target, hidden, visible = mask_and_reconstruct(encoders, "ecg", x, 0.5)
    torch.testing.assert_close(target, patchify(x, encoder.patch))
    assert visible.shape == (3, visible_tokens(encoder.tokens, 0.5), 32)
    assert hidden.sum(1).tolist() == [encoder.tokens - visible_tokens(encoder.tokens, 0.5)] * 3
    (prediction - target).square().mean().backward()
    for name, parameter in encoders.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("cls_token", [False, True])
def test_the_decoder_puts_visible_patches_in_their_places(cls_token):
    encoder = SMALL.replace(cls_token=cls_token).build().double().eval()
    decoder = Decoder(width=32, depth=2, heads=2).build(encoder, 10_000.0).double().eval()
    x = torch.randn(2, LEADS, SMALL.samples, dtype=torch.float64)
    torch.manual_seed(0)
    found = mask_and_reconstruct(Encoders(ecg=encoder, ecg_decoder=decoder), "ecg", x, 0.8)
    for i in range(2):
        kept = [k for k in range(encoder.tokens) if not found.hidden[i, k]]
        z = encoder.embed(encoder.patches(x[i : i + 1]))[0]
        z = z[[*range(int(cls_token)), *(k + int(cls_token) for k in kept)]]
        for block in encoder.blocks:
            z = block(z[None])[0]
        z = encoder.norm(z)
        sequence = [decoder.mask_token[0, 0] + position for position in decoder.positions]
        for place, token in zip(kept, z[int(cls_token) :], strict=True):
            sequence[place] = decoder.embed(token) + decoder.positions[place]
        z = torch.stack([decoder.embed(token) for token in z[: int(cls_token)]] + sequence)
        for block in decoder.blocks:
            z = block(z[None])[0]
        expected = decoder.head(decoder.norm(z))[int(cls_token) :]
        torch.testing.assert_close(found.prediction[i], expected)


def test_a_hidden_patch_changes_no_prediction():
    encoder = SMALL.replace(positions="learned").build().eval()
    encoders = Encoders(ecg=encoder, ecg_decoder=Decoder(width=32).build(encoder, 100.0)).eval()
    x = torch.randn(1, LEADS, SMALL.samples)
    torch.manual_seed(0)
    prediction, _, hidden, _ = mask_and_reconstruct(encoders, "ecg", x, 0.8)
    patches = x.reshape(1, LEADS * TIMES, -1) + 7 * hidden[..., None]
    torch.manual_seed(0)
    changed, *_ = mask_and_reconstruct(encoders, "ecg", patches.reshape(x.shape), 0.8)
    assert torch.equal(prediction, changed)
    torch.manual_seed(0)
    seen, *_ = mask_and_reconstruct(encoders, "ecg", x + 1, 0.8)
    assert not torch.equal(prediction, seen)


# ----------------------------------------------------------------------------- rehearsal of a paper


@pytest.mark.parametrize(
    "settings",
    [
        ECGViT(),
        ECCL_ECG,
        PTACL_ECG,
        DUAL_ECG,
        DUAL_ECG.replace(width=192, heads=3),
        PTACL_CMR,
        CMRViT(width=768, depth=12, heads=12, patch=(50, 10, 10), frames=50, size=80),
        PhasesViT(),
    ],
)
def test_a_rehearsal_reads_the_same_with_little(settings):
    small = settings.replace(**settings.rehearsal())
    network, full = small.build(), on_meta(settings.build)
    assert count(network) < min(count(full) / 10, 4e5)
    if isinstance(network, PatchViT):
        assert (network.size, network.grid) == (full.size, full.grid)
        decoder = Decoder()
        decoder.replace(**decoder.rehearsal()).build(network, 10_000.0)


def test_ptacls_two_towers_share_one_width_in_a_rehearsal_too():
    ecg, cmr = (s.replace(**s.rehearsal()) for s in (PTACL_ECG, PTACL_CMR))
    assert ecg.width == cmr.width
    assert min(ecg.depth, cmr.depth) > 2, "with two blocks frozen nothing would be left to train"


# ------------------------------------------------------------------------------ parameter counts


@pytest.mark.parametrize(
    ("encoder", "parameters", "table"),
    [
        (ECGViT(), 5_363_328, 115_584),
        (ECCL_ECG, 85_134_336, 461_568),
        (PTACL_ECG, 18_941_952, 307_712),
        (PTACL_CMR, 12_759_040, 326_656),
        (DUAL_ECG.replace(width=192, heads=3), 5_358_336, 115_392),
        (DUAL_ECG.replace(width=384, heads=6), 21_333_504, 230_784),
        (DUAL_ECG, 47_925_504, 346_176),
        (DUAL_ECG.replace(width=768, heads=12), 85_134_336, 461_568),
    ],
    ids=[
        "mmcl",
        "eccl",
        "ptacl",
        "ptacl-cmr",
        "dual-tiny",
        "dual-small",
        "dual-medium",
        "dual-base",
    ],
)
def test_encoders_have_the_published_parameter_counts(encoder, parameters, table):
    for pool in ("mean", "mean-then-norm"):
        assert count(on_meta(encoder.replace(positions="fixed", pool=pool).build)) == parameters
    for positions in ("trained", "learned"):
        assert count(on_meta(encoder.replace(positions=positions).build)) == parameters + table


@pytest.mark.parametrize(
    ("encoder", "decoder", "parameters"),
    [(ECGViT(), Decoder(), 1_704_548), (DUAL_ECG, Decoder(), 1_753_700)],
    ids=["mmcl", "dual-medium"],
)
def test_decoders_have_the_published_parameter_counts(encoder, decoder, parameters):
    assert count(on_meta(lambda: decoder.build(encoder.build(), 10_000.0))) == parameters


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (lambda: projector(384, 512, 128), 262_784),
        (lambda: projector(2048, 512, 128), 1_114_752),
        (lambda: normalised_projector(384, 4096, 256), 2_629_888),
        (lambda: normalised_projector(256, 4096, 256), 2_105_600),
        (lambda: normalised_projector(384, 8192, 8192), 70_279_168),
    ],
    ids=["mmcl-signal", "mmcl-image", "byol", "byol-predictor", "barlowtwins"],
)
def test_projectors_have_the_published_parameter_counts(network, parameters):
    assert count(on_meta(network)) == parameters
