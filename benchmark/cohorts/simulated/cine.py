"""The short-axis cine of a simulated person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.cohorts.simulated.geometry import (
    BINS,
    RV_WALL,
    Contours,
    activation,
    contours_at,
    draw_shape,
)
from benchmark.cohorts.simulated.latent import BLOCK, Latent, Stream, generator

MID = (0.50,)
"""Heights of the default slices, relative to the end-diastolic length; 0 apex, 1 base."""

GREY = 150.0
"""Stored grey levels per unit of signal (blood is 1): one fixed scale, clipped at 255 (1.7)."""

# mm; the heart, not the left ventricle, stands in the middle of the picture.
_LV_CENTRE = np.array([15.0, 0.0])
_TORSO_CENTRE = np.array([28.0, 0.0])
_CENTRE_SD = 5.5
_SHIFT_SD = 1.9  # between breath-holds
_PAPILLARY_ANGLES = (0.9, 4.0)
_PAPILLARY_RADIUS = 3.6  # mm

_BLOOD, _MYOCARDIUM, _RV_BLOOD, _LUNG, _FAT, _LIVER = 1.0, 0.36, 0.94, 0.07, 0.80, 0.38


def draw_cine(
    latent: Latent,
    random_state: int,
    block: int,
    *,
    frames: int,
    size: int,
    spacing: float,
    heights: Sequence[float] = MID,
) -> tuple[np.ndarray, np.ndarray]:
    """Image every person of a block over one mean RR interval, from the R peak on.

    Returns
    -------
    cine : np.ndarray
        (people, slices, frames, size, size) uint8, `GREY` levels per unit; rows from anterior to
        inferior, columns from the right ventricle to the lateral wall.
    es_frame : np.ndarray
        (people,) number of the frame with the smallest ventricles.
    """
    rng = generator(random_state, Stream.CINE, block)
    shape = draw_shape(latent, rng)
    rr = 60 / latent.heart_rate
    s = activation(rr, latent.af_rhythm, np.arange(frames) / frames)
    contours = contours_at(latent, shape, s, heights)
    scanner = _Scanner(latent, rng, size, spacing, len(heights))
    cine = np.empty((BLOCK, len(heights), frames, size, size), np.uint8)
    for row in range(BLOCK):
        noise = generator(random_state, Stream.CINE_NOISE, block * BLOCK + row)
        scanner.image(row, contours, noise, cine[row])
    return cine, s.argmax(1)


class _Scanner:
    """Turns the contours of a block into pictures."""

    def __init__(
        self, latent: Latent, rng: np.random.Generator, size: int, spacing: float, slices: int
    ) -> None:
        n = latent.age.size
        self.spacing = spacing
        self.torso = (latent.bmi / 26.5) ** 0.4
        self.rotation = np.deg2rad(9) * rng.standard_normal(n)
        self.centre = _LV_CENTRE + _CENTRE_SD * rng.standard_normal((n, 2))
        self.bias = 0.22 * rng.standard_normal((n, 5))
        contrast = rng.standard_normal((n, 3))
        self.blood = _BLOOD * (1 + 0.06 * contrast[:, 0])
        self.myocardium = _MYOCARDIUM + 0.03 * contrast[:, 1]
        self.right = self.blood * (_RV_BLOOD + 0.04 * contrast[:, 2])
        self.noise = 0.04 * np.exp(0.25 * rng.standard_normal(n))
        # Last, so that all else stays as it is when the number of slices changes.
        self.shift = _SHIFT_SD * rng.standard_normal((n, slices, 2))

        edge = (np.arange(size) - (size - 1) / 2) * spacing
        self.x, self.y = (grid.ravel() for grid in np.meshgrid(edge, -edge))
        u, v = self.x / (size * spacing), -self.y / (size * spacing)
        self.quadratic = np.stack([u, v, 2 * u * v, 2 * u * u, 2 * v * v])

    def image(
        self, row: int, contours: Contours, rng: np.random.Generator, out: np.ndarray
    ) -> None:
        """Fill ``out`` (slices, frames, size, size) with one person's pictures."""
        slices, frames = out.shape[:2]
        static = self._torso(row)
        # A plain sum of five products: einsum or @ could be reordered by BLAS.
        field = np.exp((self.bias[row][:, None] * self.quadratic).sum(0)).astype(np.float32)
        for index in range(slices):
            picture = self._slice(row, index, contours, static)
            picture *= field
            _add_rician(picture, self.noise[row], rng)
            picture *= np.float32(GREY)
            np.minimum(picture, 255, out=picture)
            np.rint(picture, out=picture)
            out[index] = picture.reshape(frames, *out.shape[2:])

    def _torso(self, row: int) -> np.ndarray:
        """Lung, liver and chest wall, (pixels,)."""
        x, y = (self.x - _TORSO_CENTRE[0]), (self.y - _TORSO_CENTRE[1])
        depth = np.hypot(x / (120 * self.torso[row]), y / (85 * self.torso[row]))
        fat = np.clip((depth - 0.86) * 12, 0, 1) * np.clip((1.06 - depth) * 12, 0, 1)
        liver = np.clip((-y - 40) / 6, 0, 1) * np.clip((0.90 - depth) * 12, 0, 1)
        return _LUNG + _FAT * fat + _LIVER * liver

    def _slice(self, row: int, index: int, contours: Contours, static: np.ndarray) -> np.ndarray:
        """One slice over time, (frames, pixels) float32, without bias field and noise."""
        centre = self.centre[row] + self.shift[row, index]
        x, y = self.x - centre[0], self.y - centre[1]
        # An edge is one pixel wide: coverage = clip((radius - distance) / spacing + 1/2, 0, 1).
        distance = (np.hypot(x, y) / self.spacing - 0.5).astype(np.float32)
        angle = (np.arctan2(y, x) - self.rotation[row]) % (2 * np.pi)
        bins = np.minimum((angle * (BINS / (2 * np.pi))).astype(np.intp), BINS - 1)

        scale = np.float32(1 / self.spacing)
        endo = contours.endocardium[row, index] * scale
        epi = contours.epicardium[row, index] * scale
        right = contours.right[row, index] * scale
        wall = right + np.minimum(right - epi, np.float32(RV_WALL / self.spacing))

        def coverage(radii: np.ndarray, pixels: slice | np.ndarray = slice(None)) -> np.ndarray:
            covered = np.take(radii, bins[pixels], axis=1)
            covered -= distance[pixels]
            return np.clip(covered, 0, 1, out=covered)

        # Nested regions, so that each edge mixes just the two tissues it separates.
        static = static.astype(np.float32)
        picture = coverage(wall)
        picture *= np.float32(self.myocardium[row]) - static
        picture += static
        crescent = coverage(right)
        crescent -= coverage(epi)
        crescent *= np.float32(self.right[row] - self.myocardium[row])
        picture += crescent

        inside = np.flatnonzero(distance < endo.max())
        blood = coverage(endo, inside)
        mean_radius = endo.mean(1) * np.float32(self.spacing * 0.62)
        for position in _PAPILLARY_ANGLES:
            a = position + self.rotation[row]
            dx = x[inside].astype(np.float32) - mean_radius[:, None] * np.float32(np.cos(a))
            dy = y[inside].astype(np.float32) - mean_radius[:, None] * np.float32(np.sin(a))
            apart = np.sqrt(dx * dx + dy * dy)
            muscle = np.clip((np.float32(_PAPILLARY_RADIUS) - apart) * scale + 0.5, 0, 1)
            blood *= 1 - np.float32(0.8) * muscle
        blood *= np.float32(self.blood[row] - self.myocardium[row])
        picture[:, inside] += blood
        return picture


def _add_rician(picture: np.ndarray, sigma: float, rng: np.random.Generator) -> None:
    """Replace the picture by the magnitude of itself plus complex noise, in place.

    The imaginary part takes the real part's numbers from half a cine away: independent at every
    pixel, at half the cost.
    """
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    noise *= np.float32(sigma)
    picture += noise
    np.multiply(picture, picture, out=picture)
    noise *= noise
    picture += np.roll(noise.ravel(), noise.size // 2).reshape(noise.shape)
    np.sqrt(picture, out=picture)
