"""Wall thickness and strain of the drawn heart, by segments of the American Heart Association.

Segments as in Bai et al., Nature Medicine 2020: angles count from the anterior wall towards the
septum; basal and middle thirds have six segments of 60 degrees, the apical third four of 90, and
the long axis six, three down the septum and three up the lateral wall.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark.cohorts.simulated.geometry import (
    BINS,
    Shape,
    cavity_radius_at,
    endocardium_at,
    left_ventricle_at,
)
from benchmark.cohorts.simulated.latent import Latent

PLANES = (0.72, 0.50, 0.28)
"""One short-axis plane a third, base to apex, below the base even at end-systole."""

_DEPTH = 0.20  # of the wall from the endocardium, where circumferential strain is followed
_RADIAL = 0.78  # of the thickening; following the images' motion sees less than all of it
_STEPS = 3  # chords a segment of the long axis
_SEPTAL_LATERAL = np.array([[BINS // 2 - 1, BINS // 2], [BINS - 1, 0]])  # bins beside the plane


@dataclass(frozen=True)
class Mechanics:
    """Wall thickness in mm and end-systolic strain in %, one row per person.

    ``thickness``, ``circumferential`` and ``radial`` have the 16 short-axis segments,
    ``longitudinal`` the 6 of the four-chamber view: basal, middle, apical septal, then apical,
    middle, basal lateral.
    """

    thickness: np.ndarray
    circumferential: np.ndarray
    radial: np.ndarray
    longitudinal: np.ndarray


def measure_mechanics(latent: Latent, shape: Shape) -> Mechanics:
    """Measure the contours at end-diastole and end-systole, without error."""
    both = np.broadcast_to([0.0, 1.0], (latent.age.size, 2))
    endo, epi = (_segments(radii) for radii in left_ventricle_at(latent, shape, both, PLANES))
    wall = epi - endo
    followed = endo + _DEPTH * wall
    return Mechanics(
        thickness=wall[..., 0],
        circumferential=100 * (followed[..., 1] / followed[..., 0] - 1),
        radial=100 * _RADIAL * (wall[..., 1] / wall[..., 0] - 1),
        longitudinal=_longitudinal(latent, shape),
    )


def _segments(values: np.ndarray) -> np.ndarray:
    """Average (people, 3 planes, times, 144) over the segments: (people, 16, times)."""
    means = []
    for plane, count in enumerate((6, 6, 4)):
        width = BINS // count
        # Angles grow from lateral by anterior to the septum; the first segment is the anterior one.
        first_leading = np.roll(values[:, plane], width // 2 - BINS // 4, axis=-1)
        means.append(first_leading.reshape(*first_leading.shape[:2], count, width).mean(-1))
    return np.concatenate(means, -1).swapaxes(1, 2)


def _longitudinal(latent: Latent, shape: Shape) -> np.ndarray:
    """Strain of the endocardium's arc in the four-chamber plane, (people, 6).

    The points that are followed keep their share of the length while the base descends.
    """
    # A point exactly at the base would lie above it for half the people, by rounding.
    share = np.linspace(0, 1 - 1e-9, 3 * _STEPS + 1)[1:]
    diastole, systole = np.zeros((latent.age.size, 1)), np.ones((latent.age.size, 1))
    shorter = 1 - shape.shortening[:, None]
    resting = cavity_radius_at(latent, shape, diastole, share)
    endo = endocardium_at(latent, shape, systole, share * shorter)
    contracted = endo[:, :, 0, _SEPTAL_LATERAL].mean(-1)  # people, heights, sides
    arcs = []
    for radius, length in ((resting, shape.length), (contracted, shape.length * shorter[:, 0])):
        radial = np.diff(radius, axis=1, prepend=0)
        along = np.diff(share, prepend=0)[:, None] * length[:, None, None]
        chords = np.hypot(radial, along)
        arcs.append(chords.reshape(len(chords), 3, _STEPS, -1).sum(2))  # apex to base, sides
    strain = 100 * (arcs[1] / arcs[0] - 1)
    return np.concatenate([strain[:, ::-1, 0], strain[:, :, 1]], 1)
