"""The simulated cohort as a stage: blocks of people in worker processes, then one set of arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Cohort, Context, UserError

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

        for unfinished in context.resume.glob("*.part"):
            unfinished.unlink()
        blocks = range(math.ceil(self.people / BLOCK))
        missing = [b for b in blocks if not _block_file(context.resume, b).exists()]
        done = self.people - sum(self._count(b, BLOCK) for b in missing)
        context.progress(done, self.people, unit="people")
        with _finished(self, missing, context.resume, context.workers) as finished:
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
        from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES, VENTRICULAR10

        arrays: dict[str, np.ndarray] = {}
        tables: dict[str, list[np.ndarray]] = {}
        for block in range(math.ceil(self.people / block_size)):
            rows = slice(block * block_size, block * block_size + self._count(block, block_size))
            for name, values in load_file(_block_file(context.resume, block)).items():
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

        phenotypes = [name for name, _ in VENTRICULAR10]
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
                table.insert(1, "hash_id", [str(FIRST_HASH_ID + k) for k in numbers])
            if name == "truth":
                table["es_frame"] = table["es_frame"].astype("int64")
            table.to_parquet(context.out / f"{name}.parquet", index=False)


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


def _block_file(folder: Path, block: int) -> Path:
    return folder / f"block-{block:05d}.safetensors"


def _write_block(cohort: SimulatedCohort, block: int, folder: Path) -> int:
    """Simulate one block and write it in one rename; return its number."""
    from safetensors.numpy import save

    target = _block_file(folder, block)
    part = target.with_suffix(".part")
    # Not save_file, which reports a full disk as its own error type and not as an OSError.
    part.write_bytes(save(simulate_block(cohort, block)))
    part.replace(target)
    return block


@contextmanager
def _finished(
    cohort: SimulatedCohort, blocks: list[int], folder: Path, workers: int
) -> Iterator[Iterator[int]]:
    """Give the numbers of the blocks as they are done, simulated here or in worker processes."""
    workers = min(workers, len(blocks))
    if workers <= 1:
        yield (_write_block(cohort, block, folder) for block in blocks)
        return
    import multiprocessing

    # Not fork: the parent may hold locks of torch's or BLAS's threads.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        futures = [pool.submit(_write_block, cohort, block, folder) for block in blocks]
        yield (future.result() for future in as_completed(futures))
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Keep to one thread, and end when the parent does: a pool's workers outlive a killed one."""
    import multiprocessing
    import signal
    import threading

    import numpy as np  # noqa: F401 - the limit reaches only libraries already loaded
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends the pool
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
