"""The vision transformer that encodes patches of an ECG or of a cine. Imports torch."""

from __future__ import annotations

import math

import torch
from timm.models.vision_transformer import Block
from torch import nn

from benchmark.encoders import Features


def sincos_positions(grid: tuple[int, ...], width: int, base: float) -> torch.Tensor:
    """Return a fixed (tokens, width) sine-cosine table, the width shared out over the axes.

    For an ECG (leads, times) each axis gets half; for a cine (times, rows, columns) time gets half
    and each image axis a quarter. ``base`` is the ratio of the longest to the shortest wavelength:
    the usual 10,000 is made for hundreds of positions and is almost flat over ten.
    """
    halves = [width // 4] * 2 if len(grid) == 2 else [width // 4] + [width // 8] * 2
    if sum(halves) * 2 != width:
        raise ValueError(f"a width of {width} cannot be shared out over {len(grid)} axes")
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in grid], indexing="ij")
    parts = []
    for axis, half in zip(axes, halves, strict=True):
        frequency = base ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = axis.reshape(-1, 1) * frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).float()


def patchify(x: torch.Tensor, patch: tuple[int, ...]) -> torch.Tensor:
    """Cut (batch, *size) into (batch, tokens, values), tokens in row-major order of the grid."""
    axes: list[int] = []
    for size, step in zip(x.shape[1:], patch, strict=True):
        axes += [size // step, step]
    x = x.reshape(len(x), *axes)
    n = len(patch)
    x = x.permute(0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2))
    return x.reshape(len(x), math.prod(axes[0::2]), math.prod(patch))


class PatchViT(nn.Module):
    """Pre-norm vision transformer over non-overlapping patches.

    Parameters
    ----------
    size
        Shape of one input: (leads, samples) or (frames, rows, columns).
    patch
        Shape of one patch, such as (1, 100) or (2, 12, 12).

    Notes
    -----
    Features are pooled as the mean of the patch tokens after the final norm.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        patch: tuple[int, ...],
        width: int,
        depth: int,
        heads: int,
        cls_token: bool,
        position_base: float,
    ) -> None:
        super().__init__()
        if any(s % p for s, p in zip(size, patch, strict=True)):
            raise ValueError(f"patches of {patch} do not tile an input of {size}")
        self.size, self.patch, self.width = size, patch, width
        self.grid = tuple(s // p for s, p in zip(size, patch, strict=True))
        self.embed = nn.Linear(math.prod(patch), width)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02) if cls_token else None
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=4, qkv_bias=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        table = sincos_positions(self.grid, width, position_base)
        self.register_buffer("positions", table, persistent=False)
        self.apply(_initialise)

    @property
    def tokens(self) -> int:
        """Number of patches."""
        return math.prod(self.grid)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """Cut (batch, *size), or with a channel axis of one before the size, into patches."""
        return patchify(x.reshape(len(x), *self.size), self.patch)

    def forward(self, x: torch.Tensor, keep: torch.Tensor | None = None) -> Features:
        """Encode all patches, or only those whose indices (batch, kept) are given."""
        z = self.embed(self.patches(x)) + self.positions
        if keep is not None:
            z = z.gather(1, keep.unsqueeze(-1).expand(-1, -1, z.shape[-1]))
        if self.cls is not None:
            z = torch.cat([self.cls.expand(len(z), -1, -1), z], dim=1)
        for block in self.blocks:
            z = block(z)
        z = self.norm(z)
        if self.cls is not None:
            z = z[:, 1:]
        return Features(z.mean(dim=1), z)

    def first_layers(self, blocks: int) -> list[nn.Module]:
        """Return the patch embedding and the first blocks: what methods freeze."""
        return [self.embed, *self.blocks[:blocks]]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def projector(width: int, hidden: int, out: int) -> nn.Sequential:
    """Linear-ReLU-Linear without batch norm, as MMCL's contrastive stages use it."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))


def normalised_projector(width: int, hidden: int, out: int) -> nn.Sequential:
    """Linear-BatchNorm-ReLU-Linear, as BYOL and Barlow Twins need it."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    )
