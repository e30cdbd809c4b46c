"""A page for every method of the project: its card, fields, stages, sizes, and both numbers."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from text import BLANK, first_line, flat, paragraphs, shown, table

from benchmark.api import Method, View
from benchmark.listing import count_parameters
from benchmark.registry import TRACKS, MethodEntry, registry, track_module
from benchmark.reports.boards.text import estimate
from benchmark.reports.published import QUOTED, Line, tables
from benchmark.reports.rows import read_rows
from benchmark.stage import Stage, bind

FOLDER = "reference/methods"
ROWS = (
    Path(__file__).resolve().parents[2] / "leaderboards" / "rows" / "simulated-tiny" / "harmonised"
)
RECORDED = "simulated people, scale `tiny`, harmonised track"
HIDDEN = ("cohort", "seed", "task", "fraction")
"""Fields that the runner fills in."""

INTRODUCTION = """\
# Methods

A page holds a file's class and its variants: what its docstring says, the departures from the paper
that it states, its fields in both tracks, the stages it stands on, its sizes, and published numbers
beside recorded ones. `@` in a name marks a recipe of the paper track.
"""

LEAVES_OPEN = re.compile(
    r"(^|[.;] )(Departures?\b|Unstated\b|The harmonised track alone)|the paper does not say"
)
"""What a docstring's paragraph says that tells of differences from the paper."""

Rows = Mapping[tuple[str, ...], Mapping[str, Any]]


@functools.cache
def pages() -> dict[str, str]:
    """Return the pages by path, the index first."""
    classes: dict[type[Method], list[MethodEntry]] = {}
    for entry in registry().methods.values():
        if entry.origin.startswith("methods."):
            classes.setdefault(entry.cls, []).append(entry)
    order = sorted(classes, key=_file)
    recorded = _recorded()
    lines = [(name, line) for name, found in tables().items() for line in found.lines]
    index = table(
        ["name", "what", "reads", "role", "tracks", "labels"],
        [_in_index(entry) for cls in order for entry in classes[cls]],
    )
    return {
        f"{FOLDER}/index.md": f"{INTRODUCTION}\n{index}\n",
        **{f"{FOLDER}/{_file(c)}.md": _page(c, classes[c], recorded, lines) for c in order},
    }


def _file(cls: type[Method]) -> str:
    return cls.__name__.lower()


def _in_index(entry: MethodEntry) -> list[str]:
    link = f"[`{entry.name}`]({_file(entry.cls)}.md)"
    reads = "+".join(entry.cls().replace(**entry.variant.fields).modalities)
    tracks = ", ".join(entry.variant.tracks)
    labels = "learns from them" if entry.uses_labels else BLANK
    return [link, entry.summary, reads, entry.variant.role, tracks, labels]


def _page(
    cls: type[Method], entries: list[MethodEntry], recorded: Rows, lines: list[tuple[str, Line]]
) -> str:
    card, open_ = [], []
    for text in paragraphs(cls):
        (open_ if LEAVES_OPEN.search(text) else card).append(text)
    where = f"`{cls.__module__.replace('.', '/')}.py`, class `{cls.__name__}`"
    text = [f"# {cls.__name__}", f"{first_line(cls)} ({where})", *card]
    text.append("## Departures from the paper")
    text += open_ or ["The file states none beside what is said above."]
    text += ["## Names", _names(entries)]
    text += ["## Fields", *_fields(entries)]
    text += ["## What it stands on", *_stages(entries)]
    text += ["## Sizes", _sizes(entries)]
    text += ["## Recorded", *_endpoints(entries, recorded)]
    text += ["## Published beside recorded", *_published(entries, recorded, lines)]
    return "\n\n".join(text) + "\n"


def _names(entries: list[MethodEntry]) -> str:
    rows = []
    for entry in entries:
        heads = [f"{track}: {_heads(entry, track)}" for track in entry.variant.tracks]
        labels = "yes" if entry.uses_labels else "no"
        known = ["; ".join(heads), entry.variant.role, labels, entry.paper or BLANK]
        rows.append([f"`{entry.name}`", entry.summary, *known])
    return table(["name", "what", "heads by track", "role", "labels", "published in"], rows)


