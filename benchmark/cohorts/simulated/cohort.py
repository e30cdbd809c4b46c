"""The simulated cohort as a stage: blocks of people in worker processes, then one set of arrays."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Cohort, Context, UserError
from benchmark.cohorts.blocks import block_file, finished_blocks, missing_blocks

if TYPE_CHECKING:
    import numpy as np

PRESETS = ("default",)
PEOPLE = {"smoke": 300, "tiny": 6000}
FIRST_HASH_ID = 9_000_000  # plus k for SIM-k: out of the range of UK Biobank's ids


@dataclass(frozen=True, kw_only=True)
class SimulatedCohort(Cohort):
    """People who exist only as a cardiac state, drawn from published population moments.

    Person k is the same, bit for bit, whatever the number of people or workers. Results on them
    rank code and learning behaviour, not clinical performance.

    Parameters
    ----------
    preset
        Name of the population; `PRESETS`.
    people
        How many.
    random_state
        Another number gives other people of the same population.
    frames, size, spacing
        Of the cine: frames per heart beat, pixels per side, mm per pixel.

    Raises
    ------
    UserError
        For an unknown preset or a size that cannot be simulated.
    """

    name: ClassVar[str] = "simulated"
    simulated: ClassVar[bool] = True
    version: ClassVar[int] = 1
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
        if scale not in PEOPLE:
            raise UserError(f"the simulated cohort has no scale {scale!r}; known: {[*PEOPLE]}")
        return cls(preset=preset, people=PEOPLE[scale])

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
        pixels = self.frames * self.size**2
        seconds = 2 + self.people * (0.9e-3 + 3.3e-8 * pixels)
        return seconds, self.people * (12 * 5000 * 2 + pixels + 40 * 4 + 300)

    def run(self, context: Context) -> None:
        """Simulate the blocks that ``context.resume`` does not hold yet, then assemble them."""
        from benchmark.cohorts.simulated.latent import BLOCK

        missing = missing_blocks(context.resume, math.ceil(self.people / BLOCK))
        done = self.people - sum(self._count(b, BLOCK) for b in missing)
        context.progress(done, self.people, unit="people")
        make = functools.partial(simulate_block, self)
        with finished_blocks(make, missing, context.resume, context.workers) as finished:
            for block in finished:
                done += self._count(block, BLOCK)
                context.progress(done, self.people, unit="people")
        self._assemble(context, BLOCK)

    def _count(self, block: int, size: int) -> int:
        return min(size, self.people - block * size)

    def _assemble(self, context: Context, block_size: int) -> None:
        """Join the blocks into the files that `CohortData` reads."""
        import numpy as np
        import pandas as pd
        from safetensors.numpy import load_file

        from benchmark.cohorts.arrays import create_array
        from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES
        from benchmark.cohorts.phenotypes import VENTRICULAR10

        arrays: dict[str, np.ndarray] = {}
        tables: dict[str, list[np.ndarray]] = {}
        for block in range(math.ceil(self.people / block_size)):
            rows = slice(block * block_size, block * block_size + self._count(block, block_size))
            for name, values in load_file(block_file(context.resume, block)).items():
                values = values[: rows.stop - rows.start]
                if name in ("ecg", "cine", "r_peaks"):
                    if name not in arrays:
                        shape = (self.people, *values.shape[1:])
                        arrays[name] = create_array(
                            context.out / f"{name}.npy", shape, values.dtype
                        )
                    arrays[name][rows] = values
                else:
                    tables.setdefault(name, []).append(values)
        for array in arrays.values():
            array.flush()

        phenotypes = list(VENTRICULAR10)
        columns = {
            "people": COVARIATES,
            "phenotypes": phenotypes,
            "diagnoses": DIAGNOSES,
            "truth": [*phenotypes, "heart_rate", "af_rhythm", "es_frame"],
        }
        numbers = range(1, self.people + 1)
        for name, parts in tables.items():
            table = pd.DataFrame(np.concatenate(parts), columns=list(columns[name]))
            if name == "people":
                table.insert(0, "id", [f"SIM-{k:06d}" for k in numbers])
            if name == "truth":
                table["es_frame"] = table["es_frame"].astype("int64")
            table.to_parquet(context.out / f"{name}.parquet", index=False)
        ids = pd.DataFrame({"hash_id": [str(FIRST_HASH_ID + k) for k in numbers]})
        ids.to_parquet(context.out / "ids.parquet", index=False)
        (context.out / "ids.parquet").chmod(0o600)
        (context.out / "cohort.json").write_text(json.dumps({"spacing": self.spacing}))


def simulate_block(cohort: SimulatedCohort, block: int) -> dict[str, np.ndarray]:
    """Simulate one block of people.

    Returns
    -------
    dict
        ``ecg`` (people, 12, 5000) int16 in steps of 5 uV, ``r_peaks`` (people, 40) float32 in s,
        ``cine`` (people, 1, frames, size, size) uint8, and the rows of the four tables.
    """
    import numpy as np

    from benchmark.cohorts.simulated.cine import draw_cine
    from benchmark.cohorts.simulated.ecg import draw_ecg
    from benchmark.cohorts.simulated.latent import draw_latent, measure

    state = cohort.random_state
    latent = draw_latent(state, block)
    ecg, r_peaks = draw_ecg(latent, state, block)
    cine, es_frame = draw_cine(
        latent, state, block, frames=cohort.frames, size=cohort.size, spacing=cohort.spacing
    )
    rest = np.stack([latent.heart_rate, latent.af_rhythm, es_frame], 1)
    return {
        "ecg": ecg,
        "r_peaks": r_peaks,
        "cine": cine,
        "people": np.stack([latent.age, latent.male, latent.height, latent.weight], 1),
        "phenotypes": measure(latent, state, block),
        "diagnoses": latent.diagnoses,
        "truth": np.concatenate([latent.phenotypes, rest], 1),
    }
