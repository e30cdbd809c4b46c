"""Simulated people in the raw formats of UK Biobank, for rehearsing `ecgcmr prepare ukb`.

Resting ECGs (field 20205), short- and long-axis cines (20209, 20208), tables and a list of
withdrawn people, so that a group can try the whole way from downloads to boards before it touches
anybody's data. Only what UK Biobank's own files contain is written, and nothing that is damaged.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from benchmark.api import UserError
from benchmark.cohorts.cohort import DIAGNOSES
from benchmark.cohorts.ukb.labels import ECG, LONG_AXIS, QRS_DURATION, QRS_NUMBER, SHORT_AXIS
from benchmark.cohorts.ukb.tables import GRAMMARS

if TYPE_CHECKING:
    import numpy as np

    from benchmark.cohorts.simulated.ecg import Parameters
    from benchmark.cohorts.simulated.population import Block
    from benchmark.cohorts.simulated.presets import Preset
    from benchmark.cohorts.ukb.write_tables import Participant, Visit

Layout = Literal["flat", "rap"]

_RAP_FOLDERS = {
    ECG: "Bulk/Electrocardiogram/Resting",
    SHORT_AXIS: "Bulk/Heart MRI/Short axis",
    LONG_AXIS: "Bulk/Heart MRI/Long axis",
}
_ENDINGS = {ECG: "xml", SHORT_AXIS: "zip", LONG_AXIS: "zip"}

MOST_PEOPLE = 999_999
"""The last one with an id of seven digits, as all ids of UK Biobank have."""

_REPEAT = 1 << 32
"""Added to the random state for the repeat visit: the same heart, recorded and imaged anew."""

_FIRST_IMAGING = date(2014, 5, 1)
_IMAGING_DAYS = 1_800  # over which the first visits are spread
_SINCE_BASELINE, _UNTIL_REPEAT = -8, 3  # years
_ECG_TIME, _CMR_TIME = time(10, 15), time(11, 5)


@dataclass(frozen=True)
class RawFiles:
    """Where everything is: what `ecgcmr prepare ukb` is to be given."""

    raw: Path
    tables: tuple[Path, Path]
    withdrawn: Path


@dataclass(frozen=True)
class Simulation:
    """Who is written, and how their pictures are taken.

    Attributes
    ----------
    people, first
        SIM-``first`` and those that follow.
    preset
        Population of the simulated cohort; its people have the same numbers here.
    frames, rows, columns, spacing
        Frames per heart beat, pixels, mm per pixel; UK Biobank's unless said otherwise.
    eid
        Gives a person's id from their number; 9,000,000 + k by default, out of UK Biobank's range.
    withdrawn
        How many of the people, counted from the last, are on the list of withdrawn people.
    """

    people: int
    first: int = 1
    preset: str = "default"
    frames: int = 50
    rows: int = 208
    columns: int = 192
    spacing: float = 1.8
    eid: Callable[[int], int] | None = None
    withdrawn: int = 1

    def __post_init__(self) -> None:
        from benchmark.cohorts.simulated.presets import PRESETS

        if self.people < 1 or self.first < 1:
            raise UserError("at least one person is needed, and the first one is number 1")
        if self.first + self.people - 1 > MOST_PEOPLE:
            raise UserError(f"people have numbers up to {MOST_PEOPLE:,}")
        if not 0 <= self.withdrawn <= self.people:
            raise UserError(f"{self.withdrawn} of {self.people} people cannot withdraw")
        if self.preset not in PRESETS:
            raise UserError(f"unknown preset {self.preset!r}; known: {', '.join(PRESETS)}")

    @property
    def random_state(self) -> int:
        """That of the simulated cohort of this preset."""
        from benchmark.cohorts.simulated.presets import PRESETS

        return PRESETS[self.preset].random_state

    def id_of(self, number: int) -> int:
        """Return the id of person SIM-``number``."""
        from benchmark.cohorts.simulated.cohort import FIRST_HASH_ID

        return self.eid(number) if self.eid else FIRST_HASH_ID + number


def imaging_visits(number: int) -> tuple[int, ...]:
    """Return the instances at which a person was recorded and imaged.

    Most people came to the first imaging visit (2); of eight, one came to the repeat visit (3)
    only and one to both.
    """
    return {3: (3,), 6: (2, 3)}.get(number % 8, (2,))


def write_ukb(
    folder: Path,
    simulation: Simulation,
    grammar: str = "ukbconv",
    layout: Layout = "flat",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RawFiles:
    """Write the people of a simulation as UK Biobank hands its data out.

    The earliest visit shows the ECG and the pictures that the simulated cohort has of the person.

    Parameters
    ----------
    folder
        Must not exist yet or be empty.
    grammar
        How the tables name their columns; of `GRAMMARS`.
    layout
        ``flat``, as ukbfetch downloads, or ``rap``, the tree of the Research Analysis Platform.
    progress
        Is told the number of people written and their total.

    Raises
    ------
    UserError
        For an unknown grammar or layout, and when the folder holds something.
    """
    from benchmark.cohorts.ukb.write_tables import participant_cells, write_tables

    if grammar not in GRAMMARS:
        raise UserError(f"unknown grammar {grammar!r}; known: {', '.join(GRAMMARS)}")
    if layout not in get_args(Layout):
        raise UserError(f"unknown layout {layout!r}; known: {', '.join(get_args(Layout))}")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder")
    raw = folder / "bulk" if layout == "flat" else folder
    raw.mkdir(parents=True, exist_ok=True)

    numbers = range(simulation.first, simulation.first + simulation.people)
    known = {}
    progress(0, simulation.people)
    for done, (number, person) in enumerate(_write_people(raw, simulation, numbers, layout), 1):
        known[person.eid] = participant_cells(person, _chance(simulation, number, "diagnoses"))
        progress(done, simulation.people)
    tables = write_tables(folder, grammar, known)
    withdrawn = folder / "withdrawn.csv"
    gone = numbers[len(numbers) - simulation.withdrawn :]
    withdrawn.write_text("".join(f"{simulation.id_of(number)}\n" for number in gone))
    return RawFiles(raw, tables, withdrawn)


def _write_people(
    raw: Path, simulation: Simulation, numbers: range, layout: Layout
) -> Iterator[tuple[int, Participant]]:
    """Write the bulk files of people and give what the tables are to say of them."""
    from benchmark.cohorts.simulated.latent import BLOCK
    from benchmark.cohorts.simulated.population import draw_block
    from benchmark.cohorts.simulated.presets import PRESETS

    preset = PRESETS[simulation.preset]
    for index, group in itertools.groupby(numbers, lambda number: (number - 1) // BLOCK):
        block = draw_block(simulation.random_state, index, preset)
        sessions = [_Session(simulation, preset, block, index, repeat) for repeat in (False, True)]
        for number in group:
            row = (number - 1) % BLOCK
            person = _participant(simulation, number, row, sessions)
            for session, instance in zip(sessions, imaging_visits(number), strict=False):
                for field in (ECG, SHORT_AXIS, LONG_AXIS):
                    path = raw / f"{person.eid}_{field}_{instance}_0.{_ENDINGS[field]}"
                    if layout == "rap":
                        path = raw / _RAP_FOLDERS[field] / str(person.eid)[:2] / path.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    session.write(path, field, person, person.visits[instance], row)
            yield number, person


class _Session:
    """A day in the scanner of the people of one block: the first one, or the repeat."""

    def __init__(
        self, simulation: Simulation, preset: Preset, block: Block, index: int, repeat: bool
    ) -> None:
        self.simulation, self.preset, self.block, self.index = simulation, preset, block, index
        self.repeat = repeat
        self.random_state = simulation.random_state + _REPEAT * repeat

    @functools.cached_property
    def ecg(self) -> tuple[np.ndarray, np.ndarray]:
        """Recordings and R peaks of the block."""
        from benchmark.cohorts.simulated.ecg import draw_ecg

        return draw_ecg(self.block, self.random_state, self.index, self.preset)

    @functools.cached_property
    def parameters(self) -> Parameters:
        """What the recordings of the block show."""
        from benchmark.cohorts.simulated.ecg import draw_parameters
        from benchmark.cohorts.simulated.latent import Stream, generator

        rng = generator(self.random_state, Stream.ECG, self.index)
        return draw_parameters(self.block.recorded, self.preset, rng)

    @functools.cached_property
    def phenotypes(self) -> np.ndarray:
        """(people, 82) as measured on the pictures of this day."""
        from benchmark.cohorts.simulated.latent import Stream, generator
        from benchmark.cohorts.simulated.population import measure

        if not self.repeat:
            return self.block.measured
        rng = generator(self.random_state, Stream.MEASUREMENT, self.index)
        return measure(self.block.truth, self.block.person, self.preset, rng)

    def ecg_measures(self, row: int) -> dict[int, int]:
        """Return what the device reads off one recording of the block, by field."""
        import numpy as np

        _, r_peaks = self.ecg
        return {
            QRS_NUMBER: int(np.isfinite(r_peaks[row]).sum()),
            QRS_DURATION: round(float(self.parameters.qrs[row])),
        }

    def write(self, path: Path, field: int, person: Participant, visit: Visit, row: int) -> None:
        """Write one bulk file."""
        if field == ECG:
            path.write_bytes(self._recording(person, visit, row))
            return
        from benchmark.cohorts.simulated.cine import draw_stack
        from benchmark.cohorts.simulated.long_axis import draw_long_axis
        from benchmark.cohorts.ukb.write_dicom import (
            Examination,
            write_long_axis,
            write_short_axis,
        )

        s = self.simulation
        examination = Examination(
            eid=person.eid,
            taken=datetime.combine(visit.day, _CMR_TIME),
            rr=60_000 / float(self.block.imaged.heart_rate[row]),
            spacing=s.spacing,
        )
        drawing = {"frames": s.frames, "size": max(s.rows, s.columns), "spacing": s.spacing}
        place = (self.block, self.random_state, self.index)
        if field == SHORT_AXIS:
            stack, masks = draw_stack(*place, row, self.preset, **drawing)
            write_short_axis(path, examination, self._window(stack), self._window(masks))
        else:
            (frames,) = draw_long_axis(*place, self.preset, **drawing, rows=[row])
            write_long_axis(path, examination, self._window(frames))

    def _window(self, pictures: np.ndarray) -> np.ndarray:
        """Cut square pictures to the rows and columns asked for, about their middle."""
        size, s = pictures.shape[-1], self.simulation
        top, left = (size - s.rows) // 2, (size - s.columns) // 2
        return pictures[..., top : top + s.rows, left : left + s.columns]

    def _recording(self, person: Participant, visit: Visit, row: int) -> bytes:
        from benchmark.cohorts.ukb.write_cardiosoft import Recording, cardiosoft_xml, measure_ecg

        signal, r_peaks = self.ecg
        rate = float(self.block.recorded.heart_rate[row])
        return cardiosoft_xml(
            Recording(
                eid=person.eid,
                ecg=signal[row],
                r_peaks=r_peaks[row],
                measurements=measure_ecg(self.parameters, row, rate),
                born=person.born,
                age=visit.age,
                male=person.male,
                height=visit.height,
                weight=visit.weight,
                pressure=float(self.block.person.pressure[row]),
                taken=datetime.combine(visit.day, _ECG_TIME),
            )
        )


def _participant(
    simulation: Simulation, number: int, row: int, sessions: Sequence[_Session]
) -> Participant:
    """Return a person with the baseline visit and one or both imaging visits."""
    from benchmark.cohorts.ukb.write_tables import Participant, Visit

    latent = sessions[0].block.person
    rng = _chance(simulation, number, "visits")
    first = _FIRST_IMAGING + timedelta(days=int(rng.integers(_IMAGING_DAYS)))
    height, weight = round(float(latent.height[row]), 1), round(float(latent.weight[row]), 1)

    def visit(years: int, gained: float, session: _Session | None = None) -> Visit:
        return Visit(
            day=first + timedelta(days=round(365.25 * years)),
            age=int(latent.age[row]) + years,
            height=height,
            weight=round(weight + gained, 1),
            phenotypes=None if session is None else session.phenotypes[row],
            ecg={} if session is None else session.ecg_measures(row),
        )

    visits = {0: visit(_SINCE_BASELINE, rng.normal(-2, 3))}
    for session, instance in zip(sessions, imaging_visits(number), strict=False):
        years, gained = (_UNTIL_REPEAT, rng.normal(0, 2)) if session.repeat else (0, 0.0)
        visits[instance] = visit(years, gained, session)
    return Participant(
        eid=simulation.id_of(number),
        male=bool(latent.male[row]),
        born=first - timedelta(days=round(365.25 * (int(latent.age[row]) + 0.5))),
        visits=visits,
        diagnoses=tuple(n for n, has in zip(DIAGNOSES, latent.diagnoses[row], strict=True) if has),
    )


def _chance(simulation: Simulation, number: int, purpose: str) -> np.random.Generator:
    """Return the random numbers of one person for a purpose."""
    import numpy as np

    return np.random.default_rng([simulation.random_state, number, *purpose.encode()])
