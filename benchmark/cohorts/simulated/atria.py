"""The atria of a simulated heart: what lies above the valves, in the long and the short axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark.cohorts.simulated.geometry import Shape
from benchmark.cohorts.simulated.latent import Latent

WALL = 2.0  # mm
_CUT = 0.6  # distance of the valve plane from the centre, in long semi-axes
_BODY = np.pi * (2 / 3 + _CUT - _CUT**3 / 3)  # volume of the cut ellipsoid with semi-axes of 1
_LENGTHS = {"left": (55.0, 68.0), "right": (52.0, 79.0)}
"""Long-axis length in mm of an atrium of typical maximum volume, and that volume in mL."""


@dataclass(frozen=True)
class Atrium:
    """An ellipsoid of revolution along the heart's axis, cut off by the valve plane.

    Everything in mm, (people, times), in the heart's coordinates: along the axis from the
    endocardial apex at end-diastole (0) towards the base, across it towards the lateral wall.
    """

    valve: np.ndarray
    centre: np.ndarray
    long: np.ndarray
    across: np.ndarray
    lateral: np.ndarray
    """Position of the ellipsoid's axis across the heart's."""

    def radius_at(self, plane: np.ndarray) -> np.ndarray:
        """Return the radius of sections, (people, planes, times); 0 where there is none.

        ``plane`` (people, planes) is a position along the heart's axis.
        """
        plane = plane[..., None]
        inside = 1 - ((plane - self.centre[:, None]) / self.long[:, None]) ** 2
        radius = self.across[:, None] * np.sqrt(np.maximum(inside, 0))
        return np.where(plane > self.valve[:, None], radius, 0)


def atria_at(latent: Latent, shape: Shape, s: np.ndarray) -> tuple[Atrium, Atrium]:
    """Return left and right atrium.

    They fill as the ventricles empty: the valve plane descends while their roof stays where it is,
    and their volumes run from the minimum at end-diastole to the maximum at end-systole. Without an
    atrial kick in ``s`` there is none in them.

    Parameters
    ----------
    s
        (people, times) from `geometry.activation`.
    """
    base = np.sqrt(1.5e3 * latent.lvedv / (np.pi * shape.length))  # mm, radius of the LV there
    septum = -0.72 * base[:, None]
    left = _atrium("left", latent.la_max, latent.la_min, shape, s)
    right = _atrium("right", latent.ra_max, latent.ra_min, shape, s)
    beside = WALL / 2
    return (
        Atrium(*left, lateral=septum + beside + left[-1]),
        Atrium(*right, lateral=septum - beside - right[-1]),
    )


def _atrium(
    side: str, largest: np.ndarray, smallest: np.ndarray, shape: Shape, s: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return valve plane, centre and the two semi-axes that give the volume."""
    length, typical = _LENGTHS[side]
    valve = shape.length[:, None] * (1 - shape.shortening[:, None] * s)
    roof = shape.length * (1 - shape.shortening) + length * np.cbrt(largest / typical)
    long = (roof[:, None] - valve) / (1 + _CUT)
    volume = 1e3 * (smallest[:, None] + (largest - smallest)[:, None] * s)
    across = np.sqrt(volume / (_BODY * long))
    return valve, valve + _CUT * long, long, across
