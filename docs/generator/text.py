"""How docstrings, values and tables are written as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark.stage import UNSET, Spec, Stage, identity_fields

BLANK = "-"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a bar inside a cell would end it."""
    lines = [heads, ["---"] * len(heads), *rows]
    # Not padded to equal widths: one long cell would be paid for in every row.
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def facts(values: Mapping[str, str]) -> str:
    """Return what is known of a thing, a line each."""
    return "\n".join(f"- {name}: {value}" for name, value in values.items())


def _cell(value: str) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def paragraphs(thing: Any) -> list[str]:
    """Return a docstring's paragraphs after the first line, its lists of names as bullets."""
    found = []
    for block in re.split(r"\n\s*\n", inspect.getdoc(thing) or "")[1:]:
        lines = block.splitlines()
        if len(lines) > 1 and set(lines[1].strip()) == {"-"}:
            found += [f"**{lines[0].strip()}**", "\n".join(_bullets(lines[2:]))]
        else:
            found.append(" ".join(line.strip() for line in lines))
    return found


def _bullets(lines: Sequence[str]) -> Iterator[str]:
    """Turn names and their indented texts into a list."""
    names, words = "", []
    for line in [*lines, "end"]:
        if line.startswith(" "):
            words.append(line.strip())
            continue
        if names:
            yield f"- `{names}`: {' '.join(words)}"
        names, words = line.strip(), []


def first_line(thing: Any) -> str:
    """Return what a docstring says in one line."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def flat(spec: Spec) -> dict[str, Any]:
    """Return what identifies a spec by dotted name; a stage among its fields stays a stage."""
    found: dict[str, Any] = {}
    for field in identity_fields(spec):
        value = getattr(spec, field.name)
        if value is UNSET:
            continue
        if isinstance(value, Spec) and not isinstance(value, Stage):
            found[field.name] = f"`{type(value).__name__}`"
            found.update({f"{field.name}.{key}": inner for key, inner in flat(value).items()})
        else:
            found[field.name] = value
    return found


def shown(value: Any) -> str:
    """Return a field's value."""
    if isinstance(value, str) and value.startswith("`"):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return f"`{value!r}`" if isinstance(value, str) else str(value)
