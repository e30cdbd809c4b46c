"""Masked autoencoding of patches (He et al. 2022), for the ECG and for the cine alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmark.api import UserError
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

    def rehearsal(self) -> dict[str, Any]:
        """Keep the heads, narrow."""
        return {"width": 4 * self.heads, "depth": min(self.depth, 2)}


BASE_DECODER = Decoder(width=512, depth=8, heads=16)
"""What the reference code gives an encoder of width 768."""


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
            self.norm = nn.LayerNorm(sizes.width, eps=1e-6)
            self.head = nn.Linear(sizes.width, math.prod(encoder.patch))
            table = sincos_positions(encoder.grid, sizes.width, position_base)
            self.register_buffer("positions", table, persistent=False)

        def forward(self, visible: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            """Map (batch, kept, width) and the kept indices to (batch, tokens, patch values).

            A class token in front of the kept ones is attended to, without a position.
            """
            first = visible.shape[1] - keep.shape[1]
            cls, visible = self.embed(visible).tensor_split([first], dim=1)
            z = self.mask_token.to(visible.dtype).expand(len(visible), len(self.positions), -1)
            z = z.scatter(1, keep.unsqueeze(-1).expand_as(visible), visible) + self.positions
            z = torch.cat([cls, z], dim=1)
            for block in self.blocks:
                z = block(z)
            return self.head(self.norm(z[:, first:]))

    return MaskedDecoder()


def visible_tokens(tokens: int, mask_ratio: float) -> int:
    """Return how many tokens stay visible: 59 of 300 at 0.8.

    The reference code truncates 300 x (1 - 0.8) = 59.999...; exact arithmetic would give 60.

    Raises
    ------
    UserError
        When all or none would be visible: there is nothing to read, or nothing to fill in.
    """
    visible = int(tokens * (1 - mask_ratio))
    if not 0 < visible < tokens:
        raise UserError(
            f"mask_ratio is {mask_ratio}, which leaves {max(visible, 0):,} of {tokens:,} patches "
            "visible; it is a share between 0 and 1"
        )
    return visible


class Reconstruction(NamedTuple):
    """What a masked autoencoder makes of a batch.

    Attributes
    ----------
    prediction, target
        (batch, tokens, patch values).
    hidden
        (batch, tokens), 1 where the patch was hidden.
    visible
        Tokens of the visible patches (batch, kept, width).
    """

    prediction: torch.Tensor
    target: torch.Tensor
    hidden: torch.Tensor
    visible: torch.Tensor

    def error(self, on: Literal["all", "hidden"]) -> torch.Tensor:
        """Return the mean squared error over all patches or over the hidden ones alone."""
        squares = (self.prediction - self.target).square()
        if on == "all":
            return squares.mean()
        return (squares.mean(-1) * self.hidden).sum() / self.hidden.sum()

    def correlation(self, leads: int) -> torch.Tensor:
        """Return the mean correlation of signal and reconstruction along the time of each lead."""
        from methods.blocks.losses import correlation_over_time

        shape = (len(self.target), leads, -1)
        return correlation_over_time(
            self.prediction.reshape(shape), self.target.reshape(shape)
        ).mean()


def visible_places(encoder: PatchViT, x: torch.Tensor, mask_ratio: float) -> torch.Tensor:
    """Draw which patches stay visible, uniformly per person: their indices (batch, kept)."""
    import torch

    order = torch.rand(len(x), encoder.tokens, device=x.device).argsort(dim=1)
    return order[:, : visible_tokens(encoder.tokens, mask_ratio)]


def similarity_heads(width: int) -> dict[str, nn.Module]:
    """Make the SimSiam projector and predictor that compare two maskings of one input."""
    from torch import nn

    from methods.blocks.vit import normalised_projector

    projector = nn.Sequential(
        normalised_projector(width, 1024, width, bias=False), nn.BatchNorm1d(width, affine=False)
    )
    predictor = normalised_projector(width, 128, width, bias=False)
    return {"similarity": projector, "predictor": predictor}


def similarity(
    encoders: Encoders, modality: str, x: torch.Tensor, visible: torch.Tensor, mask_ratio: float
) -> torch.Tensor:
    """Mask once more: how badly the mean visible tokens of two maskings predict each other."""
    from methods.blocks.losses import simsiam

    encoder = getattr(encoders, modality)
    again = encoder(x, visible_places(encoder, x, mask_ratio)).tokens
    projected = [encoders.similarity(z.mean(1)) for z in (visible, again)]
    return simsiam([encoders.predictor(p) for p in projected], projected)


def mask_and_reconstruct(
    encoders: Encoders, modality: str, x: torch.Tensor, mask_ratio: float
) -> Reconstruction:
    """Hide a random share of the patches and predict all of them."""
    import torch

    encoder, decoder = getattr(encoders, modality), getattr(encoders, f"{modality}_decoder")
    keep = visible_places(encoder, x, mask_ratio)
    encoded = encoder.encode(x, keep)
    hidden = torch.ones(len(x), encoder.tokens, device=x.device).scatter(1, keep, 0.0)
    visible = encoded[:, -keep.shape[1] :]
    return Reconstruction(decoder(encoded, keep), encoder.patches(x), hidden, visible)
