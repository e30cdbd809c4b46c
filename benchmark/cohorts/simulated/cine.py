"""The short axis of a simulated person: middle slice, stack and their true segmentation."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from benchmark.cohorts.simulated.atria import WALL, atria_at
from benchmark.cohorts.simulated.geometry import (
    APEX_WALL,
    RV_WALL,
    Shape,
    activation,
    contours_at,
)
from benchmark.cohorts.simulated.latent import Latent
from benchmark.cohorts.simulated.population import Block
from benchmark.cohorts.simulated.presets import Preset
from benchmark.cohorts.simulated.scanner import LONG_AXIS, Polar, Scanner, disc, mix

_Heart = TypeVar("_Heart", Latent, Shape)

MIDDLE = 0.50
"""Height of the middle slice, relative to the end-diastolic length; 0 apex, 1 base."""

GAP = 10.0
"""mm between neighbouring slices."""

SLICES = 8
"""In the cohort's volumes: half of them towards the base, then the middle slice and the rest."""

_MIDDLE_PLANE = LONG_AXIS // 2  # its number; those towards the base have lower ones

# mm; the heart, not the left ventricle, stands in the middle of the picture.
_LV_CENTRE = np.array([15.0, 0.0])
_TORSO_CENTRE = (28.0, 0.0)
_CENTRE_SD = 5.5
_ROTATION_SD = np.deg2rad(9)
_SHIFT_SD = 1.9  # between breath-holds
_PAPILLARY_ANGLES = (0.9, 4.0)
_PAPILLARY_RADIUS = 3.6  # mm
_PAPILLARY_HEIGHTS = (0.15, 0.35, 0.65, 0.80)  # between the outer two, and whole between the inner


@dataclass(frozen=True)
class ShortAxis:
    """Pictures of a block, uint8; rows from anterior to inferior, columns from RV to lateral wall.

    Attributes
    ----------
    cine
        (people, 1, frames, size, size) middle slice over one mean RR interval, from the R peak on.
    volumes
        (people, 2, `SLICES`, size, size) slices from base to apex at end-diastole and end-systole;
        the middle slice's pictures are those of ``cine``.
    masks
        (people, 2, size, size) truth of ``cine`` at end-diastole and end-systole: 0 background, 1
        left ventricular cavity with its papillary muscles, 2 myocardium, 3 right ventricular
        cavity.
    es_frame
        (people,) number of the frame with the smallest ventricles.
    """

    cine: np.ndarray
    volumes: np.ndarray
    masks: np.ndarray
    es_frame: np.ndarray


