"""The shape of a simulated heart: what is drawn, and what its phenotypes are measured on.

The left ventricle is half a prolate spheroid inside an incompressible wall, the right one a
crescent on its septal side. Both are cut by planes fixed in space while the base descends. Areas
are solved for exactly, so the volumes of what is drawn are the phenotypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.cohorts.simulated.latent import Latent

BINS = 144
ANGLES = (np.arange(BINS) + 0.5) * (2 * np.pi / BINS)  # 0 lateral, pi/2 anterior, pi septal
_RV_HALF_ANGLE = 1.40  # rad
_RV_PROFILE = 0.9  # exponent of the RV area over relative height
RV_WALL = 3.0  # mm
APEX_WALL = 4.5  # mm
_DENSITY = 1.05  # g/mL of myocardium


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
    shortening = 0.167 * (latent.lvef / 59.3) * np.exp(0.10 * z_apex)
    shortening = np.clip(shortening - 0.05 * latent.hypertrophic, 0.03, 0.25)

    lateral, anterior = np.cos(ANGLES), np.sin(ANGLES)
    septum = np.exp(-0.5 * ((ANGLES - np.pi) / 0.75) ** 2)
    territory = _territories()[latent.territory]
    thickness = np.array([1.10, 1.0, 0.82])[:, None] * (
        1
        + 0.06 * _column(z_lateral) * lateral
        + 0.05 * _column(z_anterior) * anterior
        + 0.07 * _column(z_septum) * septum
        + 0.10 * septum
    )
    thickness = thickness * (1 + 0.06 * _column(z_base) * np.array([1.0, 0.0, -1.0])[:, None])
    hypertrophy = septum * np.array([1.1, 1.0, 0.6])[:, None]
    thickness *= 1 + 0.75 * _column(latent.hypertrophic) * hypertrophy
    thickness *= 1 - 0.38 * _column(latent.scar) * territory
    contraction = 1 - _column(latent.scar) * territory
    contraction = contraction * (1 - 0.075 * _column(latent.ischaemia) * territory)
    contraction *= 1 + 0.10 * _column(z_anterior) * lateral + 0.08 * _column(z_lateral) * anterior
    return Shape(length, shortening, thickness, np.clip(contraction, 0.05, 1.6))


def contours_at(
    latent: Latent, shape: Shape, s: np.ndarray, heights: Sequence[float] | np.ndarray
) -> Contours:
    """Cut the ventricles at the planes ``heights`` (relative to the end-diastolic length).

    Parameters
    ----------
    s
        (people, times) from `activation`.
    heights
        (slices,) or (people, slices); 0 is the endocardial apex at end-diastole, below which lies
        only myocardium, and 1 the base.
    """
    endocardium, epicardium = left_ventricle_at(latent, shape, s, heights)
    length, plane = _length(shape, s), _planes(shape, heights)

    # Crescent of height h cos^2 over the epicardium, with h from the quadratic of its area.
    offset = ANGLES - np.pi
    bump = np.where(
        np.abs(offset) < _RV_HALF_ANGLE, np.cos(np.pi * offset / (2 * _RV_HALF_ANGLE)) ** 2, 0
    )
    right = 1e3 * (_column(latent.rvedv) - _column(latent.rvsv) * s[:, None])
    position = np.where((plane > 0) & (plane <= length), plane / length, 0)
    area = right * (1 + _RV_PROFILE) / length * position**_RV_PROFILE
    bb, eb = (bump**2).mean(-1), (epicardium * bump).mean(-1)
    h = (np.sqrt(eb**2 + bb * area / np.pi) - eb) / bb
    outside = epicardium + h[..., None] * bump
    return Contours(
        endocardium.astype(np.float32), epicardium.astype(np.float32), outside.astype(np.float32)
    )


def left_ventricle_at(
    latent: Latent, shape: Shape, s: np.ndarray, heights: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return endocardium and epicardium alone, as `contours_at` does but in double precision."""
    endocardium = endocardium_at(latent, shape, s, heights)
    resting = cavity_radius_at(latent, shape, np.zeros_like(s[:, :1]), heights)
    mean = cavity_radius_at(latent, shape, s, heights)
    plane = _planes(shape, heights) + APEX_WALL
    muscle = 1e3 * _column(latent.lvm) / _DENSITY  # mm3

    def wall_area(s: np.ndarray, cavity_radius: np.ndarray) -> np.ndarray:
        cavity, length = _cavity(latent, s), _length(shape, s)
        whole = _spheroid_area(cavity + muscle, length + APEX_WALL, plane)
        return whole - np.pi * cavity_radius**2

    # At end-diastole the wall is k w(angle) thick, with k from the quadratic of the slice's area.
    # Later each angle keeps its own muscle, so that what does not contract does not thicken.
    thickness = _at_heights(shape.thickness, heights)
    resting_wall = wall_area(np.zeros_like(s[:, :1]), resting)
    ww, ew = (thickness**2).mean(-1)[..., None], resting * thickness.mean(-1)[..., None]
    k = (np.sqrt(ew**2 + ww * resting_wall / np.pi) - ew) / ww
    growth = wall_area(s, mean) / np.where(resting_wall > 0, resting_wall, np.inf)
    wall = k * thickness
    wall = wall * (2 * resting + wall)
    epicardium = growth[..., None] * wall[:, :, None]
    epicardium += endocardium**2
    return endocardium, np.sqrt(epicardium, out=epicardium)


