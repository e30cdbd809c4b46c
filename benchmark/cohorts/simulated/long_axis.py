"""The four-chamber cine of a simulated person: the heart of the short axis, cut lengthwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.cohorts.simulated.atria import WALL, Atrium, atria_at
from benchmark.cohorts.simulated.cine import beat
from benchmark.cohorts.simulated.geometry import (
    ANGLES,
    APEX_WALL,
    BINS,
    RV_WALL,
    Shape,
    contours_at,
)
from benchmark.cohorts.simulated.latent import Latent
from benchmark.cohorts.simulated.population import Block
from benchmark.cohorts.simulated.presets import Preset
from benchmark.cohorts.simulated.scanner import LONG_AXIS, Polar, Scanner, disc, mix

_STATES = np.linspace(0, 1, 5)
"""Degrees of contraction for which the outlines are computed; in between they are interpolated."""

_POINTS = 16  # of an outline, from apex to base
_NARROWING = 0.2  # share by which the rings of the valves are narrower than the widest part
_VIEWPOINT = 0.45  # share of the end-diastolic length: from here the radii of outlines are counted
_FROM_APEX = ANGLES - np.pi  # directions: 0 apex, positive lateral, +-pi the middle of the base

# mm and rad. The apex points to the patient's left and up, the middle of the heart is centred.
_HEART = np.array([-17.0, 72.0])
_CENTRE_SD = 3.0
_TILT, _TILT_SD = np.deg2rad(36), np.deg2rad(6)
_TORSO_CENTRE = (-20.0, -20.0)
_AORTA = np.array([22.0, 128.0])  # the descending one, beside the left atrium
_AORTA_RADIUS = 11.0
_VALVE = 2.5  # thickness of the closed leaflets with their ring
_OPENING = 0.8  # share of an atrium's mouth that opens in diastole


def draw_long_axis(
    block: Block,
    random_state: int,
    index: int,
    preset: Preset,
    *,
    frames: int,
    size: int,
    spacing: float,
    rows: Sequence[int] | None = None,
) -> np.ndarray:
    """Image people of a block in the four-chamber view.

    Parameters
    ----------
    index
        Number of the block.
    frames, size, spacing
        Frames of one mean RR interval from the R peak on, pixels per side, mm per pixel.
    rows
        Whom; everybody unless said otherwise.

    Returns
    -------
    np.ndarray
        (people, frames, size, size) uint8; the apex points up, the left ventricle lies right.
    """
    scanner = Scanner(block.imaged, random_state, index, preset, size, spacing)
    s = beat(block.imaged, frames)
    hearts = _Hearts(block.imaged, block.shape, s)
    rows = range(len(s)) if rows is None else rows
    pictures = np.empty((len(rows), frames, size, size), np.uint8)
    for row, out in zip(rows, pictures, strict=True):
        signal = _View(scanner, hearts, row).paint()
        signal *= scanner.coil(row)
        scanner.expose(row, LONG_AXIS, np.arange(frames), signal, out)
    return pictures


def label_long_axis(
    block: Block,
    random_state: int,
    index: int,
    preset: Preset,
    *,
    frames: int,
    size: int,
    spacing: float,
) -> np.ndarray:
    """Return the truth of `draw_long_axis`.

    Returns
    -------
    np.ndarray
        (people, frames, size, size) uint8: 0 background, 1 left ventricular cavity, 2 myocardium,
        3 right ventricular cavity, 4 left atrium, 5 right atrium.
    """
    scanner = Scanner(block.imaged, random_state, index, preset, size, spacing)
    hearts = _Hearts(block.imaged, block.shape, beat(block.imaged, frames))
    labels = [_View(scanner, hearts, row).labels() for row in range(len(hearts.s))]
    return np.stack(labels).reshape(-1, frames, size, size)


@dataclass(frozen=True)
class _Outlines:
    """Radii in mm seen from the viewpoint, (people, states, directions)."""

    endo: np.ndarray
    epi: np.ndarray
    right: np.ndarray
    wall: np.ndarray

    def at(self, row: int, s: np.ndarray) -> list[np.ndarray]:
        """Return the four of one person, (times, directions), at degrees ``s`` of contraction."""
        position = s * (_STATES.size - 1)
        before = np.minimum(position.astype(int), _STATES.size - 2)
        share = (position - before)[:, None].astype(np.float32)
        return [
            (1 - share) * radii[row, before] + share * radii[row, before + 1]
            for radii in (self.endo, self.epi, self.right, self.wall)
        ]


class _Hearts:
    """The hearts of a block cut along their axis through the septum and the lateral wall."""

    def __init__(self, latent: Latent, shape: Shape, s: np.ndarray) -> None:
        self.s = s
        self.length = shape.length
        self.outlines = _outlines(latent, shape)
        self.atria = atria_at(latent, shape, s)
        self.open = np.arange(s.shape[1]) > s.argmax(1)[:, None]


def _outlines(latent: Latent, shape: Shape) -> _Outlines:
    """Cut the contours of the short axis, and see their edges from one point on the axis."""
    # Equal steps of this angle are about equal steps along a spheroid's edge.
    share = 1 - np.cos(np.linspace(0, np.pi / 2, _POINTS + 1)[1:])
    share[-1] -= 1e-9  # a plane exactly at the base would be above it for some, by rounding
    found: list[list[np.ndarray]] = []
    for state in _STATES:
        base = shape.length * (1 - shape.shortening * state)
        z = share * (base + APEX_WALL)[:, None] - APEX_WALL  # people, points
        s = np.full((base.size, 1), state)
        cut = contours_at(latent, shape, s, z / shape.length[:, None])
        # The two bins on either side of each direction.
        lateral = [c[:, :, 0, [-1, 0]].mean(-1) for c in (cut.endocardium, cut.epicardium)]
        septal = [
            c[:, :, 0, BINS // 2 - 1 : BINS // 2 + 1].mean(-1)
            for c in (cut.endocardium, cut.epicardium, cut.right)
        ]
        # Half a spheroid is widest at its base; the picture narrows towards the valves.
        narrow = 1 - _NARROWING * np.clip((share - 0.7) / 0.3, 0, 1) ** 2
        lateral, septal = ([narrow * r for r in radii] for radii in (lateral, septal))
        wall = septal[2] + np.minimum(septal[2] - septal[1], RV_WALL)
        edges = (
            (septal[0], lateral[0], 0.0),
            (septal[1], lateral[1], -APEX_WALL),
            (septal[2], lateral[1], -APEX_WALL),
            (wall, lateral[1], -APEX_WALL),
        )
        found.append([_seen(shape.length, z, *edge) for edge in edges])
    return _Outlines(*(np.stack(radii, 1).astype(np.float32) for radii in zip(*found, strict=True)))


def _seen(
    length: np.ndarray, z: np.ndarray, septal: np.ndarray, lateral: np.ndarray, apex: float
) -> np.ndarray:
    """Return (people, directions) radii of an edge; above the valves they lead nowhere.

    ``z`` (people, points) is the height of the points, whose distances from the axis ``septal`` and
    ``lateral`` are; ``apex`` is the height at which the edge meets the axis.
    """
    view = _VIEWPOINT * length
    depth = view[:, None] - np.maximum(z, apex)  # towards the apex
    tip = (view - apex)[:, None]
    across = np.concatenate([-septal[:, ::-1], np.zeros_like(tip), lateral], 1)
    along = np.concatenate([depth[:, ::-1], tip, depth], 1)
    angle, radius = np.arctan2(across, along), np.hypot(across, along)
    return np.stack([np.interp(_FROM_APEX, a, r) for a, r in zip(angle, radius, strict=True)])


class _View:
    """One person's pixels in the heart's coordinates: across it, and along it from the apex."""

    def __init__(self, scanner: Scanner, hearts: _Hearts, row: int) -> None:
        self.scanner, self.hearts, self.row = scanner, hearts, row
        self.spacing = np.float32(scanner.spacing)
        tilt = _TILT + _TILT_SD * scanner.tilt[row]
        x, y = (scanner.x, scanner.y) - _CENTRE_SD * scanner.centre[row][:, None]
        # At tilt 0 the apex would point straight up.
        self.across = (np.cos(tilt) * x - np.sin(tilt) * y + _HEART[0]).astype(np.float32)
        self.along = (-np.sin(tilt) * x - np.cos(tilt) * y + _HEART[1]).astype(np.float32)
        depth = np.float32(_VIEWPOINT * hearts.length[row]) - self.along
        self.outlines = hearts.outlines.at(row, hearts.s[row])
        # `Polar` counts from its x axis: with the apex at pi, its bins are `_FROM_APEX`.
        reach = float(self.outlines[-1].max())
        self.polar = Polar(-depth, -self.across, reach, scanner.spacing)
        self.valve = hearts.atria[0].valve[row, :, None].astype(np.float32)

    def paint(self) -> np.ndarray:
        """Return the signal over time, (times, pixels) float32."""
        scanner, row, polar = self.scanner, self.row, self.polar
        blood, muscle, right_blood = scanner.blood[row], scanner.myocardium[row], scanner.right[row]
        static = scanner.body(row, *_TORSO_CENTRE, liver=False)
        aorta = np.hypot(self.across - _AORTA[0], self.along - _AORTA[1])
        mix(static, disc(aorta, _AORTA_RADIUS, scanner.spacing), blood)
        picture = np.repeat(static[None], len(self.valve), axis=0)

        atria = [self._atrium(atrium) for atrium in self.hearts.atria]
        for pixels, edge, _ in atria:
            part = picture[:, pixels]
            mix(part, np.clip(edge + np.float32(WALL) / self.spacing, 0, 1), muscle)
            picture[:, pixels] = part

        endo, epi, right, wall = self.outlines
        heart = picture[:, polar.pixels]
        along = self.along[polar.pixels]
        below = np.clip((self.valve - along) / self.spacing + np.float32(0.5), 0, 1)
        mix(heart, polar.coverage(wall) * below, muscle)
        below *= np.float32(right_blood - muscle)
        heart += (polar.coverage(right) - polar.coverage(epi)) * below
        below *= np.float32((blood - muscle) / (right_blood - muscle))
        heart += polar.coverage(endo) * below
        picture[:, polar.pixels] = heart

        for (pixels, edge, leaflets), signal in zip(atria, (blood, right_blood), strict=True):
            part = picture[:, pixels]
            mix(part, np.clip(edge, 0, 1) * (1 - leaflets), signal)
            picture[:, pixels] = part
        return picture

    def labels(self) -> np.ndarray:
        """Return the truth, (times, pixels) uint8."""
        labels = np.zeros((len(self.valve), self.along.size), np.uint8)
        for atrium, label in zip(self.hearts.atria, (4, 5), strict=True):
            pixels, edge, _ = self._atrium(atrium)
            part = labels[:, pixels]
            part[(edge > 0.5) & (self.along[pixels] > self.valve)] = label
            labels[:, pixels] = part
        pixels = self.polar.pixels
        heart, below = labels[:, pixels], self.along[pixels] < self.valve
        for radii, label in zip(self.outlines[2::-1], (3, 2, 1), strict=True):
            heart[self.polar.inside(radii) & below] = label
        labels[:, pixels] = heart
        return labels

    def _atrium(self, atrium: Atrium) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return its pixels and, (times, pixels), how deep they lie in it and in the valve.

        The depth is 0.5 at the edge and rises by 1 with every pixel inwards. The valve covers what
        its closed leaflets do, or in diastole what is left of the ring.
        """
        row, spacing = self.row, self.spacing
        centre, long, wide, lateral = (
            values[row, :, None].astype(np.float32)
            for values in (atrium.centre, atrium.long, atrium.across, atrium.lateral)
        )
        reach = np.float32(WALL) + spacing
        pixels = np.flatnonzero(
            (self.along > self.valve.min() - reach)
            & (self.along < (centre + long).max() + reach)
            & (self.across > (lateral - wide).min() - reach)
            & (self.across < (lateral + wide).max() + reach)
        )
        along, across = self.along[pixels], self.across[pixels] - lateral
        u, v = (along - centre) / long, across / wide
        above = (along - self.valve) / spacing
        edge = np.minimum((1 - np.sqrt(u * u + v * v)) * (wide / spacing), above) + np.float32(0.5)
        gap = np.where(self.hearts.open[row, :, None], np.float32(_OPENING) * wide, 0)
        thick = np.clip(np.float32(_VALVE) / spacing - above + np.float32(0.5), 0, 1)
        aside = np.clip((np.abs(across) - gap) / spacing + np.float32(0.5), 0, 1)
        return pixels, edge, thick * np.where(gap > 0, aside, 1)
