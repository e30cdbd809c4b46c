"""A cine as its files hold it: frames over one heart beat, of one slice or a stack of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark.cohorts.ukb.reasons import Flag

MIN_FRAMES = 10
MIN_SLICES = 6
MAX_PIXELS = 1 << 26  # of all frames and slices: three times a genuine stack

# From the base of a heart to its apex, in DICOM's axes (x to the patient's left, y to the back,
# z to the head): to the left, the front and the feet.
TO_APEX = np.array([1.0, -1.0, -1.0]) / np.sqrt(3.0)


@dataclass(frozen=True, kw_only=True)
class Cine:
    """Frames over one heart beat, the first at the R peak.

    Attributes
    ----------
    frames
        (slices, frames, rows, columns) uint16, slices from base to apex; one slice in long axis.
    spacing
        mm per pixel.
    gap
        mm from the centre of a slice to the next one's; None for a single slice.
    trigger_times
        (slices, frames) float32, ms after the R peak; None when the files do not say.
    rr
        Length of the heart beat in ms; None when the files do not say.
    segmentation
        (slices, len(segmented_frames), rows, columns) uint8, or None: 0 background, 1 left
        ventricular cavity, 2 myocardium, 3 right ventricular cavity.
    segmented_frames
        The frames ``segmentation`` is of: all, or end-diastole (0) and end-systole.
    contour_centre
        (row, column) of the centroid of the contours that the scanner itself drew into its
        InlineVF images, in pixels; None without any.
    flags
        What is odd about the files.
    """

    frames: np.ndarray
    spacing: float
    gap: float | None = None
    trigger_times: np.ndarray | None = None
    rr: float | None = None
    segmentation: np.ndarray | None = None
    segmented_frames: tuple[int, ...] = ()
    contour_centre: tuple[float, float] | None = None
    flags: frozenset[Flag] = frozenset()


def apex_comes_last(frames: np.ndarray, direction: np.ndarray) -> tuple[bool, bool]:
    """Tell whether a stack runs from base to apex, and whether its geometry agrees.

    The images decide: what moves with the heart beat (amplitude of the first harmonic) covers
    more pixels in the basal half, with its two ventricles, than in the apical one. When the
    halves differ by less than a quarter, the geometry decides: an apex lies to the left, the
    front and the feet of its base.

    Parameters
    ----------
    frames
        (slices, frames, rows, columns), neighbouring slices next to each other.
    direction
        (3,) mm, from the first slice to the last in DICOM's patient axes.
    """
    area = _moving_area(frames)
    half = len(area) // 2
    first, last = area[:half].sum(), area[-half:].sum()
    by_geometry = bool(direction @ TO_APEX > 0)
    if max(first, last) <= 1.25 * min(first, last):
        return by_geometry, True
    by_motion = bool(first > last)
    return by_motion, by_motion == by_geometry


def _moving_area(frames: np.ndarray) -> np.ndarray:
    """Count the pixels of each slice that change once per heart beat; (slices,)."""
    count = frames.shape[1]
    phase = 2 * np.pi * np.arange(count) / count
    waves = np.stack([np.cos(phase), np.sin(phase)]).astype(np.float32)
    coarse = frames[:, :, ::2, ::2].astype(np.float32)  # the whole costs as much as the reading
    harmonic = np.hypot(*np.moveaxis(np.einsum("wt,stij->swij", waves, coarse), 1, 0))
    return (harmonic > np.percentile(harmonic, 99.5) / 4).sum(axis=(1, 2))
