"""Settings of the cross-modal autoencoder's networks; they are made in `build`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from benchmark.api import Cohort, View
from benchmark.cohorts.views import LongAxisCine, MedianBeat
from benchmark.stage import Spec

if TYPE_CHECKING:
    from methods.blocks.convolutional_networks import ConvolutionalDecoder, ConvolutionalEncoder


@dataclass(frozen=True, kw_only=True)
class Convolutional(Spec):
    """Encoder and decoder of one modality, with one code of ``width`` numbers between them.

    A residual block of convolutions with ``stem`` filters; then for each of ``levels`` a pooling
    by 2 and a densely connected block of ``depth`` convolutions with so many filters; then a linear
    layer with activation and layer norm. ``frames`` and ``size`` are a cine's.
    """

    modality: Literal["ecg", "cmr"]
    stem: tuple[int, ...]
    levels: tuple[int, ...]
    depth: int
    kernel: int
    activation: Literal["mish", "gelu"]
    pooling: Literal["max", "average"]
    width: int = 256
    frames: int = 50
    size: int = 96

    def view(self, cohort: Cohort) -> View:
        """Return the median beat, or the four-chamber cine."""
        if self.modality == "ecg":
            return MedianBeat(cohort=cohort)
        return LongAxisCine(cohort=cohort, frames=self.frames, size=self.size)

    def build(self, shape: tuple[int, ...]) -> tuple[ConvolutionalEncoder, ConvolutionalDecoder]:
        """Make both networks with fresh weights for a view of this shape."""
        from methods.blocks.convolutional_networks import (
            ConvolutionalDecoder,
            ConvolutionalEncoder,
        )

        image = self.modality == "cmr"
        same = {n: getattr(self, n) for n in ("levels", "depth", "kernel", "activation", "width")}
        same["size"] = shape[1:] if image else shape
        encoder = ConvolutionalEncoder(
            stem=self.stem, pooling=self.pooling, standardise=image, **same
        )
        return encoder, ConvolutionalDecoder(**same)

    def rehearsal(self) -> dict[str, Any]:
        """Return a few filters on small images."""
        few = {"stem": (4, 4), "levels": (8,) * len(self.levels), "depth": 2, "width": 16}
        return {**few, "kernel": min(self.kernel, 15), "frames": 10, "size": 32}


# The command lines of model_zoo/dropfuse in the public repository broadinstitute/ml4h, and the
# defaults of its options. 5.47 and 1.73 million parameters in the encoders.
CMAE_ECG = Convolutional(
    modality="ecg",
    stem=(23, 23),
    levels=(46,),
    depth=5,
    kernel=71,
    activation="mish",
    pooling="max",
)
CMAE_CMR = Convolutional(
    modality="cmr",
    stem=(24, 24),
    levels=(40, 40, 40),
    depth=3,
    kernel=3,
    activation="gelu",
    pooling="average",
)
