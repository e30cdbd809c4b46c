"""The model card of an exported encoder, and the recorded scores that belong to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import Method, Task
from benchmark.planning import FRACTIONS, Request, jobs_of
from benchmark.registry import registry
from benchmark.reports.files import grouped
from benchmark.reports.rows import ONE_CHECKPOINT
from benchmark.stage import topological
from benchmark.trained import recorded_file

if TYPE_CHECKING:
    from benchmark.export.folder import Wanted

TEMPLATE = Path(__file__).with_name("card.md.jinja")
MEAN = "mean"


def scores_of(
    method: Method, wanted: Wanted, request: Request, leaderboards: Path
) -> list[dict[str, Any]]:
    """Return the recorded primary scores that were computed with this encoder's recipe.

    Rows of another recipe, cohort or task version are no statement about these weights and are left
    out.
    """
    entry, cohort = registry().method(wanted.method), request.make_cohort()
    asked = replace(request, fractions=FRACTIONS, modality="")
    found = []
    for task in registry().tasks.values():
        file = recorded_file(entry.name, task, request, leaderboards)
        if file is None:
            continue
        recipes = {
            (job.head, job.modality, job.fraction): grouped(job.score.recipe_digest)
            for job in jobs_of(entry, task, cohort, 0, asked)
            if _stands_on(job.score, method)
        }
        for row in file["rows"]:
            key = (row["head"], row["modality"], row["fraction"])
            if (
                recipes.get(key) == row["result"]["recipe_digest"]
                and row["result"]["cohort_fingerprint"] == grouped(cohort.digest)
                and row["result"]["task_version"] == task.version
                and _is_primary(row, task)
            ):
                found.append(_score(row, task))
    return found


def _stands_on(score: Any, method: Method) -> bool:
    recipe = method.recipe_digest
    return any(stage.recipe_digest == recipe for stage in topological([score]))


def _is_primary(row: dict[str, Any], task: Task) -> bool:
    return row["target"] == MEAN and row["metric"] == task.primary.get(row["modality"])


def _score(row: dict[str, Any], task: Task) -> dict[str, Any]:
    result = row["result"]
    kept = ("status", "value", "lo", "hi", "n", "seeds", "chance")
    return {
        "task": task.name,
        "title": task.title,
        **{name: row[name] for name in ("head", "modality", "metric", "fraction")},
        **{name: result[name] for name in kept},
        "targets": len(result.get("targets") or ()),
        "one_checkpoint": ONE_CHECKPOINT in result["notes"],
    }


def render_card(about: dict[str, Any], onnx: bool) -> str:
    """Return the card as Markdown with the front matter that model hubs read."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters |= {"cell": _cell, "number": lambda x: f"{x:.3f}"}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    shown = {k: v for k, v in about["recipe"].items() if k not in ("cohort", "seed", "task")}
    settings = [(name, _in_words(value)) for name, value in shown.items()]
    return template.render(about=about, onnx=onnx, settings=settings)


def _in_words(value: Any) -> str:
    """Return a field as one line: of a nested setting its own fields, of a deeper one its name."""
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    if not isinstance(value, dict):
        return str(value) or "none"
    fields = {k: v for k, v in value.items() if k not in ("name", "version")}
    if any(isinstance(v, dict) for v in fields.values()):
        return f"{value['name']}, see `config.json`"
    return f"{value['name']}: " + ", ".join(f"{k} {_in_words(v)}" for k, v in fields.items())


def _cell(value: Any) -> str:
    """Return a text as a table's cell."""
    return str(value).replace("|", "\\|").replace("\n", " ")