def _heads(entry: MethodEntry, track: str) -> str:
    module = track_module(track)
    return ", ".join(f"`{name}`" for name in module.heads(entry, module.DEFAULT_SCALE)) or "none"


# ---------------------------------------------------------------------------------- fields


def _main(entries: list[MethodEntry], track: str) -> MethodEntry | None:
    return next((entry for entry in entries if track in entry.variant.tracks), None)


def _values(entry: MethodEntry, track: str) -> dict[str, str]:
    method = entry.on_track(track, track_module(track).DEFAULT_SCALE)
    return {
        name: _stage(value) if isinstance(value, Stage) else shown(value)
        for name, value in flat(method).items()
        if name not in HIDDEN
    }


def _stage(stage: Stage) -> str:
    """Return a stage's name, with a link to its page where it has one."""
    cls = type(stage)
    name = stage.group if isinstance(stage, Method) else cls.__name__
    own = isinstance(stage, Method) and any(e.cls is cls for e in registry().methods.values())
    return f"[`{name}`]({_file(cls)}.md)" if own else f"`{name}`"


def _fields(entries: list[MethodEntry]) -> Iterator[str]:
    yield (
        "Dotted names are fields of fields, and what an override on the command line calls them. "
        "Which cohort, seed, task and label fraction is filled in by the runner."
    )
    mains = {t: entry for t in TRACKS if (entry := _main(entries, t)) is not None}
    columns = {track: _values(entry, track) for track, entry in mains.items()}
    heads = [f"`{e.name}`, {t} {track_module(t).DEFAULT_SCALE}" for t, e in mains.items()]
    names = dict.fromkeys(itertools.chain.from_iterable(columns.values()))
    rows = [[f"`{n}`", *(c.get(n, BLANK) for c in columns.values())] for n in names]
    yield table(["field", *heads], rows)
    differ = []
    for entry in entries:
        for track in entry.variant.tracks:
            if entry is mains[track]:
                continue
            own, main = _values(entry, track), columns[track]
            changed = [
                f"`{name}` {own.get(name, BLANK)}"
                for name in {**main, **own}
                if own.get(name) != main.get(name)
            ]
            said = "; ".join(changed) or "nothing that the track does not fix"
            differ.append([f"`{entry.name}`", track, f"`{mains[track].name}`", said])
    if differ:
        yield table(["variant", "track", "differs from", "in"], differ)


# ---------------------------------------------------------------------------------- stages


def _bound(entry: MethodEntry, track: str) -> Method:
    scale = track_module(track).DEFAULT_SCALE
    cohort = registry().cohort("simulated").at(scale)
    task = next(task for task in registry().tasks.values() if not task.supervision)
    method = entry.on_track(track, scale)
    return bind(method, cohort=cohort, seed=0, task=task, fraction=1.0)


def _stages(entries: list[MethodEntry]) -> Iterator[str]:
    for track in TRACKS:
        entry = _main(entries, track)
        if entry is None:
            continue
        method = _bound(entry, track)
        scale = track_module(track).DEFAULT_SCALE
        yield f"`{entry.name}` in the {track} track, scale `{scale}`, and what each reads:"
        yield "\n".join(_tree(method, 0))


def _tree(stage: Stage, depth: int) -> Iterator[str]:
    """Yield a stage and, indented, what it stands on: other trainings, and the views of each."""
    name = _stage(stage) if depth else f"`{stage.group}`"
    says = first_line(type(stage)).rstrip(".")
    yield f"{'    ' * depth}- {name}: {says}"
    below = [s for s in stage.inputs if isinstance(s, Method)]
    views = stage.views() if isinstance(stage, Method) else {}
    for called, view in views.items():
        yield f"{'    ' * (depth + 1)}- `{called}`: {_view(view)}"
    for inner in below:
        yield from _tree(inner, depth + 1)


def _view(view: View) -> str:
    shape = " x ".join(map(str, view.shape))
    return f"`{type(view).__name__}` ({shape}), {first_line(type(view)).rstrip('.')}"


