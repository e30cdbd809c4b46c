"""What is checked of a cohort: people, tables and arrays as everything else reads them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmark.api import Cohort, UserError, View
from benchmark.registry import registry
from benchmark.testing import fingerprints, process
from benchmark.testing.people import Lab, Work, lab_of
from benchmark.testing.report import Rules, Skipped, Subject, need

if TYPE_CHECKING:
    from benchmark.cohorts.cohort import CohortData

HOLDINGS = {"ecg", "cmr", "covariates", "icd10"}
FRACTIONS = (0.01, 0.1, 0.5, 1.0)
SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
SIGMAS = 5.0
MOST_VIEWED = 1_000
"""People beyond which views are not computed for a check."""
SOME = 16
"""People whose entries of an array enter a fingerprint."""
PLAUSIBLE = {"age": (0, 120), "sex": (0, 1), "height": (100, 230), "weight": (25, 300)}
"""Between which the median of a covariate lies, in the unit it is held in."""
MILLIVOLT = (0.02, 2.0)
"""Between which the standard deviation of an ordinary ECG lies."""

rules = Rules()


class CohortSubject(Subject):
    """A cohort, built for the occasion."""

    kind: ClassVar[str] = "cohort"
    rules: ClassVar[Rules] = rules
    remedy: ClassVar[str] = (
        "prepare one from a few files, or make a small one, and give it to check_cohort"
    )

    def __init__(self, cls: type[Cohort], specimen: Cohort | None) -> None:
        super().__init__()
        self.cls, self.name, self._specimen = cls, cls.name or cls.__name__, specimen

    @classmethod
    def of(cls, cohort: str | type[Cohort] | Cohort) -> CohortSubject:
        """Return a subject by name, of a class, or of a cohort as it is."""
        if isinstance(cohort, Cohort):
            return cls(type(cohort), cohort)
        return cls(registry().cohort(cohort) if isinstance(cohort, str) else cohort, None)

    @functools.cached_property
    def cohort(self) -> Cohort:
        """The cohort; raises `Skipped` where there is none to try."""
        if self._specimen is not None:
            return self._specimen
        try:
            return self.cls.at(process.SCALE)
        except UserError as error:
            raise Skipped(str(error)) from None

    @property
    def identity(self) -> str:
        """Its fingerprint."""
        return self.cohort.digest

    @functools.cached_property
    def lab(self) -> Lab:
        """Where it is built."""
        return lab_of(self.cohort)

    @property
    def data(self) -> CohortData:
        """Its people."""
        return self.lab.data

    def values(self) -> dict[str, Any]:
        """Return projections of its tables, and of some people's arrays."""
        import pandas as pd

        from benchmark.golden import projected

        found: dict[str, Any] = {"people": len(self.data.people)}
        for file in sorted(self.data.folder.iterdir()):
            if file.suffix == ".npy":
                found[file.name] = projected(np.load(file, mmap_mode="r")[:SOME])
            elif file.suffix == ".parquet" and file.stem != "ids":
                numbers = pd.read_parquet(file).select_dtypes("number")
                found[file.name] = projected(numbers.to_numpy(np.float64))
        return found


@rules.add("described", sees=False)
def _described(subject: CohortSubject) -> None:
    """Say what it is, and have a name and title that a folder may have."""
    doc = inspect.getdoc(subject.cls) or ""
    need(
        doc.strip() and not doc.startswith(f"{subject.cls.__name__}("),
        "the class has no docstring of its own; its first line is listed",
    )
    need(subject.cls.name, "`name` is empty; the command line needs one")
    need(
        isinstance(subject.cls.simulated, bool),
        "`simulated` is not True or False; everything that protects single people hangs on it",
    )


@rules.add("import", sees=False)
def _import(subject: CohortSubject) -> None:
    """Cost nothing worth noticing to import: it is done for every listing."""
    process.cheap(process.Plugin.of(subject.cls))


