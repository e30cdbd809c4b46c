"""Convolutional and image networks as CMR encoders. Imports torch and timm.

All start from random weights: nothing here knows photographs or films.
"""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmark.encoders import Features


class FramesAsColours(nn.Module):
    """A network for photographs that reads the frames of one slice as its colours.

    Parameters
    ----------
    trunk
        Maps (batch, frames, rows, columns) to (batch, width).
    resize
        Pixels per side to which frames are enlarged first; None leaves them.
    centred
        Whether [0, 1] is mapped to [-1, 1] first.
    """

    def __init__(
        self, trunk: nn.Module, width: int, resize: int | None = None, centred: bool = False
    ) -> None:
        super().__init__()
        self.trunk, self.width, self.resize, self.centred = trunk, width, resize, centred

    def forward(self, x: torch.Tensor) -> Features:
        """Encode (batch, [1,] frames, rows, columns)."""
        x = x.flatten(1, -3)
        if self.resize is not None:
            x = F.interpolate(x, size=(self.resize, self.resize), mode="bilinear")
        return Features(self.trunk(2 * x - 1 if self.centred else x))


def resnet50(frames: int, width: int = 2048) -> nn.Module:
    """Make timm's ``resnet50``: 23,508,032 parameters on three frames; 2048 wide features."""
    widths = tuple(width * share // 32 for share in (1, 2, 4, 8))
    # Branches start open, as torchvision's do: closed ones get no gradient at the first update.
    trunk = timm.create_model(
        "resnet50", in_chans=frames, channels=widths, num_classes=0, zero_init_last=False
    )
    # A fifth faster on two cores.
    return trunk.to(memory_format=torch.channels_last)


def swin_t(frames: int, size: int, width: int = 768) -> nn.Module:
    """Make timm's ``swin_tiny_patch4_window7_224`` for images of ``size`` pixels per side.

    Widths 96 to 768, depths 2-2-6-2, heads of 32, windows of 7; dropout 0.1 and drop path 0.2 as
    Ding et al. 2024 have it. Features are averaged over the last map.
    """
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        in_chans=frames,
        img_size=size,
        embed_dim=width // 8,
        num_heads=tuple(width * share // 256 for share in (1, 2, 4, 8)),
        num_classes=0,
        proj_drop_rate=0.1,
        attn_drop_rate=0.1,
        drop_path_rate=0.2,
    )


def vit_16(frames: int, size: int, width: int, depth: int, heads: int) -> nn.Module:
    """Make timm's ``vit_base_patch16_224`` for images of ``size`` pixels per side.

    Features are the class token's after the final norm.
    """
    return timm.create_model(
        "vit_base_patch16_224",
        in_chans=frames,
        img_size=size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
    )


class VolumeResNet50(nn.Module):
    """MONAI's 3D ResNet50 of one volume, mapped to [-1, 1] first.

    Slices are few and far apart: the first convolution and the pooling after it work within them.
    Behind them all 3 x 3 kernels reach the neighbouring slices too, and each of the last three
    groups of blocks halves the number of slices.

    Parameters
    ----------
    width
        Of the features: 2048 for the published size.
    """

    def __init__(self, width: int = 2048) -> None:
        from monai.networks.nets.resnet import ResNet

        super().__init__()
        self.width = width
        trunk = ResNet(
            "bottleneck",
            [3, 4, 6, 3],
            [width * share // 32 for share in (1, 2, 4, 8)],
            spatial_dims=3,
            n_input_channels=1,
            conv1_t_size=(1, 7, 7),
            conv1_t_stride=(1, 2, 2),
            feed_forward=False,
            bias_downsample=False,
        )
        # CUDA has no deterministic gradient for pooling in three dimensions.
        trunk.maxpool, trunk.avgpool = _PoolWithinSlices(), _Mean()
        self.trunk = trunk

    def forward(self, x: torch.Tensor) -> Features:
        """Encode (batch, slices, rows, columns)."""
        return Features(self.trunk(2 * x.unsqueeze(1) - 1))


class _PoolWithinSlices(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.max_pool2d(x.flatten(1, 2), kernel_size=3, stride=2, padding=1)
        return pooled.unflatten(1, x.shape[1:3])


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3, 4))


class CineLSTM(nn.Module):
    """ResNet50 of every frame, a linear layer, and a one-layer LSTM; features are its last state.

    Frames are mapped to [-1, 1] first.
    """

    def __init__(self, frame_width: int = 2048, width: int = 768) -> None:
        super().__init__()
        self.width = width
        self.trunk = resnet50(1, frame_width)
        self.linear = nn.Linear(frame_width, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x: torch.Tensor) -> Features:
        """Encode (batch, 1, frames, rows, columns)."""
        frames = self.trunk(2 * x.flatten(0, 2).unsqueeze(1) - 1)
        _, (state, _) = self.lstm(self.linear(frames).unflatten(0, (len(x), -1)))
        return Features(state[-1])
