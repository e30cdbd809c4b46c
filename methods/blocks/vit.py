"""The vision transformer that encodes patches of an ECG or of a cine. Imports torch."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from timm.layers import DropPath
from timm.models.vision_transformer import Block
from torch import nn

from benchmark.encoders import Features

Positions = Literal["fixed", "trained", "learned"]
Pool = Literal["mean", "cls", "mean-then-norm"]


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


class PatchEmbedding(nn.Linear):
    """Patches and, where there is one, the class token, each with its position.

    One module and a linear layer by kind, so that whoever freezes the embedding freezes the tables
    with it, and an encoder whose table is fixed has no weights beside the projection's.

    Parameters
    ----------
    grid
        Patches along each axis.
    values
        Numbers in one patch.
    positions
        ``fixed`` is a sine-cosine table, ``trained`` one that is a parameter and starts from
        there, ``learned`` a parameter that starts from a truncated normal of SD 0.02. The class
        token's sines and cosines are zero.
    dropout
        Share of the embedded values that is zeroed in training.
    """

    def __init__(
        self,
        grid: tuple[int, ...],
        values: int,
        width: int,
        cls_token: bool,
        positions: Positions,
        position_base: float,
        dropout: float,
    ) -> None:
        super().__init__(values, width)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02) if cls_token else None
        self.dropout = nn.Dropout(dropout)
        self._start = positions == "trained"
        table = sincos_positions(grid, width, position_base)
        table = torch.cat([table.new_zeros(int(cls_token), width), table])
        if positions == "fixed":
            self.register_buffer("positions", table, persistent=False)
        else:
            if positions == "learned":
                nn.init.trunc_normal_(table, std=0.02)
            self.positions = nn.Parameter(table)

    def forward(self, patches: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Map (batch, tokens, values) to (batch, class token and kept tokens, width)."""
        positions = self.positions if self.cls is None else self.positions[1:]
        if keep is not None:  # before anything is computed of the others
            patches = patches.gather(1, keep.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
            positions = positions[keep]
        z = super().forward(patches) + positions
        if self.cls is not None:
            z = torch.cat([(self.cls + self.positions[:1]).expand(len(z), -1, -1), z], dim=1)
        return self.dropout(z)

    def _load_from_state_dict(self, state: dict, prefix: str, *args: Any) -> None:
        # An autoencoder's fixed table is not among its weights: training goes on from that table.
        if self._start:
            state.setdefault(f"{prefix}positions", self.positions.detach())
        super()._load_from_state_dict(state, prefix, *args)


class PatchViT(nn.Module):
    """Pre-norm vision transformer over non-overlapping patches.

    Parameters
    ----------
    size
        Shape of one input: (leads, samples) or (frames, rows, columns).
    patch
        Shape of one patch, such as (1, 100) or (2, 12, 12).
    cls_token
        Whether a token without a patch attends and is attended to; it is not among the tokens
        that are returned.
    positions, dropout
        See `PatchEmbedding`; ``dropout`` follows attention and both layers of each perceptron too.
    pool
        Where features come from: ``mean`` of the patch tokens after the final norm, the ``cls``
        token after it, or ``mean-then-norm``, a norm of their own on the mean of tokens that pass
        no final norm. Weights with a final norm load into the latter, whose norm stays fresh.
    drop_path
        Probability with which the last block skips each of its branches for a whole person; it
        rises from 0 linearly over the blocks.
    centred
        Whether an input of [0, 1] is mapped to [-1, 1] first, for the patches to be reconstructed
        as well.

    Raises
    ------
    ValueError
        When patches do not tile the input, or the pooled class token does not exist.
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
        *,
        positions: Positions = "fixed",
        pool: Pool = "mean",
        drop_path: float = 0.0,
        dropout: float = 0.0,
        centred: bool = False,
    ) -> None:
        super().__init__()
        if any(s % p for s, p in zip(size, patch, strict=True)):
            raise ValueError(f"patches of {patch} do not tile an input of {size}")
        if pool == "cls" and not cls_token:
            raise ValueError("features cannot come from a class token that does not exist")
        self.size, self.patch, self.width, self.pool = size, patch, width, pool
        self.centred = centred
        self.grid = tuple(s // p for s, p in zip(size, patch, strict=True))
        values = math.prod(patch)
        self.embed = PatchEmbedding(
            self.grid, values, width, cls_token, positions, position_base, dropout
        )
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=4, qkv_bias=True, proj_drop=dropout) for _ in range(depth)
        )
        self.set_drop_path(drop_path)
        norm = nn.LayerNorm(width, eps=1e-6)
        self.norm, self.pool_norm = (None, norm) if pool == "mean-then-norm" else (norm, None)
        self.apply(_initialise)

    @property
    def tokens(self) -> int:
        """Number of patches."""
        return math.prod(self.grid)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """Cut (batch, *size), or with a channel axis of one before the size, into patches."""
        x = x.reshape(len(x), *self.size)
        return patchify(2 * x - 1 if self.centred else x, self.patch)

    def forward(self, x: torch.Tensor, keep: torch.Tensor | None = None) -> Features:
        """Encode all patches, or only those whose indices (batch, kept) are given."""
        return self.features(self.encode(x, keep))

    def features(self, z: torch.Tensor) -> Features:
        """Pool the tokens that `encode` returns."""
        tokens = z if self.embed.cls is None else z[:, 1:]
        if self.pool == "cls":
            return Features(z[:, 0], tokens)
        pooled = tokens.mean(dim=1)
        return Features(pooled if self.pool_norm is None else self.pool_norm(pooled), tokens)

    def encode(self, x: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tokens (batch, tokens, width), after the class token where there is one."""
        z = self.embed(self.patches(x), keep)
        for block in self.blocks:
            z = block(z)
        return z if self.norm is None else self.norm(z)

    def set_drop_path(self, rate: float) -> None:
        """Set the probability of skipping branches; see ``drop_path``."""
        for place, block in enumerate(self.blocks):
            own = rate * place / max(1, len(self.blocks) - 1)
            for name in ("drop_path1", "drop_path2"):
                setattr(block, name, DropPath(own) if own else nn.Identity())

    def first_layers(self, blocks: int) -> list[nn.Module]:
        """Return the embedding, positions included, and the first blocks: what methods freeze."""
        return [self.embed, *self.blocks[:blocks]]

    def _load_from_state_dict(self, state: dict, prefix: str, *args: Any) -> None:
        if self.pool_norm is not None and f"{prefix}norm.weight" in state:
            for name, fresh in self.pool_norm.state_dict().items():
                del state[f"{prefix}norm.{name}"]
                state[f"{prefix}pool_norm.{name}"] = fresh
        super()._load_from_state_dict(state, prefix, *args)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def projector(width: int, hidden: int, out: int) -> nn.Module:
    """Linear-ReLU-Linear without batch norm, as MMCL's; without ``hidden`` one linear layer."""
    if not hidden:
        return nn.Linear(width, out)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))


def normalised_projector(width: int, hidden: int, out: int, bias: bool = True) -> nn.Sequential:
    """Linear-BatchNorm-ReLU-Linear, as BYOL and Barlow Twins need it, ``bias`` in the last."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out, bias=bias),
    )
