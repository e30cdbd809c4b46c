"""A page for every task of the project."""

from __future__ import annotations

from text import BLANK, facts, first_line, paragraphs, table

from benchmark.api import Metric, Task
from benchmark.registry import registry

FOLDER = "reference/tasks"

INTRODUCTION = """\
# Tasks

A task says who is eligible, what is predicted and how it is scored; how a score is computed is on
[how every number is computed](../../numbers.md). Diagnostics look into representations: they are
reported and never ranked.
"""


def pages() -> dict[str, str]:
    """Return the pages by path, the index first."""
    tasks = [task for task in registry().tasks.values() if type(task).__module__[:6] == "tasks."]
    rows = [
        [f"[`{t.name}`]({t.name}.md)", t.title, t.kind, str(len(t.names) or BLANK), _endpoint(t)]
        for t in tasks
    ]
    index = table(["task", "what", "kind", "targets", "primary endpoint"], rows)
    return {
        f"{FOLDER}/index.md": f"{INTRODUCTION}\n{index}\n",
        **{f"{FOLDER}/{task.name}.md": _page(task) for task in tasks},
    }


def _endpoint(task: Task) -> str:
    return ", ".join(f"{m} ({modality})" for modality, m in task.primary.items()) or BLANK


def _page(task: Task) -> str:
    cls = type(task)
    known = {
        "kind": task.kind,
        "version": str(task.version),
        "file": f"`{cls.__module__.replace('.', '/')}.py`, class `{cls.__name__}`",
        "primary endpoint": _endpoint(task),
        "compared with": _by_modality(task.reference),
        "gap closes towards": _by_modality(task.goal),
        "tests": "fixed in advance as primary" if task.confirmatory else "secondary",
        "needs of a cohort": ", ".join(task.needs) or BLANK,
        "labels of label-using methods": f"those of `{task.supervision or task.name}`",
        "fewest training people of a cell": str(task.minimum_training or BLANK),
    }
    text = [f"# {task.name}", f"{task.title}. {first_line(cls)}", *paragraphs(cls)]
    text.append(facts(known))
    text.append("## Metrics")
    text.append(table(["metric", "better", "bounds", "what"], list(map(_metric, task.metrics))))
    if task.names:
        groups = {name: group for group, names in task.groups.items() for name in names}
        rows = [[f"`{n}`", task.units.get(n, BLANK), groups.get(n, BLANK)] for n in task.names]
        text += ["## Targets", table(["target", "unit", "group"], rows)]
    return "\n\n".join(text) + "\n"


def _by_modality(names: dict[str, str]) -> str:
    return ", ".join(f"`{name}` ({modality})" for modality, name in names.items()) or BLANK


def _metric(metric: Metric) -> list[str]:
    lo, hi = (f"{bound:g}".replace("inf", "∞") for bound in metric.bounds)
    better = "higher" if metric.higher_is_better else "lower"
    return [f"`{metric.name}`", better, f"{lo} to {hi}", first_line(type(metric))]
