"""The image networks of the papers, and what stands for them in the harmonised track."""

import pytest
import torch
from torch import nn

from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.cohorts.views import EDESVolumes, MidSliceCine, ThreePhases
from benchmark.registry import registry
from methods.blocks.backbones import CMRViT, PhasesViT
from methods.blocks.harmonised import SCALES, _cmr_encoder
from methods.blocks.image_backbones import (
    CineResNetLSTM,
    CMRFramesViT,
    CMRResNet50,
    CMRSwinT,
    CMRViTB16,
    PhasesResNet3D,
    SliceResNet50,
)
from methods.blocks.image_networks import FramesAsColours, VolumeResNet50

COHORT = SimulatedCohort(people=300)
ECCL_RESNET50 = CMRResNet50(frames=50, size=80, resize=224, centred=True)
SPECS = {
    "resnet50": CMRResNet50(),
    "eccl-resnet50": ECCL_RESNET50,
    "swin": CMRSwinT(),
    "vit": CMRViTB16(),
    "eccl-vit": CMRFramesViT(),
    "3d": PhasesResNet3D(),
    "2d": SliceResNet50(),
    "2d-time": CineResNetLSTM(),
}


def count(module):
    return sum(p.numel() for p in module.parameters())


def rehearsed(name):
    spec = SPECS[name]
    small = spec.replace(**spec.rehearsal())
    torch.manual_seed(0)
    return small, small.build()


# torchvision's ResNet50, Swin-T and ViT-B/16 with the 1000-class layer: 25_557_032, 28_288_354 and
# 86_567_656. More channels enter the first convolution alone.
RESNET50 = 25_557_032 - 2_049_000


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet50", RESNET50),
        ("eccl-resnet50", RESNET50 + 47 * 7 * 7 * 64),
        ("swin", 28_288_354 - 769_000 + 47 * 4 * 4 * 96),
        ("vit", 86_567_656 - 769_000),
        ("eccl-vit", 86_567_656 - 769_000 + 47 * 16 * 16 * 768),
        ("2d", RESNET50 - 2 * 7 * 7 * 64),
        # Linear 2048-768 and an LSTM of 768: four gates, two biases each.
        ("2d-time", RESNET50 - 2 * 7 * 7 * 64 + 2049 * 768 + 8 * 768 * 769),
    ],
)
def test_networks_have_the_parameters_of_the_reference(name, parameters):
    with torch.device("meta"):
        assert count(SPECS[name].build()) == parameters


def test_the_3d_network_is_a_resnet50_with_cubic_kernels():
    # Bottlenecks of (1, 1), (3, 3) and (1, 1) become (1, 1, 1), (3, 3, 3) and (1, 1, 1): two thirds
    # of each group's 3 x 3 kernels come on top; the first convolution stays flat, of one channel.
    kernels = sum(n * 9 * c * c for n, c in zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True))
    with torch.device("meta"):
        assert count(VolumeResNet50()) == RESNET50 + 2 * kernels - 2 * 7 * 7 * 64


@pytest.mark.parametrize("name", SPECS)
def test_features_are_as_wide_as_said_and_nobody_else_changes_them(name):
    small, network = rehearsed(name)
    network.eval()
    x = torch.rand(3, *small.view(COHORT).shape)
    with torch.no_grad():
        together = network(x).pooled
        alone = torch.cat([network(one[None]).pooled for one in x])
    assert together.shape == (3, network.width)
    assert network.width == small.width * len(getattr(small, "phases", ("one",)))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SPECS)
def test_every_parameter_learns_and_every_frame_is_read(name):
    small, network = rehearsed(name)
    x = torch.rand(4, *small.view(COHORT).shape, requires_grad=True)
    network(x).pooled.square().sum().backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    read = x.grad.abs().sum((0, -1, -2)) > 0
    assert read[0].all() if name == "2d" else read.all()


