"""Cine CMR from the DICOM zips of UK Biobank, fields 20208 (long axis) and 20209 (short axis).

One zip holds one visit of one person: one series per short-axis slice or long-axis view with one
file per frame, result images of the scanner (InlineVF) and a manifest. Nobody promises the order
of files, slices or frames, so all follow from tags of the images themselves; layout as the public
readers of ukbb_cardiac (Bai et al. 2018), ml4h and CineMA found it.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.cohorts.ukb import archive
from benchmark.cohorts.ukb.cine import (
    MAX_PIXELS,
    MIN_FRAMES,
    MIN_SLICES,
    Cine,
    apex_comes_last,
)
from benchmark.cohorts.ukb.dicom_image import DicomImage, decode, geometry, shape_of
from benchmark.cohorts.ukb.quiet import quiet
from benchmark.cohorts.ukb.reasons import Flag, Reason, Refused

SHORT_AXIS = re.compile(r"CINE_segmented_SAX(?:_b(\d{1,3}))?", re.IGNORECASE)
LONG_AXIS = re.compile(r"CINE_segmented_LAX(?:_(4Ch))?", re.IGNORECASE)
INLINE_VF = re.compile(r"inline_?vf", re.IGNORECASE)

MAX_FILLED_FRAMES = 2
MAX_TIME = 60_000  # ms


@contextmanager
def _pydicom() -> Iterator[None]:
    """Let pydicom neither print nor check values, which are not used as it converts them."""
    from pydicom import config

    with quiet("pydicom"), config.disable_value_validation():
        yield


@_pydicom()
def read_short_axis(path: Path) -> Cine:
    """Read the short-axis stack of a zip of field 20209.

    Parameters
    ----------
    path
        The zip.

    Returns
    -------
    Cine
        All slices, base to apex; intensities as stored.

    Raises
    ------
    Refused
        With the reason, for anything but a stack of at least six evenly spaced slices with at
        most two frames of each missing.
    """
    slices, results, flags = _acquisitions(path, SHORT_AXIS)
    numbered = _latest(slices, lambda one: one.slot)
    # A slice acquired again under a number of its own lies where the first one lies.
    chosen = _latest(numbered, lambda one: one.place)
    if len(chosen) < len(slices):
        flags.add(Flag.REPEATED_SERIES)
    if len(chosen) < MIN_SLICES:
        raise Refused(Reason.FEW_SLICES, f"{len(chosen)} slices")
    first = chosen[0]
    if any(np.abs(one.axes - first.axes).max() > 0.02 for one in chosen):
        raise Refused(Reason.SLICES_DIFFER, "not parallel")
    numbers = [int(one.name) for one in chosen if one.name]
    if numbers and max(numbers) - min(numbers) >= len(numbers):
        flags.add(Flag.SERIES_NUMBER_GAP)

    chosen.sort(key=lambda one: one.position @ first.normal)
    distances = np.diff([one.position @ first.normal for one in chosen])
    gap = float(np.median(distances))
    if distances.max() > 1.5 * gap or distances.min() < 0.5 * gap:
        raise Refused(Reason.BROKEN_STACK)
    if np.abs(distances - gap).max() > 0.1 * gap:
        flags.add(Flag.UNEVEN_SLICES)

    frames, times, rr = _frames(chosen, flags)
    in_order, agreed = apex_comes_last(frames, chosen[-1].position - chosen[0].position)
    if not agreed:
        flags.add(Flag.ORDER_DISPUTED)
    if not in_order:
        frames, times = np.ascontiguousarray(frames[::-1]), times[::-1].copy()
    return Cine(
        frames=frames,
        spacing=first.spacing,
        gap=gap,
        trigger_times=times,
        rr=rr,
        contour_centre=_contour_centre(results, frames.shape[-2:]),
        flags=frozenset(flags),
    )


def _contour_centre(
    results: list[DicomImage], shape: tuple[int, int]
) -> tuple[float, float] | None:
    """Return the mean place of everything that is drawn over the scanner's result images."""
    drawn = [plane for image in results if (plane := image.overlay(shape)) is not None]
    rows, columns = np.nonzero(np.sum(drawn, axis=0)) if drawn else ((), ())
    return (float(np.mean(rows)), float(np.mean(columns))) if len(rows) else None


@_pydicom()
def read_long_axis(path: Path) -> Cine:
    """Read the four-chamber view of a zip of field 20208.

    Parameters
    ----------
    path
        The zip.

    Returns
    -------
    Cine
        One slice. From a series that merges all views, the most horizontal one.

    Raises
    ------
    Refused
        With the reason, for anything but a view with at most two frames missing.
    """
    planes, _, flags = _acquisitions(path, LONG_AXIS)
    views = [one for one in planes if one.name]
    if not views:
        if Flag.MERGED_SERIES not in flags:
            raise Refused(Reason.NO_CINE, "the only long-axis series does not name its view")
        # The four-chamber view is the horizontal long axis: of the three planes through the
        # apex, its normal is the nearest to the line from feet to head.
        upright = max(abs(one.normal[2]) for one in planes)
        views = [one for one in planes if abs(one.normal[2]) > upright - 0.01]
    chosen = _latest(views, lambda one: "4Ch")
    if len(chosen) < len(views):
        flags.add(Flag.REPEATED_SERIES)
    frames, times, rr = _frames(chosen, flags)
    return Cine(
        frames=frames,
        spacing=chosen[0].spacing,
        trigger_times=times,
        rr=rr,
        flags=frozenset(flags),
    )


