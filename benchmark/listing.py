"""What ``ecgcmr list`` shows."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from benchmark.api import UserError
from benchmark.registry import TRACKS, MethodEntry, registry, suggestion, track_module
from benchmark.stage import UNSET, bind

KINDS = ("methods", "tasks", "cohorts", "scales")


POSITION_TABLES = ("positions", "pos_embed")


def listing(
    kind: str | None, parameters: bool = False, track: str | None = None, scale: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return the tables asked for; ``track`` and ``scale`` leave out methods that have no such.

    ``parameters`` builds every network at a scale to count it, by default at the harmonised
    track's ``tiny``, or at the paper track's ``full`` where it is not in the other. ``package`` is
    name and version of the installed package something comes from, empty for the project's own; a
    plugin that is broken stands among what it was named for, with its traceback as ``broken``.
    """
    makers = {
        "methods": lambda: _methods(parameters, track, scale),
        "tasks": _tasks,
        "cohorts": _cohorts,
        "scales": _scales,
    }
    return {name: makers[name]() + _broken(name) for name in ([kind] if kind else KINDS)}


def text(tables: dict[str, list[dict[str, Any]]]) -> str:
    """Return the tables for people."""
    parts = []
    for kind, rows in tables.items():
        lines = [f"{kind}:"]
        if counted := [row for row in rows if "parameters" in row]:
            lines.append(_parameter_table(counted))
            rows = [row for row in rows if "broken" in row]
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            marks = []
            if kind == "methods" and "broken" not in row:
                marks = [row["modality"], row["role"]]
                marks += ["uses labels"] if row["uses_labels"] else []
            if row.get("package"):
                marks.append(f"from {row['package']}")
            end = f" ({', '.join(marks)})" if marks else ""
            lines.append(f"  {row['name']:<{width}}  {row['summary']}{end}")
            if "broken" in row:
                lines.append(textwrap.indent(row["broken"], "      "))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _parameter_table(rows: list[dict[str, Any]]) -> str:
    from tabulate import tabulate

    def numbers(counted: dict[str, dict[str, int]], part: str) -> tuple[str, str]:
        if part not in counted:
            return "", ""
        count = counted[part]
        table = f" + {count['positions']:,}" if count["positions"] else ""
        return f"{count['parameters']:,}{table}", f"{count['trained']:,}"

    body = []
    for row in rows:
        labels = "labels" if row["uses_labels"] else ""
        parts = ("ecg", "cmr", "all")
        cells = [cell for part in parts for cell in numbers(row["parameters"], part)]
        place = [row["name"], row["counted"], row["modality"], labels]
        body.append([*place, *cells, row["paper"] or ""])
    heads = ["method", "counted at", "reads", "learns from"]
    heads += ["ECG encoder", "trained", "CMR encoder", "trained", "all parts", "trained", "paper"]
    note = (
        "An encoder's trainable position table stands behind the plus. Trained is what the "
        "method's own training changes:\nnot what it freezes, nor what a head trains later. All "
        "parts adds projectors, decoders and moving copies."
    )
    align = ("left",) * 4 + ("right",) * 6 + ("left",)
    table = tabulate(body, heads, tablefmt="simple", colalign=align, disable_numparse=True)
    return f"{table}\n\n{note}"


def _methods(parameters: bool, track: str | None, scale: str | None) -> list[dict[str, Any]]:
    rows = []
    sizes = {name: track_module(name).SCALES for name in ([track] if track else TRACKS)}
    every = list(dict.fromkeys(name for scales in sizes.values() for name in scales))
    if scale is not None and scale not in every:
        raise UserError(f"no scale is called {scale!r}; {suggestion(scale, every)}")
    for entry in sorted(registry().methods.values(), key=lambda e: e.name):
        tracks = [t for t in entry.variant.tracks if t in sizes and scale in (None, *sizes[t])]
        if not tracks:
            continue
        method = entry.cls().replace(**entry.variant.fields)
        row = {
            "name": entry.name,
            "summary": entry.summary,
            "paper": entry.paper or None,
            "modality": "+".join(method.modalities),
            "role": entry.variant.role,
            "uses_labels": entry.uses_labels,
            "tracks": list(entry.variant.tracks),
            **_origin(entry.cls),
        }
        if parameters:
            size = scale or track_module(tracks[0]).DEFAULT_SCALE
            row["counted"] = f"{tracks[0]} {size}"
            row["parameters"] = count_parameters(entry, size, tracks[0])
        rows.append(row)
    return rows


