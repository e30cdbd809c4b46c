"""Swin-T as a CMR encoder. Imports torch and timm."""

from __future__ import annotations

import timm
import torch
from torch import nn

from benchmark.encoders import Features


class SwinT(nn.Module):
    """Swin-T that reads the frames of one slice as channels.

    timm's ``swin_tiny_patch4_window7_224`` from random weights (widths 96 to 768, depths 2-2-6-2,
    windows of 7, drop path 0.2), with dropout 0.1 as Ding et al. 2024 have it.

    Parameters
    ----------
    frames
        Channels of the patch embedding.
    size
        Rows and columns of a frame.
    """

    width = 768

    def __init__(self, frames: int, size: int) -> None:
        super().__init__()
        self.trunk = timm.create_model(
            "swin_tiny_patch4_window7_224",
            pretrained=False,
            in_chans=frames,
            img_size=size,
            num_classes=0,
            proj_drop_rate=0.1,
            attn_drop_rate=0.1,
            drop_path_rate=0.2,
        )

    def forward(self, x: torch.Tensor) -> Features:
        """Encode (batch, 1, frames, height, width); features are averaged over the last map."""
        return Features(self.trunk(x.flatten(1, 2)))