# ------------------------------------------------------------------------ from files to series


@dataclass(frozen=True, eq=False)
class _Acquisition:
    """The frames of one slice, acquired at one go.

    ``name`` is what the series' description says of it: number of the slice, 4Ch, or nothing.
    """

    name: str
    merged: bool
    position: np.ndarray
    axes: np.ndarray
    images: list[DicomImage]

    @property
    def place(self) -> Hashable:
        return tuple(self.position.round(1))

    @property
    def slot(self) -> Hashable:
        """What a repetition of the same slice shares with it."""
        return self.place if self.merged or not self.name else self.name

    @property
    def normal(self) -> np.ndarray:
        return np.cross(*self.axes)

    @property
    def spacing(self) -> float:
        """Mm per pixel."""
        spacing = self.images[0].numbers("PixelSpacing", 2)
        if spacing is None or not 0.1 < min(spacing) <= max(spacing) < 10:
            raise Refused(Reason.NO_GEOMETRY, "pixel spacing")
        if max(spacing) > 1.01 * min(spacing):
            raise Refused(Reason.PIXELS_NOT_SQUARE)
        return spacing[0]

    @property
    def stated_frames(self) -> int | None:
        stated = self.images[0].number("CardiacNumberOfImages")
        return None if stated is None else int(stated)

    @property
    def interval(self) -> float | None:
        """Length of the heart beat in ms."""
        interval = self.images[0].number("NominalInterval")
        return interval if interval is not None and 100 < interval < 10_000 else None

    @property
    def acquired(self) -> tuple[str, str, float]:
        """What later acquisitions have more of."""
        first = self.images[0]
        number = first.number("SeriesNumber")
        date, time = first.text("AcquisitionDate"), first.text("AcquisitionTime")
        return date, time, -1.0 if number is None else number


def _acquisitions(
    path: Path, view: re.Pattern[str]
) -> tuple[list[_Acquisition], list[DicomImage], set[Flag]]:
    """Collect the cine images of a view, one group per acquired slice, and the result images."""
    flags: set[Flag] = set()
    named: list[tuple[str, DicomImage]] = []
    unnamed: dict[str, DicomImage] = {}
    manifest = b""
    for member, content in archive.members(path):
        if member.lower().endswith(".dcm"):
            image = DicomImage(content)
            description = image.text("SeriesDescription")
            if description:
                named.append((description, image))
            else:
                unnamed[member] = image
        elif member.lower() in ("manifest.csv", "manifest.cvs"):
            manifest = content
        else:
            flags.add(Flag.UNKNOWN_MEMBER)
    if not named and not unnamed:
        raise Refused(Reason.ZIP_WITHOUT_DICOM)
    if unnamed:
        descriptions = _manifest_descriptions(manifest)
        known = unnamed.keys() & descriptions.keys()
        named += [(descriptions[member], unnamed.pop(member)) for member in sorted(known)]
        if known:
            flags.add(Flag.NAMED_BY_MANIFEST)

    results = [image for description, image in named if INLINE_VF.search(description)]
    groups = defaultdict(dict)
    for description, image in named:
        match = view.fullmatch(description)
        if match is None:
            continue
        position, axes = geometry(image)
        series = match[1] or "", image.text("SeriesInstanceUID")
        group = groups[series, tuple(position.round(1)), tuple(axes.ravel().round(2))]
        # One image stored twice is one frame; without an identifier nothing says so.
        group.setdefault(image.text("SOPInstanceUID") or len(group), (position, axes, image))
    if not groups:
        if unnamed:
            raise Refused(Reason.NO_SERIES_DESCRIPTION)
        if results:
            raise Refused(Reason.ONLY_INLINE_VF)
        raise Refused(Reason.NO_CINE)

    slices_of = Counter(series for series, *_ in groups)
    if max(slices_of.values()) > 1:
        flags.add(Flag.MERGED_SERIES)
    acquisitions = []
    for (series, *_), group in groups.items():
        images = list(group.values())
        position, axes, _ = images[0]
        acquisitions.append(
            _Acquisition(
                name=series[0],
                merged=slices_of[series] > 1,
                position=position,
                axes=axes,
                images=[image for *_, image in images],
            )
        )
    return acquisitions, results, flags


def _latest(
    acquisitions: list[_Acquisition], same: Callable[[_Acquisition], Hashable]
) -> list[_Acquisition]:
    """Of acquisitions of the same thing keep the one with all frames, the last such one."""
    groups = defaultdict(list)
    for one in acquisitions:
        groups[same(one)].append(one)

    def merit(one: _Acquisition) -> tuple[int, tuple[str, str, float]]:
        return min(len(one.images), one.stated_frames or len(one.images)), one.acquired

    return [max(group, key=merit) for group in groups.values()]


