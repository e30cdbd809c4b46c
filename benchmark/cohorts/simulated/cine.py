"""The short-axis cine of a simulated person.

The left ventricle is half a prolate spheroid inside an incompressible wall, the right one a
crescent on its septal side. Both are cut by planes fixed in space while the base descends. Areas
are solved for exactly, so the volumes of what is drawn are the phenotypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.cohorts.simulated.latent import BLOCK, Latent, Stream, generator

MID = (0.50,)
"""Heights of the default slices, relative to the end-diastolic length; 0 apex, 1 base."""

GREY = 150.0
"""Stored grey levels per unit of signal (blood is 1): one fixed scale, clipped at 255 (1.7)."""

_BINS = 144
ANGLES = (np.arange(_BINS) + 0.5) * (2 * np.pi / _BINS)  # 0 lateral, pi/2 anterior, pi septal
_RV_HALF_ANGLE = 1.40  # rad
_RV_PROFILE = 0.9  # exponent of the RV area over relative height
_RV_WALL = 3.0  # mm
_APEX_WALL = 4.5  # mm
_DENSITY = 1.05  # g/mL of myocardium

# mm; the heart, not the left ventricle, stands in the middle of the picture.
_LV_CENTRE = np.array([15.0, 0.0])
_TORSO_CENTRE = np.array([28.0, 0.0])
_CENTRE_SD = 5.5
_SHIFT_SD = 1.9  # between breath-holds
_PAPILLARY_ANGLES = (0.9, 4.0)
_PAPILLARY_RADIUS = 3.6  # mm

_BLOOD, _MYOCARDIUM, _RV_BLOOD, _LUNG, _FAT, _LIVER = 1.0, 0.36, 0.94, 0.07, 0.80, 0.38


@dataclass(frozen=True)
class Shape:
    """What of a heart's shape only the images show: one entry per person.

    ``length`` is the end-diastolic length of the left ventricle in mm, ``shortening`` the share of
    it by which the base descends, ``thickness`` and ``contraction`` (people, 3 levels from base to
    apex, 144 angles) are relative.
    """

    length: np.ndarray
    shortening: np.ndarray
    thickness: np.ndarray
    contraction: np.ndarray


@dataclass(frozen=True)
class Contours:
    """Radii in mm around the LV's axis, (people, slices, times, 144); 0 above the base."""

    endocardium: np.ndarray
    epicardium: np.ndarray
    right: np.ndarray
    """Outer edge of the RV's blood; equals the epicardium where there is none."""


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