def test_views_are_those_of_the_papers():
    assert SPECS["resnet50"].view(COHORT) == ThreePhases(cohort=COHORT, size=78, spacing=1.8)
    cine = MidSliceCine(cohort=COHORT, frames=50, size=80, spacing=1.8)
    for name in ("swin", "eccl-resnet50", "eccl-vit"):
        assert SPECS[name].view(COHORT) == cine
    stack = EDESVolumes(cohort=COHORT, slices=6, size=112, spacing=1.8)
    assert SPECS["3d"].view(COHORT) == stack
    assert SPECS["2d"].view(COHORT) == stack.replace(slices=1)


def test_frames_are_enlarged_and_centred():
    network = FramesAsColours(nn.Identity(), 1, resize=6, centred=True)
    x = torch.rand(2, 1, 3, 4, 4)
    seen = network(x).pooled
    assert seen.shape == (2, 3, 6, 6)
    assert seen.min() >= -1
    flat = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 1, 3, 4, 4)
    assert network(flat).pooled.flatten(1).unique(dim=1).tolist() == [[-1], [1]]
    plain = FramesAsColours(nn.Identity(), 1)
    assert torch.equal(plain(x).pooled, x[:, 0])


def test_slices_are_halved_after_the_first_group_of_blocks():
    _, network = rehearsed("3d")
    trunk = network.networks["ed"].trunk
    shapes = []
    for layer in (trunk.maxpool, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
        layer.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[2:])))
    network(torch.rand(2, 2, 6, 48, 48))
    assert shapes[:5] == [(6, 12, 12), (6, 12, 12), (3, 6, 6), (2, 3, 3), (1, 2, 2)]


def test_the_volume_is_pooled_slice_by_slice():
    pool = VolumeResNet50(64).trunk.maxpool
    x = torch.randn(2, 3, 4, 9, 9)
    expected = nn.functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    assert torch.equal(pool(x), expected)


def test_the_cine_is_read_in_order_and_from_the_last_state():
    small, network = rehearsed("2d-time")
    network.eval()
    x = torch.rand(2, *small.view(COHORT).shape)
    with torch.no_grad():
        pooled = network(x).pooled
        frames = torch.stack([network.trunk(2 * x[:, :, k] - 1) for k in range(small.frames)], 1)
        outputs, _ = network.lstm(network.linear(frames))
        torch.testing.assert_close(pooled, outputs[:, -1], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(pooled, network(x.flip(2)).pooled, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_the_harmonised_track_looks_at_the_same_with_one_transformer(name):
    shared = SCALES["tiny"].cmr_encoder
    theirs, own = SPECS[name], _cmr_encoder(SPECS[name], shared, supervised=False)
    assert (own.width, own.depth, own.heads) == (shared.width, shared.depth, shared.heads)
    view, seen = theirs.view(COHORT), own.view(COHORT)
    assert type(seen) is type(view)
    assert (seen.size, seen.spacing) == (shared.size, shared.spacing)
    if isinstance(view, EDESVolumes):
        assert isinstance(own, PhasesViT)
        assert (own.phases, own.slices) == (theirs.phases, theirs.slices)
    elif isinstance(view, ThreePhases):
        assert own == shared.replace(frames=3, patch=(1, 16, 16))
    else:
        assert own == shared


def test_supervised_references_keep_their_networks():
    own = registry().method("cmr-supervised").on_track("harmonised", "tiny").cmr_encoder
    shared = SCALES["tiny"].cmr_encoder
    assert own == CMRResNet50(size=shared.size, spacing=shared.spacing, resize=None)
    methods = registry().methods
    names = [name for name in methods if name.startswith(("cmr-supervised@", "cmr-swin"))]
    full = {name: methods[name].on_track("paper", "full").cmr_encoder for name in names}
    assert full == {
        "cmr-supervised@mmcl": CMRResNet50(),
        "cmr-supervised@ptacl": CMRViT(positions="learned"),
        "cmr-swin": CMRSwinT(),
    }
