"""The simulated cohort as a stage: worker processes fill one set of arrays, block by block."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import Cohort, Context, UserError
from benchmark.cohorts.blocks import block_file, finished_blocks, missing_blocks
from benchmark.cohorts.simulated.presets import PRESETS

if TYPE_CHECKING:
    import numpy as np

SCALES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"people": 300},
    "tiny": {"people": 6000},
    "small": {"people": 20_000, "frames": 50, "size": 64, "spacing": 2.2},
    "full": {"people": 40_000, "frames": 50, "size": 80, "spacing": 1.8},
}
FIRST_HASH_ID = 9_000_000  # plus k for SIM-k: out of the range of UK Biobank's ids


@dataclass(frozen=True, kw_only=True)
class SimulatedCohort(Cohort):
    """People who exist only as a cardiac state, drawn from published population moments.

    Person k is the same, bit for bit, whatever the number of people or workers. Results on them
    rank code and learning behaviour, not clinical performance.

    Parameters
    ----------
    preset
        Name of the population, one of `PRESETS`.
    people
        How many.
    random_state
        Another number gives other people of the same population.
    frames, size, spacing
        Of the images: frames per heart beat, pixels per side, mm per pixel.

    Raises
    ------
    UserError
        For an unknown preset or a size that cannot be simulated.
    """

    name: ClassVar[str] = "simulated"
    simulated: ClassVar[bool] = True
    version: ClassVar[int] = 3
    pools: ClassVar[bool] = True

    preset: str = "default"
    people: int
    random_state: int = 0
    frames: int = 16
    size: int = 48
    spacing: float = 2.74

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset not in PRESETS:
            raise UserError(
                f"unknown preset {self.preset!r} of the simulated cohort; known: "
                + ", ".join(PRESETS)
            )
        for name, least in (("people", 1), ("random_state", 0), ("frames", 2), ("size", 8)):
            if getattr(self, name) < least:
                raise UserError(f"the simulated cohort needs {name} >= {least}")
        if self.spacing <= 0:
            raise UserError("the simulated cohort needs spacing > 0")

    @classmethod
    def at(cls, scale: str, preset: str = "default") -> SimulatedCohort:
        """Return the cohort of a scale.

        Raises
        ------
        UserError
            When the scale is not simulated.
        """
        if scale not in SCALES:
            raise UserError(
                f"the simulated cohort has no scale {scale!r}; known: {', '.join(SCALES)}"
            )
        if preset not in PRESETS:
            return cls(preset=preset, **SCALES[scale])  # which refuses it
        return cls(preset=preset, random_state=PRESETS[preset].random_state, **SCALES[scale])

    @property
    def title(self) -> str:
        """``simulated``, followed by the preset when it is not the default."""
        return "simulated" if self.preset == "default" else f"simulated-{self.preset}"

    @property
    def label(self) -> str:
        """What a person reads in plans and progress lines."""
        return f"{self.title} cohort of {self.people:,} people"

    def estimate(self) -> tuple[float, float]:
        """Seconds as measured with two workers; bytes are exact but for the small tables."""
        arrays = self._arrays()
        pictures = sum(math.prod(arrays[name][0][:-2]) for name in ("cine", "volumes", "long_axis"))
        seconds = 3 + self.people * (0.5e-3 + pictures * (33e-6 + 5.2e-9 * self.size**2))
        itemsize = {"int16": 2, "float32": 4, "uint8": 1}
        entry = sum(math.prod(shape) * itemsize[dtype] for shape, dtype in arrays.values())
        return seconds, self.people * (entry + 1500)

    def run(self, context: Context) -> None:
        """Simulate the blocks that ``context.resume`` does not hold yet, then write the tables.

        Workers write their people into the arrays in ``context.resume``, so that no picture is
        ever stored twice. A block's file holds its rows of the tables, and says by being there
        that its rows of the arrays are written.
        """
        from benchmark.cohorts.simulated.latent import BLOCK

        blocks = range(math.ceil(self.people / BLOCK))
        self._reserve(context.resume)
        missing = missing_blocks(context.resume, len(blocks))
        done = self.people - sum(len(self._rows(b, BLOCK)) for b in missing)
        context.progress(done, self.people, unit="people")
        make = functools.partial(store_block, self, context.resume)
        with finished_blocks(make, missing, context.resume, context.workers) as finished:
            for block in finished:
                done += len(self._rows(block, BLOCK))
                context.progress(done, self.people, unit="people")
        self._write_tables(context, blocks)
        for name in self._arrays():
            # Not moved: killed before the commit, the next attempt finds everything done.
            _link(context.resume / f"{name}.npy", context.out / f"{name}.npy")

    def _arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of one person's entry, and type, of every array that `CohortData` reads."""
        from benchmark.cohorts.simulated.cine import SLICES

        picture = (self.size, self.size)
        return {
            "ecg": ((12, 5000), "int16"),
            "r_peaks": ((40,), "float32"),
            "cine": ((1, self.frames, *picture), "uint8"),
            "volumes": ((2, SLICES, *picture), "uint8"),
            "long_axis": ((self.frames, *picture), "uint8"),
            "masks": ((2, *picture), "uint8"),
        }

    def _reserve(self, folder: Path) -> None:
        """Make the arrays; blocks whose rows went with an array are no longer finished."""
        from benchmark.cohorts.arrays import create_array

        arrays = self._arrays()
        if all((folder / f"{name}.npy").exists() for name in arrays):
            return
        for block in folder.glob("block-*"):
            block.unlink()
        for name, (shape, dtype) in arrays.items():
            create_array(folder / f"{name}.part", (self.people, *shape), dtype)
        for name in arrays:
            (folder / f"{name}.part").rename(folder / f"{name}.npy")

    def _rows(self, block: int, size: int) -> range:
        """Row numbers of a block's people."""
        return range(block * size, min((block + 1) * size, self.people))

    def _write_tables(self, context: Context, blocks: range) -> None:
        """Join the blocks' rows into the tables that `CohortData` reads."""
        import numpy as np
        import pandas as pd
        from safetensors.numpy import load_file

        from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES, ECG_MEASURES
        from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES

        columns = {
            "people": [*COVARIATES, *ECG_MEASURES],
            "phenotypes": PHENOTYPE_NAMES,
            "diagnoses": DIAGNOSES,
            "truth": [*PHENOTYPE_NAMES, "heart_rate", "af_rhythm", "es_frame"],
        }
        parts = [load_file(block_file(context.resume, block)) for block in blocks]
        for part in parts:
            part["people"] = np.concatenate([part["people"], part["ecg_measures"]], 1)
        numbers = range(1, self.people + 1)
        for name in columns:
            rows = np.concatenate([part[name] for part in parts])[: self.people]
            table = pd.DataFrame(rows, columns=list(columns[name]))
            if name == "people":
                table.insert(0, "id", [f"SIM-{k:06d}" for k in numbers])
            if name == "truth":
                table["es_frame"] = table["es_frame"].astype("int64")
            table.to_parquet(context.out / f"{name}.parquet", index=False)
        ids = pd.DataFrame({"hash_id": [str(FIRST_HASH_ID + k) for k in numbers]})
        ids.to_parquet(context.out / "ids.parquet", index=False)
        (context.out / "ids.parquet").chmod(0o600)
        (context.out / "cohort.json").write_text(json.dumps({"spacing": self.spacing}))