def activation(rr: np.ndarray, af_rhythm: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Return how far the ventricles have contracted: 0 at end-diastole, 1 at end-systole.

    Parameters
    ----------
    rr
        (people,) seconds.
    af_rhythm
        (people,) 1 without atrial kick.
    phase
        (times,) shares of the RR interval from the R peak.

    Returns
    -------
    np.ndarray
        (people, times).
    """
    rr, af = rr[:, None], af_rhythm[:, None] > 0
    end_systole = 0.29 + 0.07 * rr
    t = phase * rr

    def filled(time: np.ndarray) -> np.ndarray:
        early = 1 - np.exp(-((np.maximum(time - end_systole, 0) / 0.12) ** 2))
        kick = 1 / (1 + np.exp(-(time - (rr - 0.09)) / 0.02))
        return np.where(af, early, 0.78 * early + 0.22 * kick)

    ejected = np.sin(np.pi / 2 * np.minimum(t / end_systole, 1)) ** 2
    return np.where(t <= end_systole, ejected, 1 - filled(t) / filled(rr))


def draw_shape(latent: Latent, rng: np.random.Generator) -> Shape:
    """Draw length, apical motion and the regional patterns of wall and contraction."""
    n = latent.age.size
    z_sphericity, z_apex, z_lateral, z_anterior, z_septum, z_base = rng.standard_normal((6, n))
    length = 90 * np.cbrt(latent.lvedv / 145) * np.exp(0.065 * z_sphericity)
    shortening = 0.155 * (latent.lvef / 59.3) * np.exp(0.10 * z_apex)
    shortening = np.clip(shortening - 0.05 * latent.hypertrophic, 0.03, 0.25)

    def column(values: np.ndarray) -> np.ndarray:
        return values[:, None, None]

    lateral, anterior = np.cos(ANGLES), np.sin(ANGLES)
    septum = np.exp(-0.5 * ((ANGLES - np.pi) / 0.75) ** 2)
    territory = _territories()[latent.territory]
    thickness = np.array([1.10, 1.0, 0.82])[:, None] * (
        1
        + 0.06 * column(z_lateral) * lateral
        + 0.05 * column(z_anterior) * anterior
        + 0.07 * column(z_septum) * septum
        + 0.10 * septum
    )
    thickness = thickness * (1 + 0.06 * column(z_base) * np.array([1.0, 0.0, -1.0])[:, None])
    hypertrophy = septum * np.array([1.1, 1.0, 0.6])[:, None]
    thickness *= 1 + 0.75 * column(latent.hypertrophic) * hypertrophy
    thickness *= 1 - 0.38 * column(latent.scar) * territory
    contraction = 1 - column(latent.scar) * territory
    contraction = contraction * (1 - 0.075 * column(latent.ischaemia) * territory)
    contraction *= 1 + 0.10 * column(z_anterior) * lateral + 0.08 * column(z_lateral) * anterior
    return Shape(length, shortening, thickness, np.clip(contraction, 0.05, 1.6))


def contours_at(latent: Latent, shape: Shape, s: np.ndarray, heights: Sequence[float]) -> Contours:
    """Cut the ventricles at the planes ``heights`` (relative to the end-diastolic length).

    Parameters
    ----------
    s
        (people, times) from `activation`.
    heights
        0 is the endocardial apex at end-diastole; below it lies only myocardium.
    """
    s = s[:, None, :]  # people, slices, times
    relative = np.asarray(heights, float)

    def column(values: np.ndarray) -> np.ndarray:
        return values[:, None, None]

    cavity = 1e3 * (column(latent.lvedv) - column(latent.lvsv) * s)  # mm3
    whole = cavity + 1e3 * column(latent.lvm) / _DENSITY
    length = column(shape.length) * (1 - column(shape.shortening) * s)
    plane = relative[:, None] * column(shape.length)
    inner = _spheroid_area(cavity, length, plane)
    outer = _spheroid_area(whole, length + _APEX_WALL, plane + _APEX_WALL)

    # Regional contraction moves the endocardium about the mean; each slice keeps its area.
    level = np.digitize(relative, [0.42, 0.68])  # 0 apex, 1 mid, 2 base
    contraction = shape.contraction[:, 2 - level][:, :, None]
    thickness = shape.thickness[:, 2 - level][:, :, None]
    diastolic = _spheroid_area(1e3 * column(latent.lvedv), column(shape.length), plane)
    resting = np.sqrt(diastolic / np.pi)
    radius = np.sqrt(inner / np.pi)
    endocardium = np.maximum(resting[..., None] + (radius - resting)[..., None] * contraction, 1)
    endocardium *= np.sqrt(inner / np.pi / (endocardium**2).mean(-1))[..., None]

    # Wall thickness k w(angle) around the endocardium e, with mean((e + k w)^2 - e^2) fixed.
    ww, ew = (thickness**2).mean(-1), (endocardium * thickness).mean(-1)
    k = (np.sqrt(ew**2 + ww * (outer - inner) / np.pi) - ew) / ww
    epicardium = endocardium + k[..., None] * thickness

    # Crescent of height h cos^2 over the epicardium, with h from the quadratic of its area.
    offset = ANGLES - np.pi
    bump = np.where(
        np.abs(offset) < _RV_HALF_ANGLE, np.cos(np.pi * offset / (2 * _RV_HALF_ANGLE)) ** 2, 0
    )
    right = 1e3 * (column(latent.rvedv) - column(latent.rvsv) * s)
    position = np.where((plane > 0) & (plane <= length), plane / length, 0)
    area = right * (1 + _RV_PROFILE) / length * position**_RV_PROFILE
    bb, eb = (bump**2).mean(-1), (epicardium * bump).mean(-1)
    h = (np.sqrt(eb**2 + bb * area / np.pi) - eb) / bb
    outside = epicardium + h[..., None] * bump
    return Contours(
        endocardium.astype(np.float32), epicardium.astype(np.float32), outside.astype(np.float32)
    )


def _spheroid_area(volume: np.ndarray, length: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Area of half a prolate spheroid at a height over its apex; 0 outside it."""
    q = 1 - height / length
    return np.where((q >= 0) & (q < 1), 1.5 * volume / length * (1 - q**2), 0)


def _territories() -> np.ndarray:
    """(3 arteries LAD, RCA, LCx; 3 levels; 144 angles) share of the wall that each feeds."""
    around = np.minimum(np.abs(ANGLES - 5.9), np.abs(ANGLES + 0.38))
    angular = np.exp(
        -0.5 * np.stack([(ANGLES - 2.1) / 0.8, (ANGLES - 4.4) / 0.7, around / 0.7]) ** 2
    )
    levels = np.array([[0.8, 1.0, 1.2], [1.0, 0.9, 0.6], [1.0, 1.0, 0.7]])
    return levels[:, :, None] * angular[:, None]


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
        bins = np.minimum((angle * (_BINS / (2 * np.pi))).astype(np.intp), _BINS - 1)

        scale = np.float32(1 / self.spacing)
        endo = contours.endocardium[row, index] * scale
        epi = contours.epicardium[row, index] * scale
        right = contours.right[row, index] * scale
        wall = right + np.minimum(right - epi, np.float32(_RV_WALL / self.spacing))

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
