"""UK Biobank as a cohort."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.api import UserError
from benchmark.cohorts.prepared import PreparedCohort, damaged, data_folder, prepared_folder

if TYPE_CHECKING:
    import numpy as np


WITHDRAWN = "withdrawn.txt"
"""Beside the cohort: everybody who was ever on a list of withdrawn people."""


@dataclass(frozen=True, kw_only=True)
class UKB(PreparedCohort):
    """UK Biobank participants with an ECG and a cine CMR of the same visit."""

    name: ClassVar[str] = "ukb"
    command: ClassVar[str] = "ecgcmr prepare ukb --raw DIR --table FILE --withdrawn FILE"

    @classmethod
    def recheck(cls, current: Mapping[str, Any]) -> None:
        """Refuse a cohort of other diagnoses, or with people who have withdrawn since."""
        _refuse_other_definition(current)
        again = f"run: {current['command']}"
        if current["discard"]:
            raise UserError(
                "people have withdrawn, and what was made with their data is still in the store; "
                + again
            )
        lists = [Path(path) for path in current["withdrawn"]]
        if gone := [path for path in lists if not path.is_file()]:
            raise UserError(
                f"the list of withdrawn people {gone[0]} is gone; give the latest one instead: "
                f"{current['command']}"
            )
        # Also who stood on the lists of a preparation that was not finished.
        lists += [path for path in [prepared_folder(cls.name) / WITHDRAWN] if path.exists()]
        state = tuple((path, *_state(path)) for path in lists)
        if count := _withdrawn_since(data_folder(cls.name, current["fingerprint"]), state):
            raise UserError(
                f"{count:,} of the people in the ukb cohort have withdrawn since it was prepared; "
                + again
            )


def _refuse_other_definition(current: Mapping[str, Any]) -> None:
    """Refuse diagnoses by a definition that once could be chosen: they would pass as clean."""
    try:
        about = json.loads(
            (data_folder(UKB.name, current["fingerprint"]) / "cohort.json").read_text()
        )
        definition = about.get("endpoints", "clean")
    except (OSError, ValueError, AttributeError):
        raise damaged(UKB.name) from None
    if definition == "clean":
        return
    words = shlex.split(current["command"])
    if "--endpoints" in words:
        place = words.index("--endpoints")
        del words[place : place + 2]
    raise UserError(
        f"the ukb cohort was prepared with the diagnoses {definition!r} in place of the clean "
        f"ones; both now stand side by side: run: {shlex.join(words)}"
    )


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=4)
def _withdrawn_since(folder: Path, lists: tuple[tuple[Path, int, int], ...]) -> int:
    """Count the people of a cohort who stand on the lists, read again only when one changes."""
    from benchmark.cohorts.cohort import CohortData
    from benchmark.cohorts.ukb.tables import read_withdrawn

    if not lists:
        return 0
    withdrawn = read_withdrawn(path for path, *_ in lists)
    try:
        people = CohortData(folder).hash_id
    except (OSError, ValueError, KeyError):
        raise damaged(UKB.name) from None
    return int(among(people, withdrawn).sum())


def among(ids: Iterable[int] | Iterable[str], withdrawn: Iterable[int]) -> np.ndarray:
    """Return for each id whether it is among the withdrawn ones.

    As numbers, whatever form they come in: the text "12" is in no list of numbers, and a filter
    that compares the two removes nobody.
    """
    import numpy as np

    return np.isin(
        np.array([int(id) for id in ids], np.int64),
        np.array([int(id) for id in withdrawn], np.int64),
    )
