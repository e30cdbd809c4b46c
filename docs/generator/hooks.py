"""MkDocs' hook: adds the pages that are made of the code, the registry and the recorded rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cohort_pages
import command_pages
import method_pages
import task_pages
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent.parent
BOARDS = ROOT / "leaderboards" / "simulated-tiny"
SHOWN = ROOT / "leaderboards" / "README.md"
SECTIONS = {
    "Methods": method_pages.pages,
    "Tasks": task_pages.pages,
    "Cohorts": cohort_pages.pages,
    "Command line": command_pages.pages,
}
"""What stands in the navigation with an index alone, and what makes its pages."""

_made: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """Make the pages and put them below their heading in the navigation."""
    _made.clear()
    for heading, make in SECTIONS.items():
        made = make()
        _made.update(made)
        config.nav = [_with(entry, heading, list(made)) for entry in config.nav]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Hand the pages over, and the boards' own pages beside them."""
    for path, text in _made.items():
        files.append(File.generated(config, path, content=text))
    files.append(File.generated(config, "boards/shown.md", content=_shown()))
    for page in sorted(BOARDS.glob("*.html")):
        files.append(File.generated(config, f"boards/{page.name}", abs_src_path=str(page)))
    for picture in sorted(BOARDS.glob("pictures/*.*")):
        place = f"boards/pictures/{picture.name}"
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    return files


def _shown() -> str:
    """Return the boards' own page, its links leading to the site's pages."""
    text = SHOWN.read_text(encoding="utf-8").replace("](../docs/", "](../")
    text = re.sub(r"\]\(simulated-tiny/[\w-]+\.md\)", "](index.html)", text)
    # What is no part of the site stays a name.
    return re.sub(r"\[([^]]+)\]\((?!\.\./|index\.html)[^)]+\)", r"\1", text)


def _with(entry: Any, heading: str, pages: list[str]) -> Any:
    """Return an entry of the navigation, the section of that heading filled."""
    if not isinstance(entry, dict):
        return entry
    filled = {}
    for name, below in entry.items():
        if name == heading:
            below = pages if len(pages) > 1 else pages[0]
        elif isinstance(below, list):
            below = [_with(item, heading, pages) for item in below]
        filled[name] = below
    return filled
