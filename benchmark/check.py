"""The regression gate: runs its layers and tells whether a change made something worse.

`benchmark.golden` measures, `benchmark.reports.gate` decides. Layers A to C ask the code; layer D
asks the rows that were recorded with it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark import golden
from benchmark.api import UserError
from benchmark.engine.store import Store
from benchmark.evaluation.score import Score
from benchmark.evaluation.statistics import Comparison, compare
from benchmark.planning import MOST_REPLICATES
from benchmark.registry import TRACKS, registry
from benchmark.reports import gate, gate_recorded
from benchmark.reports.files import grouped
from benchmark.reports.gate import Verdict
from benchmark.reports.rows import read_rows

if TYPE_CHECKING:
    from benchmark.engine.progress import Reporter

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
LAYERS = {
    "A": "A frozen metrics",
    "B": "B fingerprints",
    "C": "C learning smoke",
    "D": "D recorded rows",
}
SAME_PLATFORM, OTHER_PLATFORM = 1e-4, 1e-3


@dataclass(frozen=True)
class Options:
    """What to check.

    Attributes
    ----------
    layers
        Letters of `LAYERS`.
    against
        Layer D: a git ref, a folder of leaderboards or of rows, or a rows file.
    leaderboards
        Layer D: the rows that are checked.
    methods
        Layers B and C: only these; empty: all of the references, and in B all of the registry.
    track
        Layer B: whose methods.
    folder
        The references.
    shortcut
        Layer C: pass what predicts as it did with a stored seed, without training fresh ones.
    fresh
        Layer C: which block of fresh seeds, so that passes do not repeat each other.
    """

    layers: tuple[str, ...] = ("A", "B", "D")
    against: str = "HEAD"
    leaderboards: Path = ROOT / "leaderboards"
    methods: tuple[str, ...] = ()
    track: str = TRACKS[0]
    folder: Path = GOLDEN
    shortcut: bool = True
    fresh: int = 0

    def __post_init__(self) -> None:
        for layer in self.layers:
            if layer not in LAYERS:
                raise UserError(f"there is no layer {layer!r}; there are {', '.join(LAYERS)}")
        for name in self.methods:
            if registry().method(name).changes:
                raise UserError(f"{name} has changed fields, of which no reference was recorded")


def check(
    options: Options, store: Store | None = None, reporter: Reporter | None = None
) -> list[Verdict]:
    """Run the layers, cheapest first.

    Parameters
    ----------
    store
        Where layer D looks for predictions that rows were made of; the private store by default.
    """
    run: dict[str, Callable[[], Verdict]] = {
        "A": lambda: metrics(options),
        "B": lambda: fingerprints(options, reporter),
        "C": lambda: learning(options, reporter),
        "D": lambda: recorded(options, store),
    }
    verdicts = []
    for layer in sorted(set(options.layers)):
        started = time.monotonic()
        verdict = run[layer]()
        verdict.seconds = time.monotonic() - started
        verdicts.append(verdict)
    return verdicts


def passes(options: Options, number: int, reporter: Reporter | None = None) -> list[Verdict]:
    """Run layer C so often, each time with other fresh seeds; return a verdict a pass.

    Raises
    ------
    UserError
        When the number is not positive.
    """
    if number < 1:
        raise UserError(f"--passes is {number}; at least 1 is needed")
    verdicts = []
    for block in range(number):
        started = time.monotonic()
        verdict = learning(replace(options, shortcut=False, fresh=block), reporter)
        verdict.layer, verdict.seconds = f"{verdict.layer}, pass {block + 1}", time.monotonic()
        verdict.seconds -= started
        verdicts.append(verdict)
    return verdicts


def metrics(options: Options) -> Verdict:
    """Layer A: metrics, intervals, tests and letters of made-up predictions."""
    verdict = Verdict(LAYERS["A"])
    stored = golden.read(options.folder, "metrics.json")
    gate.frozen(stored, golden.metrics(options.folder), gate.within(1e-12), verdict)
    return verdict


def fingerprints(options: Options, reporter: Reporter | None = None) -> Verdict:
    """Layer B: losses, features and predictions of every method after a few updates."""
    verdict = Verdict(LAYERS["B"])
    stored = golden.read(options.folder, f"fingerprints-{options.track}.json")
    here = golden.platform_name()
    same = stored["platform"] == here
    if not same:
        verdict.notes.append(f"made on {stored['platform']}, compared on {here}")
    known = golden.track_methods(options.track)
    names = options.methods or known
    measured, failed = golden.fingerprints(
        stored["settings"], options.track, [n for n in names if n in known], reporter
    )
    verdict.wrong += [f"{label} failed: {message}" for label, message in failed.items()]
    expected = stored["methods"]
    if options.methods:
        expected = {name: entry for name, entry in expected.items() if name in options.methods}
    tolerance = gate.relative(SAME_PLATFORM if same else OTHER_PLATFORM)
    gate.frozen(expected, measured, tolerance, verdict)
    return verdict


# ------------------------------------------------------------------------------ C


def learning(options: Options, reporter: Reporter | None = None) -> Verdict:
    """Layer C: fresh seeds against the stored ones, and more of them where they look worse."""
    verdict = Verdict(LAYERS["C"])
    stored = golden.read(options.folder, "learning.json")
    settings = stored["settings"]
    methods = [m for m in settings["methods"] if not options.methods or m in options.methods]
    unknown = [m for m in methods if not _endpoints([m], stored)]
    verdict.wrong += [f"{m}: has no reference; ecgcmr golden writes it" for m in unknown]
    methods = [m for m in methods if m not in unknown]
    count = settings["fresh seeds"]
    first = settings["reference seeds"] + 3 * count * options.fresh
    with golden.own_store() as store:

        def train(names: Sequence[str], seeds: Sequence[int]) -> golden.Learned:
            return golden.learning(settings, names, seeds, store, reporter)

        if options.shortcut:
            seed = settings["shortcut seed"]
            again = train(methods, [seed])
            same = [m for m in methods if _as_before(m, again, stored, seed)]
            verdict.compared += len(_endpoints(same, stored))
            verdict.notes += [f"{m}: predicts as before with seed {seed}" for m in same]
            methods = [m for m in methods if m not in same]
        if not methods:
            return verdict
        seeds = range(first, first + count)
        found = _drops(methods, seeds, train(methods, seeds), stored, verdict)
        verdict.compared += len(found)
        suspects = {drop.endpoint for drop in found if drop.red}
        if not suspects:
            return verdict
        # A single look at 1% a run would cry wolf every few months; a true drop stays.
        methods = [m for m in methods if suspects & {*_endpoints([m], stored)}]
        seeds = range(first + count, first + 3 * count)
        for drop in _drops(methods, seeds, train(methods, seeds), stored, verdict):
            if drop.endpoint in suspects:
                confirmed = f"{drop}, {count} fresh seeds and again {len(seeds)}"
                cleared = f"{drop.endpoint}: worse with {count} seeds, not with {len(seeds)} more"
                (verdict.wrong if drop.red else verdict.notes).append(
                    confirmed if drop.red else cleared
                )
    return verdict


def _endpoints(methods: Iterable[str], stored: Mapping[str, Any]) -> list[str]:
    """Return the stored endpoints of methods."""
    return [e for e in stored["values"] if e.partition(" on ")[0] in methods]


def _as_before(method: str, again: golden.Learned, stored: Mapping[str, Any], seed: int) -> bool:
    """Whether a method predicts with a stored seed what it predicted then, and scores the same."""
    own = _endpoints([method], stored)
    held = Verdict("")
    for endpoint in own:
        new = again.outputs.get(endpoint, {}).get(seed, {})
        gate.frozen(stored["outputs"][endpoint], new, gate.relative(gate.EQUAL), held)
        score = again.values.get(endpoint, {}).get(seed)
        gate.frozen(stored["values"][endpoint][seed], score, gate.within(gate.EQUAL), held)
    return bool(own) and not held.wrong


def _drops(
    methods: Iterable[str],
    seeds: Iterable[int],
    made: golden.Learned,
    stored: Mapping[str, Any],
    verdict: Verdict,
) -> list[gate.Drop]:
    """Test what was trained; tell the verdict what could not be, and what has no number."""
    verdict.wrong += [f"{label} failed: {message}" for label, message in made.failed.items()]
    values: dict[str, list[float]] = {}
    for endpoint in _endpoints(methods, stored):
        own = made.values.get(endpoint, {})
        lost = [seed for seed in seeds if not math.isfinite(own.get(seed, math.nan))]
        if lost:
            verdict.wrong.append(f"{endpoint}: no number with seed {', '.join(map(str, lost))}")
        else:
            values[endpoint] = [own[seed] for seed in seeds]
    return gate.same_recipe({e: stored["values"][e] for e in values}, values)


# ------------------------------------------------------------------------------ D


def recorded(options: Options, store: Store | None = None) -> Verdict:
    """Layer D: the recorded rows against those of a git ref, a folder or a file."""
    endpoints = {n: frozenset(task.primary.values()) for n, task in registry().tasks.items()}
    before = rows_of(options.against)
    after = read_rows(options.leaderboards / "rows")
    paired = PairedRows(store or Store())
    verdict = gate_recorded.recorded(before, after, endpoints, paired, MOST_REPLICATES)
    verdict.notes.append(f"against {options.against}")
    return verdict


def rows_of(against: str) -> list[dict[str, Any]]:
    """Return the rows files of a git ref, a folder of leaderboards or of rows, or a file.

    Raises
    ------
    UserError
        When it is none of these, or holds something else. Without any rows nothing is compared,
        which is for the verdict to say.
    """
    path = Path(against)
    try:
        texts = _texts_in(path) if path.exists() else _texts_at(against)
        found = [json.loads(text) for text in texts]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{against} holds something that is no rows file: {error}") from None
    fields = {*gate_recorded.FILE, "rows"}
    if not all(isinstance(file, dict) and fields <= file.keys() for file in found):
        raise UserError(f"{against} holds JSON that is no rows file")
    return found


def _texts_in(path: Path) -> list[bytes]:
    """Return the rows files of a folder, or the one file."""
    if not path.is_dir():
        return [path.read_bytes()]
    rows = path / "rows" if (path / "rows").is_dir() else path
    files = [p for p in sorted(rows.rglob("*.json")) if not p.name.startswith(".")]
    return [file.read_bytes() for file in files]


def _texts_at(ref: str) -> list[bytes]:
    """Return the rows files of a git ref, without unpacking anything to a disk."""
    # --end-of-options: a ref must not be read as an option.
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", "--end-of-options", ref]
    done = subprocess.run([*command, "leaderboards/rows"], capture_output=True)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise UserError(f"{ref} is no file, no folder and no git ref with rows ({why})")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        files = [m for m in archive if m.isfile() and m.name.endswith(".json")]
        return [archive.extractfile(m).read() for m in files]


class PairedRows:
    """Compares an old and a new row over people, where the store has what both were made of.

    A row names its score stages by one digest over theirs; which those are, follows from the
    manifests of all score stages in the store, whatever code they were made by.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, row: Mapping[str, Any], other: Mapping[str, Any]) -> Comparison | None:
        """Return new minus old on the replicates both have; None where one is not there."""
        found = [self._made_of.get(r["result"]["digest"]) for r in (row, other)]
        if not all(found):
            return None
        columns = [self._columns(f, row["target"], row["metric"]) for f in found]
        if None in columns:
            return None
        (old, old_psi, n_min), (new, new_psi, smallest) = columns
        shared = min(len(old), len(new))  # replicates count from 0 without a gap
        if len(old_psi) != len(new_psi):
            return None
        parts = (new[:shared], new_psi[:, :shared], old[:shared], old_psi[:, :shared])
        return compare(*parts, min(n_min, smallest))

    @functools.cached_property
    def _made_of(self) -> dict[str, list[str]]:
        """Digest of a row to the digests of its score stages, replicate 0 upwards."""
        recipes: dict[str, dict[int, str]] = {}
        for digest in self._store.stages():
            stage = self._store.manifest(digest)["stage"]
            if stage["name"] == Score.__name__:
                seeds: list[int] = []
                recipe = json.dumps(_without_seed(stage, seeds), sort_keys=True)
                recipes.setdefault(recipe, {})[seeds[0] if seeds else 0] = digest
        rows = {}
        for made in recipes.values():
            for count in range(1, len(made) + 1):
                own = [made[seed] for seed in range(count) if seed in made]
                text = "\n".join(sorted(own))
                rows[grouped(hashlib.sha256(text.encode()).hexdigest())] = own
        return rows

    def _columns(
        self, digests: Sequence[str], target: str, metric: str
    ) -> tuple[np.ndarray, np.ndarray, int] | None:
        """Return theta (S,), psi (N, S) and n_min of a target and metric."""
        theta, psi, smallest = [], [], []
        for digest in digests:
            self._store.verify(digest)
            folder = self._store.path(digest)
            cells = json.loads((folder / "score.json").read_text())["cells"]
            wanted = (target, metric)
            place = next(
                (i for i, c in enumerate(cells) if (c["target"], c["metric"]) == wanted), None
            )
            if place is None or cells[place]["theta"] is None:
                return None
            theta.append(cells[place]["theta"])
            psi.append(np.load(folder / "influence.npy", mmap_mode="r")[:, place])
            smallest.append(cells[place]["n_min"])
        columns = np.stack(psi, axis=1)
        return (np.array(theta), columns, min(smallest)) if np.isfinite(columns).all() else None