def _sizes(entries: list[MethodEntry]) -> str:
    rows = []
    for entry in entries:
        for track in entry.variant.tracks:
            scale = track_module(track).DEFAULT_SCALE
            counted = count_parameters(entry, scale, track)
            cells = [_size(counted.get(part)) for part in ("ecg", "cmr", "all")]
            rows.append([f"`{entry.name}`", f"{track} {scale}", *cells])
    heads = ["name", "counted at", "ECG encoder", "CMR encoder", "all parts"]
    note = "Parameters without position tables; in brackets those that its own training changes."
    return f"{table(heads, rows)}\n\n{note}"


def _size(count: Mapping[str, int] | None) -> str:
    return BLANK if count is None else f"{count['parameters']:_} ({count['trained']:_})"


# ---------------------------------------------------------------------------------- numbers


def _recorded() -> Rows:
    """Return the recorded results on all labels, by method, task, modality, target and metric."""
    return {
        (file["method"], file["task"], row["modality"], row["target"], row["metric"]): {
            **row["result"],
            "head": row["head"],
        }
        for file in read_rows(ROWS)
        for row in file["rows"]
        if row["fraction"] == 1.0
    }


def _endpoints(entries: list[MethodEntry], recorded: Rows) -> Iterator[str]:
    rows = []
    for entry in entries:
        for task in registry().tasks.values():
            metrics = task.primary or dict.fromkeys(("ecg", "ecg-cmr"), task.metrics[0].name)
            for modality, metric in metrics.items():
                result = recorded.get((entry.name, task.name, modality, "mean", metric))
                if result is not None:
                    place = [f"[`{task.name}`](../tasks/{task.name}.md)", modality, result["head"]]
                    count = str(result["replicates"])
                    rows.append([f"`{entry.name}`", *place, metric, estimate(result), count])
    if not rows:
        yield "Nothing is recorded of it: the boards that are recorded show the harmonised track."
        return
    yield f"On {RECORDED}, all labels, mean over the targets, with the 95% interval."
    yield table(["name", "task", "input", "head", "metric", "value", "replicates"], rows)


def _published(
    entries: list[MethodEntry], recorded: Rows, lines: list[tuple[str, Line]]
) -> Iterator[str]:
    own = {entry.name for entry in entries}
    asked = [(t, line) for t, line in lines if own & set(line.methods.values())]
    if not asked:
        yield "No table of the papers has a row of it."
        return
    yield (
        f"Published numbers are about UK Biobank or another real cohort, recorded ones about "
        f"{RECORDED}. They stand side by side to show what has a counterpart; a difference tells "
        "of other people first. `ecgcmr reproduce` runs a table."
    )
    notes: dict[str, int] = {}
    rows = []
    for name, line in asked:
        counterpart = line.methods.get(TRACKS[0], "")
        ours = recorded.get((counterpart, line.task, line.modality, _target(line), line.metric))
        said = [remark.text for remark in line.remarks]
        said += ["quoted by the paper from elsewhere"] if line.kind == QUOTED else []
        marks = "".join(f" [{notes.setdefault(text, len(notes) + 1)}]" for text in said)
        printed = line.printed
        spread = f" ± {printed['std']}" if printed["std"] else ""
        tracks = (line.methods.get("paper"), counterpart)
        names = [f"`{method}`" if method else BLANK for method in tracks]
        place = [name, f"{printed['method']} {printed['variant']}".strip(), *names, line.title]
        value = BLANK if line.compare else "not compared"
        if ours is not None and ours["value"] is not None and counterpart in own and line.compare:
            value = f"{ours['value'] * line.factor:.{_decimals(printed['mean'])}f}"
        rows.append([*place, printed["metric"], f"{printed['mean']}{spread}{marks}", value])
    heads = ["table", "as printed", "paper track", "harmonised track", "target", "metric"]
    yield table([*heads, "published", "recorded"], rows)
    if notes:
        yield "\n".join(f"{number}. {text}" for text, number in notes.items())


def _target(line: Line) -> str:
    """Return what a row calls the mean that a table prints."""
    if not line.group:
        return line.target
    return "mean" if line.group == "all" else f"mean of {line.group}"


def _decimals(printed: str) -> int:
    return min(len(printed.partition(".")[2]), 3)