@rules.add("identity", essential=True)
def _identity(subject: CohortSubject) -> None:
    """Have one fingerprint in every process, a title for folders, and known modalities."""
    cohort = subject.cohort
    title = cohort.title
    need(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", title),
        f"`title` is {title!r}; boards lie in a folder of that name",
    )
    need(
        cohort.modalities and set(cohort.modalities) <= HOLDINGS,
        f"`modalities` is {cohort.modalities}; there is {', '.join(sorted(HOLDINGS))}",
    )
    fields = {f.name: getattr(cohort, f.name) for f in dataclasses.fields(cohort)}
    plugin = process.Plugin.of(subject.cls, fields=json.dumps(fields))
    process.same_digest(plugin, cohort.digest)


@rules.add("people", essential=True)
def _people(subject: CohortSubject) -> None:
    """Have every person once, in all tables, under an id that is not the source's."""
    data = subject.data
    people, ids = data.people, data.hash_id
    need(len(people), "there is nobody in it")
    for name in ("ids", "phenotypes", "diagnoses"):
        rows = len(ids) if name == "ids" else len(getattr(data, name))
        need(rows == len(people), f"{name} has {rows} rows for {len(people)} people")
    need(people["id"].is_unique, "two people have one id; one recording a person")
    need(ids.is_unique, "two people have one hash_id: is one person there twice?")
    need(
        all(isinstance(text, str) and text for text in ids),
        "hash_id is not text; split and label fraction are computed from the id as text",
    )
    mode = (data.folder / "ids.parquet").stat().st_mode & 0o777
    need(mode == 0o600, f"ids.parquet has the mode {mode:o}, not 600: nobody else may read ids")
    if not subject.cls.simulated:
        same = set(people["id"].astype(str)) & set(ids)
        need(
            not same,
            "the people's table shows ids of the source; `id` holds pseudonyms (privacy.pseudonym)",
        )


@rules.add("split", essential=True)
def _split(subject: CohortSubject) -> None:
    """Fall into the public split, with label fractions that lie one inside the next."""
    from benchmark.cohorts.splits import split_of

    data = subject.data
    need(np.array_equal(data.split, split_of(data.hash_id)), "the split is not the public one")
    people = len(data.split)
    for name, share in SHARES.items():
        found = int((data.split == name).sum())
        spread = SIGMAS * np.sqrt(people * share * (1 - share))
        need(
            abs(found - people * share) <= spread + 1,
            f"{found} of {people} people are in {name}, expected about {people * share:.0f}: is "
            "hash_id the person's own id?",
        )
    for replicate in range(2):
        parts = [set(data.labelled(replicate, fraction)) for fraction in FRACTIONS]
        nested = all(a <= b for a, b in itertools.pairwise(parts))
        need(nested, "label fractions are not nested")


@rules.add("tables")
def _tables(subject: CohortSubject) -> None:
    """Hold covariates, phenotypes and diagnoses in the units everything else reads."""
    from benchmark.cohorts.cohort import COVARIATES
    from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES

    data = subject.data
    if "covariates" in subject.cohort.modalities:
        missing = [name for name in COVARIATES if name not in data.people]
        need(not missing, f"it says it has covariates, but {', '.join(missing)} is missing")
    for name, (low, high) in PLAUSIBLE.items():
        known = data.people[name].dropna() if name in data.people else ()
        if len(known):
            median = float(known.median())
            need(low <= median <= high, f"the median {name} is {median:g}; is the unit right?")
    unknown = [name for name in data.phenotypes if name not in PHENOTYPE_NAMES]
    need(not unknown, f"unknown phenotypes: {', '.join(map(str, unknown[:4]))}")
    values = data.diagnoses.to_numpy(np.float64)
    need(
        np.isin(values[np.isfinite(values)], (0, 1)).all() and not np.isinf(values).any(),
        "a diagnosis is 0 or 1, NaN where unknown",
    )


