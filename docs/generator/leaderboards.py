"""Writes the tables of the boards' own page: ``python docs/generator/leaderboards.py``.

They follow from the recorded rows and the papers' numbers; the words between them are written by
hand.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from text import BLANK, table

from benchmark import orderings
from benchmark.planning import Request
from benchmark.registry import registry
from benchmark.reports.boards.info import DIAGNOSTIC
from benchmark.reports.boards.recorded import MEAN
from benchmark.reports.boards.sections import Compared
from benchmark.reports.boards.text import percent, signed
from benchmark.reports.orderings import (
    APART,
    NO_NUMBER,
    NOT_RUN,
    OPEN,
    OPPOSITE,
    SAME,
    Ordering,
    by_mean,
    row_of,
)
from benchmark.reports.published import tables

ROOT = Path(__file__).resolve().parents[2]
LEADERBOARDS = ROOT / "leaderboards"
PAGE = LEADERBOARDS / "README.md"
SCALES = ("tiny", "small")
"""Of the boards that are committed; one without rows is left out."""
BLOCK = re.compile(
    r"(<!-- (\w+): python docs/generator/leaderboards\.py -->\n).*?(<!-- end of \2 -->\n)",
    re.DOTALL,
)
QUESTIONS = {
    "training on ECGs alone, over an untrained encoder": ("mae", "random-init"),
    "MMCL's guidance by CMR": ("mmcl", "mae"),
    "PTACL's guidance by CMR": ("ptacl", "mae"),
    "the right person's CMR, over a stranger's": ("mmcl", "mmcl-permuted-pairs"),
    "the right phase of the beat, over a shuffled one": ("ptacl", "ptacl-shuffled-phase"),
    "the same training on strangers' CMR": ("mmcl-permuted-pairs", "mae"),
    "starting from the masked autoencoder": ("mmcl", "mmcl-wo-mdm"),
    "a frozen CMR encoder that learned phenotypes": ("mmcl-label-frozen", "mmcl"),
    "MMCL over training on the labels alone": ("mmcl", "supervised"),
    "MMCL over the median beat, nothing learned": ("mmcl", "ecg-features"),
    "MMCL over age, sex and body size, no ECG": ("mmcl", "tabular"),
    "seeing the images, over MMCL": ("cmr-supervised", "mmcl"),
}
"""What the difference of two methods isolates."""
MODALITIES = {"tabular": "covariates", "cmr-supervised": "cmr"}
"""What is read by those of them that do not read the ECG."""
ENDPOINTS = (
    ("phenotype", 1.0),
    ("phenotype", 0.1),
    ("phenotype", 0.01),
    ("cvd", 1.0),
    ("retrieval", 1.0),
)
KINDS = {"regression": "phenotypes", "classification": "diseases", "retrieval": "retrieval"}
IMAGES = ", an image encoder among the two"
GAPS = ("beyond the paper's own error", "within it: open", "error not known")
"""How large a published difference is."""


def recorded(scale: str) -> dict[str, Compared]:
    """Return what is recorded of every task that is ranked."""
    names = [name for name, task in registry().tasks.items() if task.kind != DIAGNOSTIC]
    return orderings.boards(Request(methods=(), tasks=(), scale=scale), LEADERBOARDS, names)


def coverage(boards: Mapping[str, Compared]) -> str:
    """Return how many of the methods of each board have rows at each fraction of the labels."""
    fractions = sorted({f for board in boards.values() for f in board.info.fractions}, reverse=True)
    rows = []
    for name, board in boards.items():
        found = [_covered(board, f) if f in board.info.fractions else BLANK for f in fractions]
        rows.append([f"[{name}]({_folder(board)}/{name}.md)", *found])
    heads = ["board", *(f"{percent(f)} of labels" for f in fractions)]
    return table(heads, rows)


def _folder(board: Compared) -> str:
    file = board.files[0]
    return "-".join(file[k] for k in ("cohort", "preset", "scale") if file.get(k))


def _covered(board: Compared, fraction: float) -> str:
    """Return how many methods there are of how many, and in how many replicates."""
    modality, metric = next(iter(board.info.primary.items()))
    near = {modality, "cmr", "covariates"}
    replicates = {}
    for (name, _, own, target, measured, at), result in board.results.items():
        if own in near and (target, measured, at) == (MEAN, metric, fraction):
            replicates[name] = max(result["replicates"], replicates.get(name, 0))
    expected = {
        m.name for m in board.methods if {(x, fraction) for x in near} & (m.places or set())
    }
    of = len(expected | replicates.keys())
    if not replicates:
        return f"0 of {of} methods"
    counts = sorted(set(replicates.values()))
    often = "-".join(map(str, counts[:: max(len(counts) - 1, 1)]))
    plural = "" if counts == [1] else "s"
    return f"{len(replicates)} of {of} methods, {often} replicate{plural}"


def findings(boards: Mapping[str, Compared]) -> str:
    """Return what each part of a method is worth on the primary endpoints."""
    endpoints = [e for e in ENDPOINTS if e[0] in boards]
    heads = ["what is asked", "difference"]
    for name, fraction in endpoints:
        board = boards[name]
        share = f", {percent(fraction)} of labels" if len(board.info.fractions) > 1 else ""
        heads.append(f"{name}: {next(iter(board.info.primary.values()))}{share}")
    rows = []
    for question, pair in QUESTIONS.items():
        cells = [_difference(boards[name], pair, fraction) for name, fraction in endpoints]
        rows.append([question, f"`{pair[0]}` - `{pair[1]}`", *cells])
    return table(heads, rows)


def _difference(board: Compared, pair: tuple[str, str], fraction: float) -> str:
    task = registry().task(board.info.name)
    lines = [row_of(task, (name, MODALITIES.get(name, "ecg"))) for name in pair]
    metric = next(iter(task.primary.values()))
    d = board.tested(*lines, (MEAN, metric, fraction))
    if d is None:
        return BLANK
    text = signed({"value": d.value, "lo": d.lo, "hi": d.hi, "se": math.sqrt(d.v)})
    apart = d.lo is not None and (d.lo > 0 or d.hi < 0)
    return f"**{text}**" if apart else text


def summary(boards: Mapping[str, Compared]) -> str:
    """Return how many orderings of means came out how, each printed pair once."""
    every = {(x.task, x.above, x.below, round(x.gap, 9)): x for x in _means(boards)}
    groups: dict[tuple[str, str], list[Ordering]] = {}
    for x in every.values():
        groups.setdefault((_kind(x), _gap(x)), []).append(x)
    kinds = [f"{kind}{images}" for kind in KINDS.values() for images in ("", IMAGES)]
    rows = [
        [kind, gap, *_counted(groups[kind, gap])]
        for kind, gap in itertools.product(kinds, GAPS)
        if (kind, gap) in groups
    ]
    heads = ["what", "published gap", "orderings", f"{SAME}, {APART}", f"{SAME}, {OPEN}"]
    return table([*heads, f"{OPPOSITE}, {OPEN}", f"{OPPOSITE}, {APART}", "none here"], rows)


def _kind(x: Ordering) -> str:
    images = IMAGES if "cmr" in (x.above[1], x.below[1]) else ""
    return KINDS[registry().task(x.task).kind] + images


def _gap(x: Ordering) -> str:
    beyond, within, unknown = GAPS
    return unknown if x.error is None else within if x.close else beyond


def _means(boards: Mapping[str, Compared]) -> Iterator[Ordering]:
    for published in tables().values():
        yield from by_mean(published, boards)


def _counted(found: Iterable[Ordering]) -> list[str]:
    count = Counter((x.order, x.strength) for x in found)
    shown = [(SAME, APART), (SAME, OPEN), (OPPOSITE, OPEN), (OPPOSITE, APART)]
    absent = count[NOT_RUN, ""] + count[NO_NUMBER, ""]
    return [str(count.total()), *(str(count[x] or BLANK) for x in shown), str(absent or BLANK)]


MAKERS = {
    "coverage": coverage,
    "findings": findings,
    "summary": summary,
    "turned": lambda boards: orderings.turned(tables().values(), boards),
    "claims": lambda boards: orderings.claims(tables().values(), boards),
    "counts": lambda boards: orderings.counts(tables().values(), boards),
}


def text() -> str:
    """Return the page with its tables made again."""
    boards = {scale: found for scale in SCALES if (found := recorded(scale))}
    current = PAGE.read_text(encoding="utf-8")
    missing = MAKERS.keys() - {name for _, name, _ in BLOCK.findall(current)}
    if missing:
        raise ValueError(f"{PAGE} has no place for {', '.join(sorted(missing))}")

    def made(found: re.Match[str]) -> str:
        parts = []
        for scale, board in boards.items():
            parts += [f"Scale `{scale}`:"] if len(boards) > 1 else []
            parts.append(MAKERS[found[2]](board) or "None.")
        body = "\n\n".join(parts)
        return f"{found[1]}{body}\n{found[3]}"

    return BLOCK.sub(made, current)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
