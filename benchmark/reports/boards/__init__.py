"""Leaderboards: a pure function of rows (``result``, ``versus``, ``gaps``) and ceilings.

Only rows of one task version and one cohort fingerprint are ranked, within one modality, label
fraction and head. What a ranking claims is a rank interval from paired tests, never an order by
value; what is missing is spelt out. `document` computes everything once; Markdown, CSV, JSON and
the page are renderings of it. Cost has its own table, made from ``run``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark.reports.boards.cost import cost_csv, cost_markdown, costs
from benchmark.reports.boards.document import document
from benchmark.reports.boards.info import TRACK, Expected, TaskInfo
from benchmark.reports.boards.markdown import markdown
from benchmark.reports.boards.own import off_board, own_rows, own_sections
from benchmark.reports.boards.records import csv_of
from benchmark.reports.boards.text import json_text, short
from benchmark.reports.ceilings import read_ceilings
from benchmark.reports.files import replace_file
from benchmark.reports.rows import read_rows

__all__ = [
    "TRACK",
    "Expected",
    "TaskInfo",
    "document",
    "off_board",
    "own_rows",
    "own_sections",
    "render",
    "render_index",
    "short",
]


def render(rows_folder: Path | tuple[Path, ...], out_folder: Path, *infos: TaskInfo) -> list[Path]:
    """Write ``<task>.md``, ``.csv`` and ``.json`` of each task, then the cost; return their paths.

    Parameters
    ----------
    rows_folder
        The rows of one cohort, preset and scale, all tasks and tracks; of several folders, later
        ones stand beside earlier ones.
    out_folder
        Where the ceilings of the same people are, if there are any; made when it does not exist.
    infos
        The tasks the boards are of.
    """
    files = _files(rows_folder)
    ceilings = read_ceilings(out_folder)
    texts = {}
    for info in infos:
        board = document(files, info, ceilings)
        texts |= {
            f"{info.name}.md": markdown(board),
            f"{info.name}.csv": csv_of(board),
            f"{info.name}.json": json_text(board) + "\n",
        }
    records = costs(files)
    texts |= {"cost.md": cost_markdown(records), "cost.csv": cost_csv(records)}
    return _write(out_folder, texts)


def render_index(
    rows_folder: Path | tuple[Path, ...], out_folder: Path, tasks: Iterable[str]
) -> list[Path]:
    """Write the pages ``index.html`` and ``cost.html`` of the boards in a folder.

    Parameters
    ----------
    rows_folder
        As for `render`.
    out_folder
        Where `render` has left the boards.
    tasks
        Names in the order in which boards are shown; those without a board are passed over.
    """
    # The page renders documents and so stands on this package.
    from benchmark.reports.page import cost_page, page
    from benchmark.reports.page.pictures import galleries
    from benchmark.reports.published import tables

    paths = [Path(out_folder) / f"{name}.json" for name in tasks]
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    files = _files(rows_folder)
    records = costs(files)
    texts = {
        "index.html": page(documents, tables(), galleries(Path(out_folder), files)),
        "cost.html": cost_page(documents, records),
    }
    return _write(out_folder, texts)


def _files(folders: Path | tuple[Path, ...]) -> list[dict[str, Any]]:
    return read_rows(*(folders if isinstance(folders, tuple) else (folders,)))


def _write(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        replace_file(folder / name, text)
    return [folder / name for name in texts]
