"""Pictures of what a method does, after the papers' figures, for boards and for papers.

One module per kind. What has to be computed is a stage, so that it is done once and what is about
single people stays in the store; a drawing is a function of artifacts and rows. Each picture has a
JSON file beside it with its words and the aggregate numbers in it. Of real people only kinds that
show aggregates are drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.engine.store import Store
from benchmark.names import file_name, split_list, suggestion
from benchmark.pictures.alignment import Alignment
from benchmark.pictures.common import (
    PIXELS_PER_INCH,
    Drawing,
    Kind,
    NotApplicable,
    Subject,
    encoded,
    style,
)
from benchmark.pictures.latent import Latent
from benchmark.pictures.low_data import LowData
from benchmark.pictures.predicted import Predicted
from benchmark.pictures.reconstruction import Reconstruction
from benchmark.pictures.similarity import Similarity
from benchmark.planning import Request
from benchmark.recording import RANKED_TRACK, board_folder, homes, rows_folders
from benchmark.registry import registry
from benchmark.reports.files import dumps, grouped, replace_file
from benchmark.runner import bring
from benchmark.stage import Stage

KINDS = {
    kind.name: kind
    for kind in (Predicted(), LowData(), Similarity(), Alignment(), Reconstruction(), Latent())
}


@dataclass
class Made:
    """What became of a request.

    Attributes
    ----------
    files
        The pictures that were written.
    skipped
        Kind, method and why there is no such picture.
    failed
        The same, for those whose stages failed.
    """

    files: list[Path] = field(default_factory=list)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    failed: list[tuple[str, str, str]] = field(default_factory=list)


def choose_kinds(names: str) -> tuple[Kind, ...]:
    """Resolve names separated by commas, or ``all``."""
    wanted = split_list(names)
    for name in wanted:
        if name != "all" and name not in KINDS:
            raise UserError(f"no kind of picture is called {name!r}; {suggestion(name, KINDS)}")
    if not wanted:
        raise UserError(f"no kind of picture was named; there is {', '.join(KINDS)}")
    return tuple(KINDS.values() if "all" in wanted else [KINDS[n] for n in dict.fromkeys(wanted)])


def usual_methods() -> tuple[str, ...]:
    """Return the ranked two-tower methods, and those that tasks compare all others with."""
    known = registry()
    entries = {n: e for n, e in known.methods.items() if RANKED_TRACK in e.variant.tracks}
    chosen = [n for n, e in entries.items() if e.cls.two_tower and e.variant.role == "ranked"]
    tasks = [task for task in known.tasks.values() if task.confirmatory]
    references = [task.reference[m] for task in tasks for m in task.reference if m == "ecg"]
    return tuple(dict.fromkeys([*(n for n in references if n in entries), *chosen]))


def draw(
    request: Request,
    kinds: Sequence[Kind],
    store: Store,
    leaderboards: Path,
    **execution: Any,
) -> Made:
    """Draw the kinds of picture of the request's methods; trains what is missing, as `bring` does.

    Writes ``<board folder>/pictures/<kind>-<method>.png`` (or ``.svg``) and ``.json`` below
    ``leaderboards``; of methods with changed fields beside their own boards.
    """
    made = Made()
    wanted: list[tuple[Kind, Subject, Stage | None, Path]] = []
    for home, names in homes(request, leaderboards).items():
        rows, folder = rows_folders(request, home), home / board_folder(request) / "pictures"
        subjects = [Subject(registry().method(name), request, store, rows) for name in names]
        for kind, subject in itertools.product(kinds, subjects):
            try:
                stage = _needed(kind, subject)
            except NotApplicable as reason:
                made.skipped.append((kind.name, subject.name, str(reason)))
            else:
                wanted.append((kind, subject, stage, folder))
    stages = {stage.digest: stage for _, _, stage, _ in wanted if stage is not None}
    if stages:
        targets = [request.make_cohort(), *stages.values()]
        bring(targets, store, **execution)
    with style():
        for kind, subject, stage, folder in wanted:
            if stage is not None and not store.has(stage.digest):
                made.failed.append((kind.name, subject.name, "its stages failed; see above"))
                continue
            try:
                drawing = kind.draw(subject)
            except NotApplicable as reason:
                made.skipped.append((kind.name, subject.name, str(reason)))
                continue
            made.files.append(_write(folder, kind, subject, drawing))
    return made


def _needed(kind: Kind, subject: Subject) -> Stage | None:
    """Return the stage that a picture stands on; raises `NotApplicable`."""
    if kind.single and not subject.cohort.simulated:
        cohort = subject.request.cohort
        raise NotApplicable(f"it shows people one by one, and those of {cohort} are real")
    kind.recipes(subject)
    return kind.stage(subject)


def _write(folder: Path, kind: Kind, subject: Subject, drawing: Drawing) -> Path:
    """Write the picture, then what is said of it: a picture without words is not shown."""
    stem = f"{kind.name}-{file_name(subject.name)}"
    path = folder / f"{stem}.{kind.suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    replace_file(path, encoded(drawing.figure, kind.suffix))
    request = subject.request
    width, height = (round(x * PIXELS_PER_INCH) for x in drawing.figure.get_size_inches())
    words: dict[str, Any] = {
        "kind": kind.name,
        "order": list(KINDS).index(kind.name),
        "title": kind.title,
        "caption": f"{kind.caption} After {kind.source}.",
        "alt": drawing.alt,
        "file": path.name,
        "width": width,
        "height": height,
        "method": subject.name,
        "cohort": request.cohort,
        "preset": None if request.preset == "default" else request.preset,
        "scale": request.scale,
        "track": request.track,
        "cohort_fingerprint": grouped(subject.cohort.digest),
        "recipes": kind.recipes(subject),
        "people": drawing.people,
        "numbers": drawing.numbers,
    }
    replace_file(folder / f"{stem}.json", dumps(words))
    return path
