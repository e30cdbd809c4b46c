"""A contact sheet of simulated people: ECG on paper, heart in motion, phenotypes.

Only people who exist in a computer alone may be shown one by one.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.api import Cohort, UserError
from benchmark.cohorts.cohort import DIAGNOSES, ECG_MILLIVOLT, ECG_RATE, LEADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmark.cohorts.simulated.cohort import SimulatedCohort

SHOWN = ("LVEDV", "LVEF", "LVM", "RVEDV", "RVEF", "LAmax", "WT_global", "Ecc_global", "Ell_global")
"""Phenotypes that are written under the pictures."""

# Paper: 25 mm/s and 10 mm/mV, three rows of four leads for 2.5 s each over a strip of lead II.
_SPEED, _GAIN = 25.0, 10.0
_ROW = 29.0  # mm between the baselines of two rows
_MARGIN = 8.0  # mm left of the signals, for the calibration pulse
_PAPER = (_MARGIN + 10 * _SPEED + 2, 4 * _ROW + 2)  # mm
_PIXELS_PER_MM = 3

_COLUMNS = 7  # of pictures; the last one shows the truth
_PICTURE = 120  # pixels a side, about: a whole number for each of the cohort's
_GAP = 2
_TITLE, _LINE = 62, 40  # pixels
_GREY_STEP = 12  # noise needs no finer levels, and the file stays small
_OUTLINES = ("#ff3b3b", "#ffe14d", "#5dd2ff", "#8cff6b", "#e78bff")


@dataclass(frozen=True)
class _Person:
    name: str
    words: str
    numbers: str
    ecg_mv: np.ndarray
    pictures: np.ndarray
    """(3 rows, 7 columns, size, size) uint8: short axis over time, stack, long axis over time."""
    truth: np.ndarray
    """(3, size, size) labels of the last column."""


def contact_sheet(
    kind: type[Cohort], preset: str = "default", scale: str = "small", path: Path | None = None
) -> Path:
    """Draw a few people of a cohort and write them as a PNG; return its path.

    The first woman and the first man without a diagnosis are shown and the first person with a
    myocardial infarction, or failing that with any diagnosis, of the cohort's first block. They are
    simulated anew: the store is not needed.

    Parameters
    ----------
    kind
        Class of the cohort.
    preset, scale
        Population, and size of its pictures.
    path
        ``cohort-<title>.png`` in the current folder when left out.

    Raises
    ------
    UserError
        When the people are real, or the file cannot be written.
    """
    if not kind.simulated:
        raise UserError(f"the people of {kind.name} are real: they are not shown one by one")
    cohort = kind.at(scale, preset)
    path = path or Path(f"cohort-{cohort.title}.png")
    sheet = _draw(cohort)
    try:
        path.write_bytes(sheet)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return path


def _people(cohort: SimulatedCohort) -> list[_Person]:
    from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES, UNITS
    from benchmark.cohorts.simulated.cine import draw_stack
    from benchmark.cohorts.simulated.ecg import draw_ecg
    from benchmark.cohorts.simulated.long_axis import draw_long_axis, label_long_axis
    from benchmark.cohorts.simulated.population import draw_block
    from benchmark.cohorts.simulated.presets import PRESETS

    state, preset = cohort.random_state, PRESETS[cohort.preset]
    pixels = {"frames": cohort.frames, "size": cohort.size, "spacing": cohort.spacing}
    block = draw_block(state, 0, preset)
    ecg, _ = draw_ecg(block, state, 0, preset)
    chambers = label_long_axis(block, state, 0, preset, **pixels)
    person = block.person
    healthy = person.diagnoses.sum(1) == 0
    rows = [
        int(np.argmax(healthy & (person.male == 0))),
        int(np.argmax(healthy & (person.male > 0))),
        int(np.argmax(2 * person.mi + (person.diagnoses.sum(1) > 0))),
    ]
    long_axes = draw_long_axis(block, state, 0, preset, **pixels, rows=rows)
    people = []
    for row, long_axis in zip(rows, long_axes, strict=True):
        stack, masks = draw_stack(block, state, 0, row, preset, **pixels)
        middle = len(stack) // 2
        volume = (masks == 1).sum((0, 2, 3))
        systole = int(volume.argmin())
        rest = cohort.frames - systole
        moments = [0, systole // 2, systole, *(systole + rest * np.array([1, 2, 3]) // 4)]
        slices = np.rint(np.linspace(1, len(stack) - 2, _COLUMNS - 1)).astype(int)
        pictures = np.stack(
            [
                [*stack[middle, moments], stack[middle, systole]],
                [*stack[slices, 0], stack[middle, 0]],
                [*long_axis[moments], long_axis[systole]],
            ]
        )
        truth = np.stack([masks[middle, systole], masks[middle, 0], chambers[row, systole]])
        found = [name for name, has in zip(DIAGNOSES, person.diagnoses[row], strict=True) if has]
        measured = dict(zip(PHENOTYPE_NAMES, block.measured[row], strict=True))
        people.append(
            _Person(
                name=f"SIM-{row + 1:06d}",
                words=f"{'man' if person.male[row] else 'woman'}, {person.age[row]:.0f} years, "
                f"{person.height[row]:.0f} cm, {person.weight[row]:.0f} kg; "
                f"{', '.join(found) or 'no diagnosis'}",
                numbers="   ".join(
                    f"{name.removesuffix('_global')} {measured[name]:.{digits}f} {UNITS[name]}"
                    for name, digits in ((n, 1 if n == "WT_global" else 0) for n in SHOWN)
                ),
                ecg_mv=ecg[row] * ECG_MILLIVOLT,
                pictures=pictures,
                truth=truth,
            )
        )
    return people


def _draw(cohort: SimulatedCohort) -> bytes:
    """Return the PNG."""
    from matplotlib.figure import Figure
    from PIL import Image

    from benchmark.cohorts.simulated.presets import PRESETS

    people = _people(cohort)
    paper = [round(length * _PIXELS_PER_MM) for length in _PAPER]
    pitch = max(1, round(_PICTURE / cohort.size)) * cohort.size + _GAP
    mosaic = _COLUMNS * pitch, 3 * pitch
    inner = max(paper[1], mosaic[1])
    width = paper[0] + mosaic[0] + 3 * 12
    height = _TITLE + len(people) * (inner + _LINE)
    dpi = 100
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi, facecolor="white")

    def box(left: float, top: float, size: tuple[float, float]) -> Axes:
        """Axes by pixels from the upper left corner."""
        axes = figure.add_axes(
            (left / width, 1 - (top + size[1]) / height, size[0] / width, size[1] / height)
        )
        axes.set_axis_off()
        return axes

    def write(left: float, top: float, text: str, **style: object) -> None:
        figure.text(left / width, 1 - top / height, text, va="top", **style)

    write(12, 10, f"Simulated people, preset {cohort.preset}", fontsize=13, weight="bold")
    write(
        12,
        36,
        f"{PRESETS[cohort.preset].summary[0].upper()}{PRESETS[cohort.preset].summary[1:]}. "
        "Schematic hearts: they rank code and learning, not clinical performance.",
        fontsize=9,
    )
    write(
        paper[0] + 24,
        14,
        "Rows: middle short-axis slice over a beat, stack at end-diastole (base to apex), four "
        "chambers over a beat. Last column: the truth.",
        fontsize=8,
        color="#444444",
    )
    for number, person in enumerate(people):
        top = _TITLE + number * (inner + _LINE)
        write(12, top, person.name, fontsize=9, weight="bold")
        write(104, top, f"{person.words}   |   {person.numbers}", fontsize=9)
        _draw_ecg(box(12, top + 20, (paper[0], paper[1])), person.ecg_mv)
        _draw_pictures(box(paper[0] + 24, top + 20, mosaic), person, pitch)

    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=dpi)
    image = Image.open(raw).convert("RGB")
    # Not by median cut, which drops the few pixels of the outlines.
    image = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)
    grey = (np.ptp(palette, axis=1) < 24) & (palette.max(1) < 200)
    palette[grey] = palette[grey].mean(1, keepdims=True)
    image.putpalette(palette.tobytes())
    small = io.BytesIO()
    image.save(small, format="png", optimize=True)
    return small.getvalue()


def _draw_ecg(axes: Axes, ecg_mv: np.ndarray) -> None:
    """Draw (12, 5000) in mV as an electrocardiograph prints it; one unit of the axes is 1 mm."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    wide, high = _PAPER
    axes.set(xlim=(0, wide), ylim=(0, high))
    axes.add_patch(Rectangle((0, 0), wide, high, facecolor="#fff6f4", edgecolor="none"))
    for step, colour, line in ((1, "#fbdcd8", 0.5), (5, "#f2b0a9", 0.7)):
        upright = [((x, 0), (x, high)) for x in np.arange(0, wide + 1e-6, step)]
        level = [((0, y), (wide, y)) for y in np.arange(0, high + 1e-6, step)]
        axes.add_collection(LineCollection(upright + level, colors=colour, linewidths=line))

    def trace(lead: int, first: float, last: float, baseline: float) -> None:
        samples = slice(round(first * ECG_RATE), round(last * ECG_RATE))
        x = _MARGIN + np.arange(samples.start, samples.stop) / ECG_RATE * _SPEED
        # Leads are drawn about their own level, as a printer with a high-pass filter does.
        y = baseline + _GAIN * (ecg_mv[lead, samples] - np.median(ecg_mv[lead, samples]))
        axes.plot(x, y, color="black", linewidth=0.7, solid_joinstyle="round")
        axes.text(x[0] + 1, baseline + 7.5, LEADS[lead], fontsize=7, weight="bold")

    for row in range(4):
        baseline = high - (row + 0.62) * _ROW
        pulse = [(1, 0), (2, 0), (2, _GAIN), (6, _GAIN), (6, 0), (7, 0)]
        axes.plot(*np.transpose([(x, baseline + y) for x, y in pulse]), color="black", lw=0.7)
        if row == 3:
            trace(LEADS.index("II"), 0, 10, baseline)
            continue
        for column in range(4):
            trace(3 * column + row, 2.5 * column, 2.5 * (column + 1), baseline)
    axes.text(wide - 1, 1.5, "25 mm/s   10 mm/mV", fontsize=6, ha="right")


def _draw_pictures(axes: Axes, person: _Person, pitch: int) -> None:
    """Lay the pictures side by side; one unit of the axes is a pixel of the file."""
    rows, columns, size, _ = person.pictures.shape
    side = pitch - _GAP
    for row in range(rows):
        for column in range(columns):
            left, top = column * pitch, row * pitch
            axes.imshow(
                person.pictures[row, column] // _GREY_STEP * _GREY_STEP,
                cmap="gray",
                vmin=0,
                vmax=204,
                extent=(left, left + side, top + side, top),
                interpolation="nearest",
            )
        across = (columns - 1) * pitch + (np.arange(size) + 0.5) * side / size
        down = row * pitch + (np.arange(size) + 0.5) * side / size
        # Cavities last: the muscle's inner edge is theirs.
        for label in (2, 3, 4, 5, 1):
            inside, colour = person.truth[row] == label, _OUTLINES[label - 1]
            if inside.any():
                axes.contour(across, down, inside, levels=[0.5], colors=colour, linewidths=1.0)
    axes.set(xlim=(0, columns * pitch), ylim=(rows * pitch, 0))