def _without_seed(value: Any, seeds: list[int]) -> Any:
    """Return a stage's description without its seeds, which are collected."""
    if isinstance(value, Mapping):
        seeds += [v for name, v in value.items() if name == "seed"]
        return {n: _without_seed(v, seeds) for n, v in value.items() if n != "seed"}
    return [_without_seed(v, seeds) for v in value] if isinstance(value, list) else value


# ------------------------------------------------------------------------------ rewriting


def rewrite_golden(options: Options, reporter: Reporter | None = None) -> Iterator[Path]:
    """Measure the references of the layers again and write them; give the files.

    What settings say is kept. With ``methods``, layer B keeps the other methods' fingerprints.

    Raises
    ------
    UserError
        When something cannot be trained, or gives no number: that is no reference.
    """
    if "A" in options.layers:
        yield golden.write(options.folder, "metrics.json", golden.metrics(options.folder))
    if "B" in options.layers:
        name = f"fingerprints-{options.track}.json"
        stored = golden.read(options.folder, name)
        names = options.methods or golden.track_methods(options.track)
        made, failed = golden.fingerprints(stored["settings"], options.track, names, reporter)
        _refuse(failed)
        kept = stored["methods"] if options.methods else {}
        content = {"platform": golden.platform_name(), "settings": stored["settings"]}
        yield golden.write(options.folder, name, content | {"methods": kept | made})
    if "C" in options.layers:
        settings = golden.read(options.folder, "learning.json")["settings"]
        seeds = range(settings["reference seeds"])
        with golden.own_store() as store:
            learned = golden.learning(settings, settings["methods"], seeds, store, reporter)
        _refuse(learned.failed)
        values = {e: [own[seed] for seed in seeds] for e, own in learned.values.items()}
        _refuse({e: "no number" for e, own in values.items() if not np.isfinite(own).all()})
        outputs = {e: own[settings["shortcut seed"]] for e, own in learned.outputs.items()}
        content = {"platform": golden.platform_name(), "settings": settings}
        content |= {"values": values, "outputs": outputs}
        yield golden.write(options.folder, "learning.json", content)


def _refuse(failed: Mapping[str, str]) -> None:
    if failed:
        said = "; ".join(f"{label}: {message}" for label, message in failed.items())
        raise UserError(f"no references are written: {said}")