def store_block(cohort: SimulatedCohort, folder: Path, block: int) -> dict[str, np.ndarray]:
    """Simulate a block, write its people into the arrays and return their rows of the tables."""
    import numpy as np

    simulated = simulate_block(cohort, block)
    for name in cohort._arrays():
        values = simulated.pop(name)
        rows = cohort._rows(block, len(values))
        array = np.load(folder / f"{name}.npy", mmap_mode="r+")
        array[rows.start : rows.stop] = values[: len(rows)]
        array.flush()  # or a power cut could leave the block's file without the rows
    return simulated


def simulate_block(cohort: SimulatedCohort, block: int) -> dict[str, np.ndarray]:
    """Simulate one block of people.

    Returns
    -------
    dict
        The block's rows of all arrays and of the four tables that `CohortData` reads; the columns
        of ``people`` that are about the ECG, and so may be a stranger's, are ``ecg_measures``.
    """
    import numpy as np

    from benchmark.cohorts.simulated.cine import draw_short_axis
    from benchmark.cohorts.simulated.ecg import draw_ecg, draw_parameters
    from benchmark.cohorts.simulated.latent import Stream, generator
    from benchmark.cohorts.simulated.long_axis import draw_long_axis
    from benchmark.cohorts.simulated.population import draw_block

    state, preset = cohort.random_state, PRESETS[cohort.preset]
    drawn = draw_block(state, block, preset)
    ecg, r_peaks = draw_ecg(drawn, state, block, preset)
    # The recording starts from the same numbers; its complexes are as wide as this says.
    qrs = draw_parameters(drawn.recorded, preset, generator(state, Stream.ECG, block)).qrs
    pixels = {"frames": cohort.frames, "size": cohort.size, "spacing": cohort.spacing}
    short_axis = draw_short_axis(drawn, state, block, preset, **pixels)
    person = drawn.person
    rest = np.stack([person.heart_rate, person.af_rhythm, short_axis.es_frame], 1)
    return {
        "ecg": ecg,
        "r_peaks": r_peaks,
        "cine": short_axis.cine,
        "volumes": short_axis.volumes,
        "long_axis": draw_long_axis(drawn, state, block, preset, **pixels),
        "masks": short_axis.masks,
        "people": np.stack([person.age, person.male, person.height, person.weight], 1),
        "ecg_measures": np.stack([np.isfinite(r_peaks).sum(1), qrs], 1),
        "phenotypes": drawn.measured,
        "diagnoses": person.diagnoses,
        "truth": np.concatenate([drawn.truth, rest], 1),
    }


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the disk knows no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