def endocardium_at(
    latent: Latent, shape: Shape, s: np.ndarray, heights: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return the endocardium alone.

    It moves inwards by regional contraction, as far as gives each slice its area: the rest of the
    wall makes up for a scar.
    """
    contraction = _at_heights(shape.contraction, heights)
    resting = cavity_radius_at(latent, shape, np.zeros_like(s[:, :1]), heights)
    mean = cavity_radius_at(latent, shape, s, heights)
    first = resting * contraction.mean(-1)[..., None]
    second = (contraction**2).mean(-1)[..., None]
    root = np.sqrt(np.maximum(first**2 - second * (resting**2 - mean**2), 0))
    radius = ((root - first) / second)[..., None] * contraction[:, :, None]
    radius += resting[..., None]
    np.maximum(radius, 1, out=radius)
    # Changes only hearts that no inward motion of this pattern can empty so far.
    square = np.einsum("nstb,nstb->nst", radius, radius) / BINS
    radius *= (mean / np.sqrt(square))[..., None]
    return radius


def cavity_radius_at(
    latent: Latent, shape: Shape, s: np.ndarray, heights: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return the radius of a circle with the cavity's area, (people, slices, times).

    At end-diastole the endocardium is that circle.
    """
    plane = _planes(shape, heights)
    return np.sqrt(_spheroid_area(_cavity(latent, s), _length(shape, s), plane) / np.pi)


def _column(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


def _cavity(latent: Latent, s: np.ndarray) -> np.ndarray:
    """Return the volume of the left ventricle in mm3, (people, 1, times)."""
    return 1e3 * (_column(latent.lvedv) - _column(latent.lvsv) * s[:, None])


def _length(shape: Shape, s: np.ndarray) -> np.ndarray:
    """Return its length in mm, (people, 1, times)."""
    return _column(shape.length) * (1 - _column(shape.shortening) * s[:, None])


def _planes(shape: Shape, heights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the heights in mm, (people, slices, 1)."""
    return (np.asarray(heights) * shape.length[:, None])[..., None]


def _at_heights(pattern: np.ndarray, heights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Interpolate (people, 3 levels, angles) between the middles of the thirds of the length.

    Returns
    -------
    np.ndarray
        (people, slices, angles).
    """
    heights = np.broadcast_to(heights, (len(pattern), np.shape(heights)[-1]))
    base = np.clip(3 * heights - 1.5, 0, 1)
    apex = np.clip(1.5 - 3 * heights, 0, 1)
    weights = np.stack([base, 1 - base - apex, apex], -1)
    # einsum without BLAS: the order of its sums does not depend on the number of threads.
    return np.einsum("nsl,nlb->nsb", weights, pattern)


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