def draw_short_axis(
    block: Block,
    random_state: int,
    index: int,
    preset: Preset,
    *,
    frames: int,
    size: int,
    spacing: float,
) -> ShortAxis:
    """Image every person of a block.

    Parameters
    ----------
    index
        Number of the block.
    frames, size, spacing
        Frames of a heart beat, pixels per side, mm per pixel.
    """
    latent, shape = block.imaged, block.shape
    scanner = Scanner(latent, random_state, index, preset, size, spacing)
    s = beat(latent, frames)
    people, es_frame = len(s), s.argmax(1)
    phases = np.stack([np.zeros(people, int), es_frame], 1)
    slots = np.arange(SLICES // 2, SLICES // 2 - SLICES, -1)  # from the middle slice
    middle = _Sections(latent, shape, s, np.zeros(1))
    stack = _Sections(latent, shape, np.take_along_axis(s, phases, 1), GAP * slots)

    cine = np.empty((people, 1, frames, size, size), np.uint8)
    volumes = np.empty((people, 2, SLICES, size, size), np.uint8)
    masks = np.empty((people, 2, size, size), np.uint8)
    for row in range(people):
        camera = _Camera(scanner, row)
        slice_ = camera.aim(middle, row, 0, 0)
        slice_.expose(np.arange(frames), cine[row, 0])
        masks[row] = slice_.labels(phases[row])
        for k, slot in enumerate(slots):
            if slot:
                camera.aim(stack, row, k, slot).expose(phases[row], volumes[row, :, k])
            else:
                volumes[row, :, k] = cine[row, 0, phases[row]]
    return ShortAxis(cine, volumes, masks, es_frame)


def draw_stack(
    block: Block,
    random_state: int,
    index: int,
    row: int,
    preset: Preset,
    *,
    frames: int,
    size: int,
    spacing: float,
    gap: float = GAP,
) -> tuple[np.ndarray, np.ndarray]:
    """Image the whole left ventricle of one person of a block.

    The first slice lies above the valves, as an operator plans it; slice ``slices // 2`` is the
    middle one. When ``gap`` is `GAP`, slices that `draw_short_axis` has too are the same to the
    last bit.

    Parameters
    ----------
    index, row
        Number of the block, and of the person in it.
    frames, size, spacing
        As of `draw_short_axis`.
    gap
        mm between slices.

    Returns
    -------
    pictures : np.ndarray
        (slices, frames, size, size) uint8, base to apex; their number follows from the length of
        the ventricle.
    masks : np.ndarray
        The truth of every picture, labelled as `ShortAxis.masks`.

    Raises
    ------
    ValueError
        When the slices are too close to be numbered.
    """
    latent, shape = _one(block.imaged, row), _one(block.shape, row)
    middle = MIDDLE * float(shape.length[0])
    above = math.ceil((float(shape.length[0]) - middle) / gap)
    below = math.ceil((middle + APEX_WALL) / gap) - 1
    if above > _MIDDLE_PLANE:
        raise ValueError(f"slices {gap:g} mm apart are too many")
    slots = np.arange(above, -below - 1, -1)
    sections = _Sections(latent, shape, beat(latent, frames), gap * slots)
    camera = _Camera(Scanner(block.imaged, random_state, index, preset, size, spacing), row)
    pictures = np.empty((slots.size, frames, size, size), np.uint8)
    masks = np.empty_like(pictures)
    for k, slot in enumerate(slots):
        slice_ = camera.aim(sections, 0, k, slot)
        slice_.expose(np.arange(frames), pictures[k])
        masks[k] = slice_.labels()
    return pictures, masks


def beat(latent: Latent, frames: int) -> np.ndarray:
    """Return how far the ventricles have contracted, (people, frames) of one mean RR interval."""
    return activation(60 / latent.heart_rate, latent.af_rhythm, np.arange(frames) / frames)


def _one(of: _Heart, row: int) -> _Heart:
    """Return the same for one person alone."""
    fields = dataclasses.fields(of)
    return type(of)(**{f.name: getattr(of, f.name)[row : row + 1] for f in fields})


class _Sections:
    """The hearts cut by planes ``offsets`` mm from the middle slice's, positive to the base.

    Radii in mm around the heart's axis, (people, slices, times, angles), and the atria's discs.
    """

    def __init__(self, latent: Latent, shape: Shape, s: np.ndarray, offsets: np.ndarray) -> None:
        self.heights = MIDDLE + offsets / shape.length[:, None]
        contours = contours_at(latent, shape, s, self.heights)
        self.endo, self.epi, self.right = (
            contours.endocardium,
            contours.epicardium,
            contours.right,
        )
        planes = self.heights * shape.length[:, None]
        self.atria = [(a.lateral, a.radius_at(planes)) for a in atria_at(latent, shape, s)]


class _Camera:
    """One person of a block in the scanner."""

    def __init__(self, scanner: Scanner, row: int) -> None:
        self.scanner, self.row = scanner, row
        self.body, self.coil = scanner.body(row, *_TORSO_CENTRE, liver=True), scanner.coil(row)
        self.still = self.body * self.coil
        angle = _ROTATION_SD * scanner.rotation[row]
        self.turn = np.cos(angle), np.sin(angle)
        self.centre = _LV_CENTRE + _CENTRE_SD * scanner.centre[row]

    def aim(self, sections: _Sections, person: int, index: int, slot: int) -> _Slice:
        """Choose a slice: ``slot`` slices from the middle one, positive to the base.

        ``person`` and ``index`` are where ``sections`` holds it, which may be of other people and
        planes too.
        """
        scanner, plane = self.scanner, _MIDDLE_PLANE - int(slot)
        shift = _SHIFT_SD * scanner.chance(self.row, plane).standard_normal(2)
        x, y = scanner.x - self.centre[0] - shift[0], scanner.y - self.centre[1] - shift[1]
        cos, sin = self.turn
        right = sections.right[person, index]
        atria = [(lateral[person], radius[person, index]) for lateral, radius in sections.atria]
        reach = max(
            float(right.max()) + RV_WALL,
            *(float((np.abs(across) + r)[r > 0].max(initial=0)) + WALL for across, r in atria),
        )
        return _Slice(
            camera=self,
            plane=plane,
            polar=Polar(cos * x + sin * y, cos * y - sin * x, reach, scanner.spacing),
            height=float(sections.heights[person, index]),
            endo=sections.endo[person, index],
            epi=sections.epi[person, index],
            right=right,
            atria=[(across, r) for across, r in atria if r.any()],
        )


@dataclass
class _Slice:
    """One slice of one person; radii in mm, (times, angles)."""

    camera: _Camera
    plane: int
    polar: Polar
    height: float
    endo: np.ndarray
    epi: np.ndarray
    right: np.ndarray
    atria: list[tuple[np.ndarray, np.ndarray]]

    def expose(self, frames: np.ndarray, out: np.ndarray) -> None:
        """Fill ``out`` (times, size, size); ``frames`` are the times' numbers in the beat."""
        camera = self.camera
        camera.scanner.expose(camera.row, self.plane, frames, self._paint(), out)

    def labels(self, times: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return the truth, (times, size, size) uint8."""
        size = self.camera.scanner.size
        right, epi, endo = (radii[times] for radii in (self.right, self.epi, self.endo))
        heart = np.zeros((len(endo), self.polar.pixels.size), np.uint8)
        for radii, label in ((right, 3), (epi, 2), (endo, 1)):
            heart[self.polar.inside(radii)] = label
        labels = np.zeros((len(endo), size * size), np.uint8)
        labels[:, self.polar.pixels] = heart
        return labels.reshape(-1, size, size)

    def _paint(self) -> np.ndarray:
        """Return the pictures without noise in grey levels, (times, pixels) float32."""
        camera, polar = self.camera, self.polar
        scanner, row = camera.scanner, camera.row
        endo, epi, right = self.endo, self.epi, self.right
        blood, muscle, right_blood = scanner.blood[row], scanner.myocardium[row], scanner.right[row]
        # Nested regions, so that each edge mixes just the two tissues it separates.
        heart = polar.coverage(right + np.minimum(right - epi, RV_WALL))
        body = camera.body[polar.pixels]
        heart *= np.float32(muscle) - body
        heart += body
        crescent = polar.coverage(right)
        crescent -= polar.coverage(epi)
        crescent *= np.float32(right_blood - muscle)
        heart += crescent

        some = np.flatnonzero(polar.radius < endo.max() + polar.spacing)
        pool = polar.coverage(endo, some)
        self._spare_papillaries(pool, some)
        pool *= np.float32(blood - muscle)
        heart[:, some] += pool

        for grow, signal in ((WALL, muscle), (0, blood)):
            for across, radius in self.atria:
                dx = polar.x - across[:, None].astype(np.float32)
                apart = np.sqrt(dx * dx + polar.y * polar.y)
                reach = np.where(radius > 0, radius + grow, 0)[:, None]
                mix(heart, disc(apart, reach, scanner.spacing), signal)
        heart *= camera.coil[polar.pixels]
        picture = np.repeat(camera.still[None], len(endo), axis=0)
        picture[:, polar.pixels] = heart
        return picture

    def _spare_papillaries(self, pool: np.ndarray, some: np.ndarray) -> None:
        """Take the papillary muscles out of the coverage (times, pixels) of the cavity."""
        size = np.interp(
            self.height, _PAPILLARY_HEIGHTS, (0, _PAPILLARY_RADIUS, _PAPILLARY_RADIUS, 0)
        )
        if not size:
            return
        polar, margin = self.polar, size + float(self.polar.spacing)
        distance = np.float32(0.62) * self.endo.mean(1, keepdims=True)
        x, y = polar.x[some], polar.y[some]
        for angle in _PAPILLARY_ANGLES:
            along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
            aside = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
            near = np.flatnonzero(
                (np.abs(aside) < margin)
                & (along > distance.min() - margin)
                & (along < distance.max() + margin)
            )
            away = along[near] - distance
            apart = np.sqrt(away * away + aside[near] ** 2)
            pool[:, near] *= 1 - np.float32(0.8) * disc(apart, size, polar.spacing)
