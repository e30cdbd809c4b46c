"""What every picture of a simulated person has in common: tissues, coil, noise, grey levels."""

from __future__ import annotations

import functools
import math
import statistics

import numpy as np

from benchmark.cohorts.simulated.geometry import BINS
from benchmark.cohorts.simulated.latent import Latent, Stream, generator
from benchmark.cohorts.simulated.presets import Preset

GREY = 150.0
"""Stored grey levels per unit of signal (blood is 1): one fixed scale, clipped at 255 (1.7)."""

PLANES = 256
LONG_AXIS = PLANES - 1
"""Number of the long-axis plane; short-axis planes are numbered from the base down."""

_BLOOD, _MYOCARDIUM, _RV_BLOOD, _LUNG, _FAT, _LIVER = 1.0, 0.36, 0.94, 0.07, 0.80, 0.38


class Scanner:
    """How the people of one block lie in the scanner, and what it makes of them.

    One person, plane and frame give the same picture however many others are taken.
    """

    def __init__(
        self,
        latent: Latent,
        random_state: int,
        index: int,
        preset: Preset,
        size: int,
        spacing: float,
    ) -> None:
        rng = generator(random_state, Stream.CINE, index)
        n = latent.age.size
        self.random_state, self.first = random_state, index * n
        self.size, self.spacing = size, spacing
        self.torso = (latent.bmi / 26.5) ** 0.4
        self.rotation = rng.standard_normal(n)
        self.centre = rng.standard_normal((n, 2))
        bias = rng.standard_normal((n, 5))
        contrast = rng.standard_normal((n, 3))
        self.blood = _BLOOD * (1 + 0.06 * contrast[:, 0])
        self.myocardium = _MYOCARDIUM + 0.03 * contrast[:, 1]
        self.right = self.blood * (_RV_BLOOD + 0.04 * contrast[:, 2])
        self.noise = 0.04 * preset.image_noise * np.exp(0.25 * rng.standard_normal(n))
        self.tilt = rng.standard_normal(n)

        edge = (np.arange(size) - (size - 1) / 2) * spacing
        self.x, self.y = (grid.ravel() for grid in np.meshgrid(edge, -edge))
        u, v = self.x / (size * spacing), -self.y / (size * spacing)
        # A plain sum of five products: einsum or @ could be reordered by BLAS.
        quadratic = np.stack([u, v, 2 * u * v, 2 * u * u, 2 * v * v])
        self._bias, self._quadratic = 0.22 * bias, quadratic

    def coil(self, row: int) -> np.ndarray:
        """Return the smooth inhomogeneity of the coils, (pixels,) in grey levels per signal."""
        bias = (self._bias[row][:, None] * self._quadratic).sum(0)
        return (GREY * np.exp(bias)).astype(np.float32)

    def body(self, row: int, x: float, y: float, *, liver: bool) -> np.ndarray:
        """Return lung, chest wall and liver of a body whose middle is at (x, y) mm, (pixels,)."""
        x, y = self.x - x, self.y - y
        depth = np.hypot(x / (120 * self.torso[row]), y / (85 * self.torso[row]))
        fat = np.clip((depth - 0.86) * 12, 0, 1) * np.clip((1.06 - depth) * 12, 0, 1)
        signal = _LUNG + _FAT * fat
        if liver:
            dome = 40 + ((x + 10) / 18) ** 2
            signal += _LIVER * np.clip((-y - dome) / 6, 0, 1) * np.clip((0.90 - depth) * 12, 0, 1)
        return signal.astype(np.float32)

    def chance(self, row: int, plane: int) -> np.random.Generator:
        """Return the random numbers of one plane; see `_noise` for which belong to a frame."""
        picture = (self.first + row) * PLANES + plane
        return generator(self.random_state, Stream.CINE_NOISE, picture)

    def expose(
        self,
        row: int,
        plane: int,
        frames: np.ndarray,
        signal: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Store pictures (frames, pixels) in grey levels with Rician noise; uses up ``signal``.

        The imaginary part of the noise takes the real part's numbers from half a picture away:
        independent at every pixel, at half the cost.
        """
        noise = self._noise(row, plane, frames)
        noise *= np.float32(GREY * self.noise[row])
        signal += noise
        np.square(signal, out=signal)
        np.square(noise, out=noise)
        half = noise.shape[1] // 2
        signal[:, half:] += noise[:, : noise.shape[1] - half]
        signal[:, :half] += noise[:, noise.shape[1] - half :]
        np.sqrt(signal, out=signal)
        np.minimum(signal, 255, out=signal)
        np.rint(signal, out=signal)
        out[...] = signal.reshape(out.shape)

    def _noise(self, row: int, plane: int, frames: np.ndarray) -> np.ndarray:
        """Return standard normal numbers, (frames, pixels) float32.

        A frame's numbers stand at a fixed place of its plane's stream, so that frames can be drawn
        alone; `frames` ascend. Each is one of 65,536 quantiles, picked by 16 random bits: five
        times as fast as exact normal numbers, and pictures are rounded more coarsely than that.
        """
        pixels = self.size**2
        steps = math.ceil(pixels / 16)  # of Philox, 256 bits each
        source = self.chance(row, plane).bit_generator
        words = np.empty((len(frames), 4 * steps), np.uint64)
        position = 0
        for k, frame in enumerate(frames):
            start = steps * (1 + int(frame))  # what comes before the frames is for the plane itself
            source.advance(start - position)
            words[k] = source.random_raw(4 * steps)
            position = start + steps
        return np.take(_normal_quantiles(), words.view(np.uint16)[:, :pixels], mode="clip")


@functools.cache
def _normal_quantiles() -> np.ndarray:
    """Return the quantiles of a standard normal number at (k + 1/2) / 65,536."""
    quantile = statistics.NormalDist().inv_cdf
    return np.array([quantile((k + 0.5) / 65_536) for k in range(65_536)], np.float32)


class Polar:
    """The pixels around a point: how far each lies, and in which of `BINS` directions.

    Parameters
    ----------
    x, y
        (pixels,) in mm from the point.
    reach
        mm; pixels further away are left out.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, reach: float, spacing: float) -> None:
        x, y = x.astype(np.float32), y.astype(np.float32)
        self.spacing = np.float32(spacing)
        radius = np.sqrt(x * x + y * y)
        self.pixels = np.flatnonzero(radius < reach + spacing)
        self.x, self.y, self.radius = x[self.pixels], y[self.pixels], radius[self.pixels]
        angle = np.arctan2(self.y, self.x)
        angle += np.where(angle < 0, np.float32(2 * np.pi), np.float32(0))
        self.bins = np.minimum((angle * np.float32(BINS / (2 * np.pi))).astype(np.intp), BINS - 1)

    def coverage(self, radii: np.ndarray, some: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return how much of (some of) the pixels lies within radii (times, `BINS`) in mm.

        An edge is one pixel wide. Where the radius is 0 there is nothing.
        """
        reach = np.where(radii > 0, radii / self.spacing + np.float32(0.5), np.float32(-1))
        covered = np.take(reach, self.bins[some], axis=1)
        covered -= self.radius[some] / self.spacing
        return np.clip(covered, 0, 1, out=covered)

    def inside(self, radii: np.ndarray) -> np.ndarray:
        """Return which pixels' centres lie within radii (times, `BINS`) in mm."""
        return self.radius < np.take(radii, self.bins, axis=1)


def disc(distance: np.ndarray, radius: float | np.ndarray, spacing: float) -> np.ndarray:
    """Return how much of each pixel lies within ``radius`` mm; nothing where the radius is 0."""
    reach = np.where(np.asarray(radius) > 0, radius, -np.inf) / spacing + 0.5
    return np.clip(reach.astype(np.float32) - distance / np.float32(spacing), 0, 1)


def mix(picture: np.ndarray, coverage: np.ndarray, signal: float) -> None:
    """Lay a tissue over the picture where it covers it, in place."""
    picture += coverage * (np.float32(signal) - picture)
