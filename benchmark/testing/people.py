"""The people plugins are tried on, and copies of them in which something must not be seen.

A poisoned copy differs from the clean one in what a stage must not depend on. What it leaves behind
has to be equal in both, to the last bit.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.api import Cohort, Task, Trainable, View
from benchmark.privacy import store_root
from benchmark.registry import registry
from benchmark.stage import Stage

if TYPE_CHECKING:
    from benchmark.cohorts.cohort import CohortData

PEOPLE = 60
"""Of whom 35 are training and 11 test people: enough for a few updates."""
TARGET_PEOPLE = 400
"""For tasks, which read tables: enough to tell knowing nothing from something."""
FRACTION = 0.5
REPLICATE = 0
LABELS = ("phenotypes", "diagnoses", "truth", "masks")
"""Tables and arrays of a cohort that say what is to be predicted."""

Poison = Literal["test", "labels"]


def kit_people() -> Cohort:
    """Return the simulated people methods are tried on."""
    from benchmark.cohorts.simulated import SimulatedCohort

    return SimulatedCohort(people=PEOPLE, frames=8)


def target_people() -> Cohort:
    """Return the simulated people tasks are tried on; their images are as good as none."""
    from benchmark.cohorts.simulated import SimulatedCohort

    return SimulatedCohort(people=TARGET_PEOPLE, frames=2, size=8)


def supervising_task() -> Task:
    """Return the task whose targets stand for others where a method learns labels."""
    tasks = registry().tasks
    named = [task.supervision for task in tasks.values() if task.supervision]
    return tasks[max(dict.fromkeys(named), key=named.count)]


def bound_fields(cohort: Cohort) -> dict[str, Any]:
    """Return what the kit binds to the unset fields of a method."""
    return {
        "cohort": cohort,
        "seed": REPLICATE,
        "task": supervising_task(),
        "fraction": FRACTION,
    }


@functools.cache
def lab_of(cohort: Cohort) -> Lab:
    """Return the lab of a cohort, one a process."""
    # What is about real people stays in the private store, copies of it too.
    private = None if cohort.simulated else store_root()
    if private:
        private.mkdir(mode=0o700, parents=True, exist_ok=True)
    lab = Lab(cohort, Path(tempfile.mkdtemp(prefix="ecgcmr-kit-", dir=private)))
    atexit.register(shutil.rmtree, lab.folder, ignore_errors=True)
    return lab


@dataclass(eq=False)
class Lab:
    """A cohort, its views and fresh weights of whatever else a plugin stands on, in one folder."""

    cohort: Cohort
    folder: Path
    runs: int = 0
    _worlds: dict[frozenset[Poison], World] = field(default_factory=dict)

    def world(self, *poisons: Poison) -> World:
        """Return the world in which these are poisoned; without any, the clean one."""
        return self._worlds.setdefault(frozenset(poisons), World(self, frozenset(poisons)))

    def place(self) -> Path:
        """Return a new, empty folder."""
        self.runs += 1
        folder = self.folder / f"run-{self.runs}"
        folder.mkdir(parents=True)
        return folder

    @functools.cached_property
    def data(self) -> CohortData:
        """The clean people."""
        from benchmark.cohorts.cohort import CohortData

        return CohortData(self.world().open(self.cohort))


@dataclass(eq=False)
class World:
    """Artifacts as stages would find them in the store, made on demand.

    Poison ``test``: what test people hold is that of other test people, missing in tables, and no
    number in views. Poison ``labels``: so are everybody's targets, but for the people that a
    method with labels may learn from (`Work.labelled`).
    """

    lab: Lab
    poisons: frozenset[Poison]
    _artifacts: dict[tuple[str, bool], Path] = field(default_factory=dict)

    def open(self, stage: Stage, labelled: bool = False) -> Path:
        """Return the folder of a stage's artifact.

        With ``labelled`` the training people inside the label fraction, and the validation people
        that select, keep their targets.
        """
        if isinstance(stage, Trainable):  # another method: fresh weights do, and the same anywhere
            return self._made(stage, self.lab.world() if self.poisons else self, _fresh, False)
        if isinstance(stage, Cohort):
            if stage.digest != self.lab.cohort.digest:
                raise RuntimeError(f"the stage asks for another cohort, {stage.title}, not its own")
            make = self._poisoned_people if self.poisons else _run
            return self._made(stage, self, make, labelled)
        return self._made(stage, self, self._derived, labelled)

    def _made(self, stage: Stage, world: World, make: Callable, labelled: bool) -> Path:
        key = (stage.digest, labelled)
        if key not in world._artifacts:
            work = Work(world, self.lab.place(), labelled)
            make(stage, work)
            world._artifacts[key] = work.out
        return world._artifacts[key]

    def _derived(self, stage: Stage, work: Work) -> None:
        import numpy as np

        _run(stage, work)
        if "test" in self.poisons and isinstance(stage, View):
            file = work.out / "array.npy"
            values = np.array(np.load(file))
            test = self.lab.data.rows("test")
            fill = np.nan if values.dtype.kind == "f" else np.iinfo(values.dtype).max
            values[test] = fill
            file.unlink()  # it may be another name of a file elsewhere
            np.save(file, values)

    def _poisoned_people(self, cohort: Cohort, work: Work) -> None:
        """Copy the clean people, with what must not be seen changed."""
        import numpy as np
        import pandas as pd

        clean = self.lab.world().open(cohort)
        data = self.lab.data
        people, test = len(data.people), data.rows("test")
        hidden = np.zeros(people, bool)
        if "labels" in self.poisons:
            hidden[:] = True
            if work.labelled:
                hidden[data.labelled(REPLICATE, FRACTION)] = False
                hidden[data.rows("validation")] = False
        elif "test" in self.poisons:
            hidden[test] = True
        for file in clean.iterdir():
            copy, labels = work.out / file.name, file.stem in LABELS
            changed = hidden if labels else np.isin(np.arange(people), test)
            changed = np.flatnonzero(changed if labels or "test" in self.poisons else False)
            values = np.load(file, mmap_mode="r") if file.suffix == ".npy" else np.empty(0)
            if len(values) == people and len(changed):
                values = np.array(values)
                # All get the last one's, and that one the first one's. Exchanged alone, they would
                # leave sums over the cohort as they are.
                source = np.full_like(changed, changed[-1])
                source[-1] = changed[0]
                values[changed] = values[source]
                np.save(copy, values)
            elif file.suffix == ".parquet" and file.stem != "ids" and len(changed):
                table = pd.read_parquet(file)
                numbers = [n for n in table if table[n].dtype.kind in "fiub"]
                table[numbers] = table[numbers].astype("float64")
                table.loc[table.index[changed], numbers] = np.nan
                table.to_parquet(copy)
            else:
                shutil.copyfile(file, copy)


class Killed(BaseException):
    """What a run is ended with from outside."""


@dataclass
class Work:
    """A context in which one stage runs; see `benchmark.api.Context`."""

    world: World
    folder: Path
    labelled: bool = False
    kill_after: float | None = None
    device: str = "cpu"
    workers: int = 1

    def __post_init__(self) -> None:
        self.out.mkdir(exist_ok=True)
        self.resume.mkdir(exist_ok=True)

    @property
    def out(self) -> Path:
        """Where the stage leaves its results."""
        return self.folder / "out"

    @property
    def resume(self) -> Path:
        """What survives a kill."""
        return self.folder / "resume"

    def open(self, stage: Stage) -> Path:
        """Return an input's artifact."""
        return self.world.open(stage, self.labelled)

    def progress(self, done: float, total: float, unit: str = "", note: str = "") -> None:
        """End the run where it is to be killed."""
        if self.kill_after is not None and done > self.kill_after:
            raise Killed

    def train(self, trainable: Trainable) -> None:
        """Run the harness's training loop."""
        from benchmark.engine.training import train

        train(trainable, self)


def _run(stage: Stage, work: Work) -> None:
    stage.run(work)


def _fresh(stage: Trainable, work: Work) -> None:
    """Leave a method's fresh weights, as if that had been its training."""
    from safetensors.torch import save_file

    from benchmark.engine.training import build

    weights = {name: value.contiguous() for name, value in build(stage).state_dict().items()}
    save_file(weights, work.out / "weights.safetensors")
    record: Mapping[str, Any] = {"history": [], "training_people": 0}
    (work.out / "history.json").write_text(json.dumps(record))


@contextlib.contextmanager
def as_in_the_store() -> Iterator[None]:
    """Run with the settings of torch that stages run with, and put the old ones back."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