def _origin(cls: type) -> dict[str, str]:
    return {"origin": cls.__module__, "package": registry().package(cls)}


def _broken(kind: str) -> list[dict[str, Any]]:
    # Every key of a method, so that programs need not ask which rows have them.
    rest = {"modality": "", "role": "broken", "uses_labels": False, "paper": None, "tracks": []}
    return [
        {
            "name": plugin.module,
            "summary": "broken plugin",
            **(rest if kind == "methods" else {}),
            "origin": plugin.module,
            "package": plugin.package,
            "broken": plugin.trace,
        }
        for plugin in registry().plugins.values()
        if plugin.trace and kind in plugin.kinds
    ]


def count_parameters(
    entry: MethodEntry, scale: str, track: str = "harmonised"
) -> dict[str, dict[str, int]]:
    """Count the parameters of a method's encoders, and under ``all`` of every part it has.

    Returns
    -------
    dict
        By modality and for ``all``: ``parameters`` without position tables, as papers count them;
        the trainable entries of those tables (``positions``); and how many of both the method's
        own training changes (``trained``). A method that learns a task's targets is counted for
        the first task that has its own.
    """
    import torch

    scales = track_module(track).SCALES
    if scale not in scales:
        raise UserError(f"no scale is called {scale!r}; {suggestion(scale, scales)}")
    task = next((task for task in registry().tasks.values() if not task.supervision), UNSET)
    method = bind(entry.on_track(track, scale), task=task)
    with torch.device("meta"):  # shapes without memory: the largest networks in no time
        encoders = method.build({name: view.shape for name, view in method.views().items()})
    frozen = {p for module in method.frozen(encoders) for p in module.parameters()}
    parts = {m: getattr(encoders, m) for m in method.modalities if encoders.has(m)}
    counted = {}
    for part, network in {**parts, "all": encoders}.items():
        count = counted[part] = {"parameters": 0, "positions": 0, "trained": 0}
        for name, parameter in network.named_parameters():
            table = name.rpartition(".")[2] in POSITION_TABLES
            count["positions" if table else "parameters"] += parameter.numel()
            trained = method.trained and parameter.requires_grad and parameter not in frozen
            count["trained"] += parameter.numel() * trained
    return counted


def _tasks() -> list[dict[str, Any]]:
    return [
        {
            "name": task.name,
            "summary": task.title,
            "kind": task.kind,
            "version": task.version,
            "targets": list(task.target_names),
            "metrics": [metric.name for metric in task.metrics],
            "primary": dict(task.primary),
            "reference": dict(task.reference),
            **_origin(type(task)),
        }
        for task in registry().tasks.values()
    ]


def _cohorts() -> list[dict[str, Any]]:
    return [
        {"name": name, "summary": (cls.__doc__ or "").partition("\n")[0], **_origin(cls)}
        for name, cls in registry().cohorts.items()
    ]


def _scales() -> list[dict[str, Any]]:
    sizes: dict[str, dict[str, str]] = {}
    for track in TRACKS:
        scales = track_module(track).SCALES
        for name in scales:
            shared = scales[name].ecg_encoder if isinstance(scales, Mapping) else None
            each = (
                f" (ECG transformer {shared.width}/{shared.depth}/{shared.heads})" if shared else ""
            )
            sizes.setdefault(name, {})[track] = each
    rows = []
    for name, own in sizes.items():
        people = registry().cohort("simulated").at(name, "default").people
        tracks = " and ".join(f"{track}{each}" for track, each in own.items())
        summary = f"{people:,} simulated people; {tracks} track"
        rows.append({"name": name, "summary": summary, "people": people, "tracks": list(own)})
    return rows
