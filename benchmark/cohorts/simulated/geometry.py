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
_APEX_WALL = 4.5  # mm
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