def _manifest_descriptions(content: bytes) -> dict[str, str]:
    """Read which series a member belongs to from the manifest.

    Its date, such as ``Aug 30, 2015``, holds a comma that is not always quoted, and its header
    spells the column of the description wrongly.
    """
    text = content.decode("utf-8-sig", "replace")
    text = re.sub(r"([A-Z][a-z]{2} \d{1,2}), (\d{4})", r"\1 \2", text)
    try:
        rows = list(csv.DictReader(io.StringIO(text), restval=""))
    except csv.Error:
        return {}
    descriptions = {}
    for row in rows:
        fields = {str(column).strip().lower(): value for column, value in row.items()}
        name = fields.get("filename")
        description = fields.get("series discription") or fields.get("series description")
        if name and description:
            descriptions[name.strip()] = description.strip()
    return descriptions


# --------------------------------------------------------------------- from series to an array


def _frames(
    acquisitions: list[_Acquisition], flags: set[Flag]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Decode and order the frames of slices that belong together.

    Returns
    -------
    tuple
        (slices, frames, rows, columns) uint16; their times in ms, (slices, frames) float32;
        length of the heart beat in ms.
    """
    stated = {one.stated_frames for one in acquisitions} - {None}
    shapes = {shape_of(image) for one in acquisitions for image in one.images}
    spacings = [one.spacing for one in acquisitions]
    if len(stated) > 1 or len(shapes) > 1 or max(spacings) > 1.01 * min(spacings):
        raise Refused(Reason.SLICES_DIFFER)
    count = stated.pop() if stated else max(len(one.images) for one in acquisitions)
    if count < MIN_FRAMES:
        raise Refused(Reason.NOT_A_CINE, f"{count} frames")
    orders = [_order(one, count) for one in acquisitions]

    (shape,) = shapes
    if len(acquisitions) * count * shape[0] * shape[1] > MAX_PIXELS:
        raise Refused(Reason.DICOM_TOO_LARGE)
    frames = np.empty((len(acquisitions), count, *shape), np.uint16)
    for one, (files, _), target in zip(acquisitions, orders, frames, strict=True):
        for frame, file in enumerate(files):
            if frame and file == files[frame - 1]:
                target[frame] = target[frame - 1]
                flags.add(Flag.FILLED_FRAME)
            else:
                decode(one.images[file], target[frame])
    times = np.stack([times for _, times in orders])
    intervals = [one.interval for one in acquisitions if one.interval]
    rr = np.median(intervals) if intervals else np.median(np.diff(times)) * count
    return frames, times.astype(np.float32), float(rr)


def _order(one: _Acquisition, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Order the images of a slice by time, a missing one filled with its neighbour.

    Returns
    -------
    tuple
        (count,) the image for each frame, and (count,) its time in ms.
    """
    present = len(one.images)
    if present > count:
        raise Refused(Reason.SURPLUS_FRAMES, f"{present} of {count} frames")
    if present < count - MAX_FILLED_FRAMES:
        raise Refused(Reason.MISSING_FRAMES, f"{present} of {count} frames")
    times = _clock(one, count)
    if np.abs(times).max() > MAX_TIME:
        raise Refused(Reason.IRREGULAR_FRAMES, "trigger time of more than a minute")
    order = np.argsort(times)
    times = times[order]
    frame = np.arange(present)
    step = np.median(np.diff(times))
    if present < count:
        # The place of each image by its time. Whether the missing ones come first or last is
        # told by the time of the first, as far as the count leaves room.
        frame = np.rint((times - times[0]) / step).astype(np.int64)
        frame += np.clip(int(np.rint(times[0] / step)), 0, max(count - 1 - frame[-1], 0))
        if frame[-1] >= count or np.diff(frame).min() < 1:
            raise Refused(Reason.IRREGULAR_FRAMES)
    source = np.maximum(np.searchsorted(frame, np.arange(count), side="right") - 1, 0)
    return order[source], times[source] + (np.arange(count) - frame[source]) * step


def _clock(one: _Acquisition, count: int) -> np.ndarray:
    """Return the time of each image after the R peak, in ms."""
    times = [image.number("TriggerTime") for image in one.images]
    if any(time is None for time in times):
        raise Refused(Reason.NO_CARDIAC_TAGS)
    if len(set(times)) == len(times):
        return np.array(times)
    numbers = [image.number("InstanceNumber") for image in one.images]
    if one.interval is None or any(number is None for number in numbers):
        raise Refused(Reason.IRREGULAR_FRAMES, "trigger times repeat")
    phases = (np.array(numbers) - 1) % count  # a merged series numbers them over all slices
    if len(np.unique(phases)) < len(phases):
        raise Refused(Reason.IRREGULAR_FRAMES, "trigger times and instance numbers repeat")
    return phases * one.interval / count
