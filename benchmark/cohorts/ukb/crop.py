"""Where the heart is in a short-axis stack, for the crop around it.

No segmentation comes with UK Biobank's images. Ways to do without, or with one of one's own:

``segmentation``
    Centroid of the labels of a segmentation that lies beside the images.
``motion``
    Centroid of what changes once per heart beat: the first harmonic over time (Lin, Cowan and
    Young, MICCAI 2006).
``inlinevf``
    Centroid of the contours that the scanner drew into its InlineVF series. They agree poorly with
    manual ones, which matters less for a place than for a volume, and not everybody has them.
``fixed``
    The same place for everybody, as MMCL's published code crops (Turgut et al. 2025).

``auto`` takes the segmentation where there is one and motion elsewhere.
"""

from __future__ import annotations

import numpy as np

from benchmark.cohorts.ukb.cine import Cine
from benchmark.cohorts.ukb.reasons import Reason, Refused

CROPS = ("auto", "segmentation", "motion", "inlinevf", "fixed")

MMCL_CENTRE = (0.21 + 0.375 / 2, 0.325 + 0.375 / 2)
"""Row and column of the centre of MMCL's crop, as shares of the picture."""

RADIUS_MM = 55.0
"""Of the disc that holds both ventricles: their long diameter is 90 to 110 mm."""
SMOOTHING_MM = 4.0
RECENTRINGS = 3
LEAST_CONTRAST = 3.0
"""Motion inside the disc over motion elsewhere: under 2 for noise alone, above 10 for a heart."""


def heart_centre(stack: Cine, how: str = "auto") -> tuple[tuple[float, float], str]:
    """Return where the heart is, and which way of finding it was used.

    Parameters
    ----------
    stack
        Short or long axis.
    how
        Of `CROPS`.

    Returns
    -------
    tuple
        ((row, column) in pixels, 0 being the middle of the first one), and the way.

    Raises
    ------
    Refused
        When no heart is found.
    """
    if how == "auto":
        how = "motion" if stack.segmentation is None else "segmentation"
    if how == "segmentation":
        if stack.segmentation is None:
            raise Refused(Reason.NO_SEGMENTATION)
        return segmentation_centre(stack.segmentation), how
    if how == "inlinevf":
        if stack.contour_centre is None:
            raise Refused(Reason.NO_CONTOURS)
        return stack.contour_centre, how
    if how == "motion":
        return motion_centre(stack.frames, stack.spacing), how
    height, width = stack.frames.shape[-2:]
    row, column = MMCL_CENTRE
    return (row * height - 0.5, column * width - 0.5), "fixed"


def segmentation_centre(segmentation: np.ndarray) -> tuple[float, float]:
    """Return the centroid of all labels over slices and frames; `Refused` without any."""
    labelled = (segmentation > 0).sum(axis=(0, 1), dtype=np.int64)
    if not labelled.any():
        raise Refused(Reason.NO_HEART, "the segmentation is empty")
    return _centroid(labelled.astype(np.float64))


def motion_centre(frames: np.ndarray, spacing: float) -> tuple[float, float]:
    """Return the centroid of the first temporal harmonic; `Refused` where nothing beats.

    Energy is summed over the slices and smoothed. The disc that holds most of its root, above what
    the median pixel has (noise), is searched for, and the centroid inside it taken: breathing,
    flow in far vessels and the chest wall lie outside.

    Parameters
    ----------
    frames
        (slices, frames, height, width) over one heart beat.
    spacing
        mm per pixel.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.signal import fftconvolve

    count = frames.shape[1]
    turn = np.exp(-2j * np.pi * np.arange(count) / count).astype(np.complex64)
    energy = np.zeros(frames.shape[-2:])
    for images in frames:
        harmonic = np.zeros(images.shape[-2:], np.complex64)
        for factor, image in zip(turn, images, strict=True):
            harmonic += factor * image
        energy += np.square(harmonic.real) + np.square(harmonic.imag)
    smooth = gaussian_filter(energy, SMOOTHING_MM / spacing, mode="constant")
    # The root keeps one bright vessel from outweighing both ventricles.
    amount = np.sqrt(np.maximum(smooth - np.median(smooth), 0))
    if not amount.any():
        raise Refused(Reason.NO_HEART, "nothing moves")
    reach = int(RADIUS_MM / spacing)
    disc = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1]) * spacing <= RADIUS_MM
    within = fftconvolve(amount, disc.astype(np.float64), mode="same")
    centre = np.unravel_index(np.argmax(within), within.shape)
    rows, columns = np.indices(amount.shape)
    for _ in range(RECENTRINGS):
        inside = np.hypot(rows - centre[0], columns - centre[1]) * spacing <= RADIUS_MM
        centre = _centroid(np.where(inside, amount, 0))
    outside = amount[~inside]
    if outside.size and amount[inside].mean() < LEAST_CONTRAST * outside.mean():
        raise Refused(Reason.NO_HEART, "motion is spread over the whole picture")
    return centre


def _centroid(weight: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(weight.shape)
    total = weight.sum()
    return float((rows * weight).sum() / total), float((columns * weight).sum() / total)