@rules.add("arrays")
def _arrays(subject: CohortSubject) -> None:
    """Hold arrays of the shapes, types and units that views read."""
    from benchmark.cohorts.cohort import ECG_MILLIVOLT, ECG_SAMPLES, LEADS

    data, cohort = subject.data, subject.cohort
    people = len(data.people)
    shapes = {
        "ecg": ("int16", (people, len(LEADS), ECG_SAMPLES)),
        "cine": ("uint8", (people, 1, None, None, None)),
        "volumes": ("uint8", (people, 2, None, None, None)),
        "long_axis": ("uint8", (people, None, None, None)),
    }
    for modality, name in (("ecg", "ecg"), ("cmr", "cine")):
        need(
            (modality in cohort.modalities) == data.has(name),
            f"`modalities` is {cohort.modalities}, but {name}.npy is "
            f"{'there' if data.has(name) else 'missing'}",
        )
    for name, (dtype, shape) in shapes.items():
        if not data.has(name):
            continue
        array = getattr(data, name)
        fits = len(array.shape) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, array.shape, strict=True)
        )
        wanted = tuple("any" if want is None else want for want in shape)
        need(
            fits and array.dtype == dtype,
            f"{name}.npy is {array.dtype} {array.shape}, not {dtype} {wanted}",
        )
    if data.has("ecg"):
        some = data.ecg[: 10 * SOME] * ECG_MILLIVOLT
        spread = float(np.median(some.std(axis=-1)))
        need(
            MILLIVOLT[0] <= spread <= MILLIVOLT[1],
            f"a typical lead varies by {spread:.3g} mV; one step of ecg.npy is "
            f"{ECG_MILLIVOLT * 1e3:g} uV",
        )
    if data.has("cine"):
        spacing = data.about["spacing"]
        need(spacing and 0.5 <= spacing <= 5, f"images have {spacing} mm per pixel")


@rules.add("views")
def _views(subject: CohortSubject) -> None:
    """Be seen through the views of each modality it holds, in the shapes they declare."""
    from benchmark.cohorts import views

    cohort, people = subject.cohort, len(subject.data.people)
    if people > MOST_VIEWED:
        raise Skipped(f"views of {people:,} people take too long; give check_cohort a small one")
    seen: dict[str, tuple[View, ...]] = {
        "ecg": (views.CleanECG(cohort=cohort), views.RPeaks(cohort=cohort)),
        "cmr": (views.MidSliceCine(cohort=cohort),),
        "covariates": (views.Covariates(cohort=cohort),),
    }
    for modality in filter(seen.__contains__, cohort.modalities):
        for view in seen[modality]:
            array = np.load(subject.lab.world().open(view) / "array.npy", mmap_mode="r")
            need(
                array.shape == (people, *view.shape),
                f"{type(view).__name__} is {array.shape}, not {(people, *view.shape)}",
            )
            if modality == "ecg" and view.shape[0] == 12:
                lost = int((~np.isfinite(array).all(axis=(1, 2))).sum())
                need(not lost, f"the cleaned ECGs of {lost} people are not finite")


@rules.add("again", essential=True)
def _again(subject: CohortSubject) -> None:
    """Be the same, to the last bit, when it is built again with more workers."""
    from benchmark.cohorts.prepared import PreparedCohort

    if issubclass(type(subject.cohort), PreparedCohort):
        raise Skipped("it is made once, by its own command, and known by what it holds")
    first = _checksums(subject.data.folder)
    work = Work(subject.lab.world(), subject.lab.place(), workers=2)
    subject.cohort.run(work)
    second = _checksums(work.out)
    different = sorted(n for n in first.keys() | second.keys() if first.get(n) != second.get(n))
    need(
        not different,
        f"built again, {', '.join(different[:4])} differ under the same fingerprint: draw from "
        "generators seeded by the fields, person by person",
    )


def _checksums(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@rules.add("fingerprint", sees=False)
def _fingerprint(subject: CohortSubject) -> None:
    """Hold what was recorded, unless its version is another."""
    fingerprints.hold(subject)
