"""What is counted over targets: wins and mean ranks. For the eye alone.

Targets depend on each other and are no sample of anything, so that nothing can be inferred from
how many of them a method wins; what is told apart is told by paired tests over people.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from benchmark.reports.boards.info import LABEL_FREE, LABEL_USING, RANKED_BLOCKS
from benchmark.reports.boards.recorded import MEAN, group_target
from benchmark.reports.page.figures import Mark, forest
from benchmark.reports.page.grids import Grid
from benchmark.reports.page.places import Document, Section

HEADINGS = {LABEL_FREE: "learned without labels", LABEL_USING: "learned with labels"}
FEWEST = 10  # targets: a mean rank over fewer moves by whole places with any one of them
SHADES = (0.5, 0.75, 1.0)  # how far from an even share of wins to none or all, for a shade


def wins(document: Document, section: Section) -> Grid | None:
    """Count for ranked methods the targets on which the row is the better one; ties count half."""
    targets, scores = _scores(document, section)
    ranked = [x["method"] for x in section["lines"] if x["block"] in RANKED_BLOCKS]
    names = [name for name in ranked if name in scores]
    if len(targets) < FEWEST or len(names) < 2:
        return None
    rows = []
    for i, a in enumerate(names[:-1]):
        cells: list[tuple[str, int | None]] = [("", None)] * i
        for b in names[i + 1 :]:
            better, even = scores[a] > scores[b], scores[a] == scores[b]
            count = better.sum() + even.sum() / 2
            away = 2 * count / len(targets) - 1
            size = sum(abs(away) >= step for step in SHADES)
            cells.append((f"{count:g}", size if away > 0 else -size))
        rows.append((a, cells))
    return Grid(names[1:], [], rows)


def mean_ranks(document: Document, section: Section) -> list[tuple[str, Markup]]:
    """Draw, for each ranked block, the mean rank of its methods and who is not told apart.

    Ranks are averaged over the targets of each group, then over groups, so that many targets of
    one chamber do not outvote the few of another. Returns headings and figures.
    """
    from scipy.stats import rankdata

    targets, scores = _scores(document, section)
    found = []
    for block in RANKED_BLOCKS:
        lines = [x for x in section["lines"] if x["block"] == block and x["letters"]]
        lines = [x for x in lines if x["method"] in scores]
        if len(targets) < FEWEST or len(lines) < 3:
            continue
        ranks = rankdata([-scores[x["method"]] for x in lines], axis=0)
        groups = [[t in members for t in targets] for members in document["groups"].values()]
        groups = [chosen for chosen in groups if any(chosen)] or [[True] * len(targets)]
        means = np.mean([ranks[:, chosen].mean(1) for chosen in groups], axis=0)
        order = np.argsort(means, kind="stable")
        marks = [Mark(lines[i]["method"], block, float(means[i])) for i in order]
        bars = []
        for letter in sorted({letter for x in lines for letter in x["letters"]}):
            members = sorted(
                float(mean) for x, mean in zip(lines, means, strict=True) if letter in x["letters"]
            )
            if len(members) > 1:
                ends = (members[0], members[-1])
                bars.append(Mark(letter, "letter", members[0], *ends, tuple(members)))
        title = "Mean rank over targets; the table above has the values."
        blocks = {"Mean rank, best first": marks, "Not told apart": bars}
        found.append((HEADINGS[block], forest(blocks, [], title)))
    return found


def _scores(document: Document, section: Section) -> tuple[Sequence[str], dict[str, np.ndarray]]:
    """Return the single targets and, of methods with a value on all, their scores, more better."""
    means = {MEAN, *map(group_target, document["groups"])}
    cells = [c for c in section["cells"] if c["metric"] == section["metric"]]
    cells = [c for c in cells if c["target"] not in means and c["value"] is not None]
    targets = list(dict.fromkeys(cell["target"] for cell in cells))
    sign = 1 if section["higher_is_better"] else -1
    values: dict[str, dict[str, float]] = {}
    for cell in cells:
        values.setdefault(cell["method"], {})[cell["target"]] = sign * cell["value"]
    return targets, {
        name: np.array([own[t] for t in targets])
        for name, own in values.items()
        if len(own) == len(targets)
    }
