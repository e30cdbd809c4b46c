"""Masked autoencoding of patches (He et al. 2022), for the ECG and for the cine alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.stage import Spec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchmark.encoders import Encoders
    from methods.blocks.vit import PatchViT


@dataclass(frozen=True, kw_only=True)
class Decoder(Spec):
    """Size of the decoder; the defaults are MMCL's: 1,704,548 parameters on its ECG encoder."""

    width: int = 256
    depth: int = 2
    heads: int = 8

    def build(self, encoder: PatchViT, position_base: float) -> nn.Module:
        """Make the decoder that belongs to an encoder."""
        return _make_decoder(self, encoder, position_base)


def _make_decoder(sizes: Decoder, encoder: PatchViT, position_base: float) -> nn.Module:
    import math

    import torch
    from timm.models.vision_transformer import Block
    from torch import nn

    from methods.blocks.vit import sincos_positions

    class MaskedDecoder(nn.Module):
        """Fill the hidden places with one learned token and predict every patch."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(encoder.width, sizes.width)
            self.mask_token = nn.Parameter(torch.randn(1, 1, sizes.width) * 0.02)
            self.blocks = nn.ModuleList(
                Block(sizes.width, sizes.heads, mlp_ratio=4, qkv_bias=True)
                for _ in range(sizes.depth)
            )
            self.norm = nn.LayerNorm(sizes.width)
            self.head = nn.Linear(sizes.width, math.prod(encoder.patch))
            table = sincos_positions(encoder.grid, sizes.width, position_base)
            self.register_buffer("positions", table, persistent=False)

        def forward(self, visible: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            """Map (batch, kept, width) and the kept indices to (batch, tokens, patch values)."""
            visible = self.embed(visible)
            z = self.mask_token.to(visible.dtype).expand(len(visible), len(self.positions), -1)
            z = z.scatter(1, keep.unsqueeze(-1).expand_as(visible), visible) + self.positions
            for block in self.blocks:
                z = block(z)
            return self.head(self.norm(z))

    return MaskedDecoder()


def visible_tokens(tokens: int, mask_ratio: float) -> int:
    """Return how many tokens stay visible: 59 of 300 at 0.8.

    The reference code truncates 300 x (1 - 0.8) = 59.999...; exact arithmetic would give 60.
    """
    return int(tokens * (1 - mask_ratio))


def mask_and_reconstruct(
    encoders: Encoders, modality: str, x: torch.Tensor, mask_ratio: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hide a random share of the patches, uniformly per person, and predict all of them.

    Returns
    -------
    prediction, target
        (batch, tokens, patch values).
    hidden
        (batch, tokens), 1 where the patch was hidden.
    """
    import torch

    encoder, decoder = getattr(encoders, modality), getattr(encoders, f"{modality}_decoder")
    count = visible_tokens(encoder.tokens, mask_ratio)
    order = torch.rand(len(x), encoder.tokens, device=x.device).argsort(dim=1)
    keep = order[:, :count]
    features = encoder(x, keep)
    prediction = decoder(features.tokens, keep)
    hidden = torch.ones(len(x), encoder.tokens, device=x.device).scatter(1, keep, 0.0)
    return prediction, encoder.patches(x), hidden
