"""Convolutional encoder and decoder of the cross-modal autoencoder. Imports torch.

Layer by layer those of the public repository broadinstitute/ml4h (``models/conv_blocks.py``), which
is written in Keras. The leads of an ECG and the frames of a cine are the channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from benchmark.encoders import Features

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d}
POOLS: dict[tuple[str, int], type[nn.Module]] = {
    ("max", 1): nn.MaxPool1d,
    ("max", 2): nn.MaxPool2d,
    ("average", 1): nn.AvgPool1d,
    ("average", 2): nn.AvgPool2d,
}
ACTIVATIONS: dict[str, type[nn.Module]] = {"mish": nn.Mish, "gelu": nn.GELU}


class Residual(nn.Module):
    """Convolutions, each but the first adding a 1x1 convolution of its output to its input."""

    def __init__(
        self, dimensions: int, channels: int, filters: Sequence[int], kernel: int, activation: str
    ) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dimensions]
        self.convolutions = nn.ModuleList(
            convolution(before, after, kernel, padding="same")
            for before, after in pairwise((channels, *filters))
        )
        self.residuals = nn.ModuleList(convolution(n, n, 1) for n in filters[1:])
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, ...) to (batch, filters, ...)."""
        x = self.activation(self.convolutions[0](x))
        for convolution, residual in zip(self.convolutions[1:], self.residuals, strict=True):
            x = residual(self.activation(convolution(x))) + x
        return x


class DenselyConnected(nn.Module):
    """Convolutions of equally many filters that read the input and all outputs before theirs."""

    def __init__(
        self, dimensions: int, channels: int, filters: int, depth: int, kernel: int, activation: str
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            CONVOLUTIONS[dimensions](channels + n * filters, filters, kernel, padding="same")
            for n in range(depth)
        )
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, ...) to the last convolution's (batch, filters, ...)."""
        *first, last = self.convolutions
        for convolution in first:
            x = torch.cat([x, self.activation(convolution(x))], dim=1)
        return self.activation(last(x))


class ConvolutionalEncoder(nn.Module):
    """A residual block, then pooling and a densely connected block per level, then the code.

    Parameters
    ----------
    size
        (leads, samples) or (frames, rows, columns).
    stem
        Filters of the residual block's convolutions.
    levels
        Filters of each densely connected block, each behind a pooling by 2.
    depth
        Convolutions in each of them.
    kernel
        Extent of the convolutions along every axis; odd.
    activation, pooling
        ``mish`` or ``gelu``, ``max`` or ``average``.
    width
        Numbers in the code, which ends in a layer norm.
    standardise
        Whether each input is given mean 0 and SD 1 first.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        stem: Sequence[int],
        levels: Sequence[int],
        depth: int,
        kernel: int,
        activation: str,
        pooling: str,
        width: int,
        standardise: bool,
    ) -> None:
        super().__init__()
        channels, *extent = size
        dimensions = len(extent)
        self.size, self.width, self.standardise = size, width, standardise
        layers: list[nn.Module] = [Residual(dimensions, channels, stem, kernel, activation)]
        for before, after in pairwise((stem[-1], *levels)):
            layers.append(POOLS[pooling, dimensions](2))
            layers.append(DenselyConnected(dimensions, before, after, depth, kernel, activation))
        self.convolutions = nn.Sequential(*layers)
        self.code = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(pooled_shape(size, levels)), width),
            ACTIVATIONS[activation](),
            nn.LayerNorm(width, eps=1e-3),
        )
        self.apply(_initialise)

    def target(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input (batch, ...) as it is reconstructed: (batch, *size), standardised."""
        x = x.reshape(len(x), *self.size)
        if not self.standardise:
            return x
        axes = tuple(range(1, x.ndim))
        mean, deviation = x.mean(axes, keepdim=True), x.std(axes, correction=0, keepdim=True)
        return (x - mean) / (deviation + 1e-6)

    def forward(self, x: torch.Tensor) -> Features:
        """Encode (batch, ...); the code is all there is, it has no tokens."""
        return Features(self.code(self.convolutions(self.target(x))))


class ConvolutionalDecoder(nn.Module):
    """The way back: a pooled map from the code, then upsampling and a dense block per level.

    Parameters
    ----------
    size, levels, depth, kernel, activation, width
        Of the `ConvolutionalEncoder` it mirrors.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        levels: Sequence[int],
        depth: int,
        kernel: int,
        activation: str,
        width: int,
    ) -> None:
        super().__init__()
        dimensions = len(size) - 1
        shape = pooled_shape(size, levels)
        layers: list[nn.Module] = [
            nn.Linear(width, math.prod(shape)),
            ACTIVATIONS[activation](),
            nn.Unflatten(1, shape),
        ]
        for before, after in pairwise((levels[-1], *levels)):
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            layers.append(DenselyConnected(dimensions, before, after, depth, kernel, activation))
        layers.append(CONVOLUTIONS[dimensions](levels[-1], size[0], 1))
        self.layers = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """Map a code (batch, width) to (batch, *size)."""
        return self.layers(code)


class LogScale(nn.Module):
    """The logarithm of what cosines are multiplied by before a softmax, learned from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


def pooled_shape(size: tuple[int, ...], levels: Sequence[int]) -> tuple[int, ...]:
    """Return filters and extent of the map behind the last level.

    Raises
    ------
    ValueError
        When an extent cannot be halved that often: the decoder could not return to it.
    """
    by = 2 ** len(levels)
    if any(extent % by for extent in size[1:]):
        raise ValueError(f"{size[1:]} is no multiple of {by}, so {len(levels)} poolings do not fit")
    return levels[-1], *(extent // by for extent in size[1:])


def _initialise(module: nn.Module) -> None:
    # As Keras does, in which the method was written.
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
