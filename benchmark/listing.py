"""What ``ecgcmr list`` and ``ecgcmr status`` show."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from benchmark.api import UserError
from benchmark.registry import MethodEntry, registry, suggestion, track_module
from benchmark.stage import UNSET, bind

if TYPE_CHECKING:
    from benchmark.engine.store import Store

KINDS = ("methods", "tasks", "cohorts", "scales")


def listing(kind: str | None, parameters: bool, scale: str) -> dict[str, list[dict[str, Any]]]:
    """Return the tables asked for; ``parameters`` builds every network at a scale to count it."""
    makers = {
        "methods": lambda: _methods(scale if parameters else None),
        "tasks": _tasks,
        "cohorts": _cohorts,
        "scales": _scales,
    }
    return {name: makers[name]() for name in ([kind] if kind else KINDS)}


def text(tables: dict[str, list[dict[str, Any]]]) -> str:
    """Return the tables for people."""
    parts = []
    for kind, rows in tables.items():
        width = max((len(row["name"]) for row in rows), default=0)
        lines = [f"{kind}:"]
        for row in rows:
            marks = []
            if kind == "methods":
                marks = [row["modality"], row["role"]]
                marks += ["uses labels"] if row["uses_labels"] else []
                marks += [f"{row['parameters']:,} parameters"] if "parameters" in row else []
            end = f" ({', '.join(marks)})" if marks else ""
            lines.append(f"  {row['name']:<{width}}  {row['summary']}{end}")
            if "broken" in row:
                lines.append(textwrap.indent(row["broken"], "      "))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _methods(scale: str | None) -> list[dict[str, Any]]:
    rows = []
    for entry in sorted(registry().methods.values(), key=lambda e: e.name):
        method = entry.cls().replace(**entry.variant.fields)
        row = {
            "name": entry.name,
            "summary": entry.summary,
            "paper": entry.cls.paper or None,
            "modality": "+".join(method.modalities),
            "role": entry.variant.role,
            "uses_labels": entry.uses_labels,
            "tracks": list(entry.variant.tracks),
            "origin": entry.origin,
        }
        if scale is not None:
            row["parameters"] = count_parameters(entry, scale)
        rows.append(row)
    broken = registry().broken
    return rows + [{"name": n, "summary": "broken plugin", "modality": "", "role": "broken",
                    "uses_labels": False, "paper": None, "tracks": [], "origin": n, "broken": t}
                   for n, t in broken.items()]  # fmt: skip


def count_parameters(entry: MethodEntry, scale: str, track: str = "harmonised") -> int:
    """Return the number of parameters in all parts of a method, frozen ones and copies included.

    A method that learns a task's targets is built for the first task that has its own.
    """
    scales = track_module(track).SCALES
    if scale not in scales:
        raise UserError(f"no scale is called {scale!r}; {suggestion(scale, scales)}")
    task = next((task for task in registry().tasks.values() if not task.supervision), UNSET)
    method = bind(entry.on_track(track, scale), task=task)
    encoders = method.build({name: view.shape for name, view in method.views().items()})
    return sum(parameter.numel() for parameter in encoders.parameters())


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
        }
        for task in registry().tasks.values()
    ]


def _cohorts() -> list[dict[str, Any]]:
    return [
        {"name": name, "summary": (cls.__doc__ or "").partition("\n")[0]}
        for name, cls in registry().cohorts.items()
    ]


def _scales() -> list[dict[str, Any]]:
    rows = []
    for name, scale in track_module("harmonised").SCALES.items():
        people = registry().cohort("simulated").at(name, "default").people
        ecg = scale.ecg_encoder
        size = f"{ecg.width}/{ecg.depth}/{ecg.heads}"
        summary = f"{people:,} simulated people; ECG transformer {size} (width/depth/heads)"
        rows.append({"name": name, "summary": summary, "people": people})
    return rows


def status(store: Store, verify: bool) -> dict[str, Any]:
    """Return what the store holds by kind of stage, failures, and damaged artifacts.

    An artifact whose code has changed since, under an unchanged version, is counted as such: its
    result may not be what today's code would give.
    """
    from benchmark.engine.progress import amount
    from benchmark.engine.provenance import code_hash
    from benchmark.engine.store import ArtifactError

    kinds: dict[str, dict[str, Any]] = {}
    damaged: list[str] = []
    for digest in store.stages():
        try:
            manifest = store.manifest(digest)
            if verify:
                store.verify(digest)
        except ArtifactError as error:
            damaged.append(str(error))
            continue
        name = manifest["stage"]["name"]
        kind = kinds.setdefault(name, {"stages": 0, "bytes": 0, "seconds": 0.0, "changed": 0})
        kind["stages"] += 1
        kind["bytes"] += sum(file["bytes"] for file in manifest["files"].values())
        kind["seconds"] += manifest["seconds"]
        made_by = manifest.get("provenance") or {}
        module = made_by.get("module")
        if module is not None and made_by.get("code") != code_hash(module):
            kind["changed"] += 1
    failures = store.failures()
    lines = [f"store: {store.root}"]
    for name, kind in sorted(kinds.items()):
        changed = kind["changed"]
        note = f"  code changed since, same version: {changed}" if changed else ""
        size, seconds = amount(kind["bytes"]), f"{kind['seconds']:.0f} s"
        lines.append(f"  {name:<18} {kind['stages']:>6}  {size:>8}  {seconds:>8}{note}")
    total = sum(kind["bytes"] for kind in kinds.values())
    lines.append(f"{sum(k['stages'] for k in kinds.values()):,} stages, {amount(total)}")
    lines += [f"failed: {label}: {message}" for label, message in failures]
    lines += [f"damaged: {text}" for text in damaged]
    if verify and not damaged:
        lines.append("all checksums agree")
    return {
        "store": str(store.root),
        "kinds": kinds,
        "failed": [{"label": label, "message": message} for label, message in failures],
        "damaged": damaged,
        "text": "\n".join(lines),
    }
