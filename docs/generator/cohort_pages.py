"""A page for every cohort of the project."""

from __future__ import annotations

from text import BLANK, facts, first_line, paragraphs, table

from benchmark.api import Cohort
from benchmark.cohorts.prepared import PreparedCohort
from benchmark.cohorts.simulated.cohort import SCALES
from benchmark.cohorts.simulated.presets import PRESETS
from benchmark.registry import registry

FOLDER = "reference/cohorts"

INTRODUCTION = """\
# Cohorts

People with a 12-lead ECG and, where there is any, cine CMR, phenotypes, diagnoses and covariates.
Each is split once by person, 70/15/15, by a public hash of the person's id
(`benchmark.cohorts.splits.split_of`). The digest of a cohort is its fingerprint, and every row
says which one it stands on.
"""


def pages() -> dict[str, str]:
    """Return the pages by path, the index first."""
    known = registry().cohorts
    cohorts = {n: c for n, c in known.items() if c.__module__[:10] == "benchmark."}
    rows = [[f"[`{name}`]({name}.md)", first_line(cls)] for name, cls in cohorts.items()]
    return {
        f"{FOLDER}/index.md": f"{INTRODUCTION}\n{table(['cohort', 'people'], rows)}\n",
        **{f"{FOLDER}/{name}.md": _page(name, cls) for name, cls in cohorts.items()},
    }


def _page(name: str, cls: type[Cohort]) -> str:
    text = [f"# {name}", first_line(cls), *paragraphs(cls)]
    known = {"single people may be shown": "yes" if cls.simulated else "no: aggregates alone"}
    if issubclass(cls, PreparedCohort):
        known["made by"] = f"`{cls.command}`"
    known["file"] = f"`{cls.__module__.replace('.', '/')}.py`, class `{cls.__name__}`"
    text.append(facts(known))
    if cls.simulated:
        sizes = [
            [f"`{scale}`", *(str(size.get(key, BLANK)) for key in ("people", "frames", "size"))]
            for scale, size in SCALES.items()
        ]
        presets = [[f"`{name}`", preset.summary] for name, preset in PRESETS.items()]
        text += ["## Presets", table(["preset", "the population"], presets)]
        text += [
            "## Scales",
            "A dash is the class's default.",
            table(["scale", "people", "frames", "pixels"], sizes),
        ]
    return "\n\n".join(text) + "\n"
