"""Pictures that lie beside the page, by kind; the page shows those that are of its own rows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.api import UserError

FOLDER = "pictures"
FIELDS = (
    *("kind", "order", "title", "caption", "alt", "file", "width", "height"),
    *("method", "cohort_fingerprint", "recipes"),
)


@dataclass(frozen=True)
class Picture:
    """One file, addressed from the page, with its size in pixels of the page."""

    method: str
    address: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Gallery:
    """All pictures of a kind; ``outdated`` names the methods whose picture is of other rows."""

    where: Mapping[str, str]
    labels: Mapping[str, str]
    title: str
    caption: str
    pictures: Sequence[Picture]
    outdated: Sequence[str]


def galleries(folder: Path, files: Iterable[Mapping[str, Any]]) -> list[Gallery]:
    """Return what the page shows of the pictures beside it.

    Parameters
    ----------
    folder
        Where the page is; pictures and the JSON that describes each are in ``pictures`` below it.
    files
        The recorded rows. A picture of other people, or of another recipe than the row of the same
        method and task, is left out: nobody would know that it shows something else.

    Raises
    ------
    UserError
        When a JSON file there describes no picture.
    """
    people, recipes = set(), defaultdict(set)
    for file in files:
        for row in file["rows"]:
            result = row["result"]
            people.add(result["cohort_fingerprint"])
            made = result["cohort_fingerprint"], result["recipe_digest"]
            recipes[file["task"], file["method"]].add(made)

    def current(told: Mapping[str, Any]) -> bool:
        fingerprint = told["cohort_fingerprint"]
        rows = [(recipes.get((t, told["method"])), r) for t, r in told["recipes"].items()]
        return fingerprint in people and all(
            known is None or (fingerprint, recipe) in known for known, recipe in rows
        )

    kinds: dict[tuple[int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for path in sorted((Path(folder) / FOLDER).glob("[!.]*.json")):
        told = _read(path)
        kinds[told["order"], told["kind"]].append(told)
    return [
        Gallery(
            where={"task": FOLDER, "picture": kind},
            labels={"task": "Pictures", "picture": found[0]["title"]},
            title=found[0]["title"],
            caption=found[0]["caption"],
            pictures=[_picture(told) for told in found if current(told)],
            outdated=[told["method"] for told in found if not current(told)],
        )
        for (_, kind), found in sorted(kinds.items())
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        sound = isinstance(told, dict) and set(FIELDS) <= told.keys()
        # Nothing beside the folder's own files is shown, whatever a description says.
        sound = sound and (path.parent / Path(told["file"]).name).is_file()
    except (ValueError, TypeError):
        sound = False
    if not sound:
        raise UserError(
            f"{path} describes no picture beside it; remove it and run ecgcmr pictures again"
        )
    return told


def _picture(told: Mapping[str, Any]) -> Picture:
    return Picture(
        method=told["method"],
        address=f"{FOLDER}/{Path(told['file']).name}",
        alt=told["alt"],
        width=told["width"],
        height=told["height"],
    )
