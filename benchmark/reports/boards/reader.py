"""The reader's box: what the numbers of a board cover, what not, and how they were tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.evaluation.score import TEST_POSITIVES
from benchmark.reports.boards.info import DIAGNOSTIC, RETRIEVAL, WIDEST
from benchmark.reports.boards.text import PRIMARY, in_common, number, places, short
from benchmark.reports.rows import ONE_CHECKPOINT, UNDERPOWERED

STANDARD, FEW_LABELS_STANDARD, FEW_LABELS = 5, 10, 0.01
"""Replicates: the standard deviation over five is itself uncertain by a factor of 0.6 to 2.9."""


def replicates_text(count: int | None) -> str:
    """Return a number of replicates, with what it does to the interval where that is little."""
    if count is None:
        return "-"
    return {1: f"1 ({ONE_CHECKPOINT})", 2: "2 (wide intervals)"}.get(count, str(count))


def reading(record: Mapping[str, Any]) -> list[str]:
    """Return the box, one line for each thing to know, from the rest of the board document."""
    sections = record["sections"]
    lines = [line for section in sections for line in section["lines"]]
    fixed = (
        "Not covered: the choice of hyper-parameters, the split of people, and how many stages a "
        "method trains: a budget is a stage's."
    )
    found = [
        _covered(lines),
        f"{fixed} {_further(record['kind'])}".rstrip(),
        _replicates({x["replicates"] for x in lines if x["value"] is not None}, sections),
    ]
    if record["kind"] == DIAGNOSTIC:
        found.append("A diagnostic says what a representation holds: nobody is ranked or tested.")
    else:
        found += [
            "Rank: the places a method can have, from paired tests of all pairs of its block (and "
            "of the block with the reference) under Holm's correction at 5%; methods that share a "
            "letter are not told apart, and a pair that is not compared counts as not told apart.",
            "Families: each ranked block of a section is one under Holm's correction, with the "
            "reference where that stands outside. Primary is that of the methods that learn "
            "without labels, in a section whose endpoint is primary; all others are secondary. "
            "There is no correction across blocks, sections or boards.",
            "Per target (secondary): differences to the reference with a dot (·) where the "
            "Benjamini-Hochberg q is at most 5%, over all methods of a block and all targets; "
            "means over groups of targets are a family of their own.",
            "Resolves: the true difference to the reference that the paired test would find with "
            "80% power.",
            *_between_replicates(lines),
            *_common(sections),
            *_positives(sections),
            *_effects(sections),
        ]
    found.append(f"Plan (families, endpoints, references): `{short(record['plan']['digest'])}`.")
    return found


def _covered(lines: Iterable[Mapping[str, Any]]) -> str:
    replicates = {line["replicates"] for line in lines if line["value"] is not None}
    if replicates == {1}:
        covers = f"the test people only: every row is {ONE_CHECKPOINT}"
    elif 1 in replicates:
        covers = (
            f"the test people and the training replicates; rows marked {ONE_CHECKPOINT!r} "
            "cover the people only"
        )
    else:
        covers = "the test people and the training replicates (pretraining, head and label subset)"
    return f"Values are means over replicates; brackets are 95% intervals that cover {covers}."


def _further(kind: str) -> str:
    if kind == DIAGNOSTIC:
        return ""
    if kind == RETRIEVAL:
        return "Every test person is a query once; the gallery is treated as fixed."
    return "Label fractions count training people; validation labels are not subsampled."


def _replicates(counts: set[int], sections: Iterable[Mapping[str, Any]]) -> str:
    if not counts:
        return "Replicates: none yet."
    fewest = min(counts)
    shown = str(fewest) if len(counts) == 1 else f"{fewest} to {max(counts)}"
    says = {
        1: "what is said holds for the trained checkpoints, not for the methods",
        2: "intervals are allowed and wide",
    }.get(fewest, "enough to compare" if fewest < STANDARD else "the standard")
    standard = f"{STANDARD} are the standard" if fewest < STANDARD else ""
    few = any(section["fraction"] <= FEW_LABELS for section in sections)
    if few and fewest < FEW_LABELS_STANDARD:
        at_few = f"{FEW_LABELS_STANDARD} at {100 * FEW_LABELS:g}% of labels"
        standard = f"{standard}, {at_few}" if standard else f"{at_few} would be"
    return f"Replicates: {shown}, {says}{f' ({standard})' if standard else ''}."


def _between_replicates(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say how few replicates are made to do."""
    if not any(line["value"] is not None and line["replicates"] > 1 for line in lines):
        return []
    return [
        "Between replicates: in a family, and among a block's differences to a reference, no pair "
        "counts as less variable than all are on average, and all share their degrees of freedom. "
        "A difference to a control, and an interval of a single method, has its own replicates "
        "alone, and of two or three may be very wide."
    ]


def _common(sections: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what is compared where the methods of a section differ in their replicates."""
    counts = ({x["replicates"] for x in s["lines"] if x["value"] is not None} for s in sections)
    if all(len(found) < 2 for found in counts):
        return []
    return [
        "Methods differ in their replicates. Differences, tests, the ranks from them and gaps "
        "closed are of the replicates that all concerned have, so that a difference need not be "
        "that of the two values shown. With one in common, a test within a family, or of a block "
        "against a reference, takes the variance between replicates from the others; any other "
        "covers the people only, tells checkpoints apart, and more easily than several replicates "
        "would tell their methods."
    ]


def checkpoints_text(section: Mapping[str, Any], block: str) -> str:
    """Say how many pairs of a family are of one replicate, where others are of more."""
    members = {line["method"]: line for line in section["lines"] if line["block"] == block}
    outsider = section["families"][block]["outsider"]
    lines = {line["method"]: line for line in section["lines"]}
    tested = [
        in_common(lines[pair["a"]], lines[pair["b"]])
        for pair in section["pairs"]
        if pair["p_holm"] is not None
        and ({pair["a"], pair["b"]} - members.keys()) <= {outsider}
        and members.keys() & {pair["a"], pair["b"]}
    ]
    single = tested.count(1)
    if single in (0, len(tested)):
        return ""
    return (
        f"In {single} of the {len(tested)} pairs compared, the two methods have one replicate in "
        "common: the variance between replicates is the family's in these tests."
    )


def _positives(sections: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say how many positives every target has, and where a missing difference says little."""
    counts: dict[str, Any] = {}
    for section in sections:
        for cell in section["cells"]:
            if cell["positives"] is not None:
                counts.setdefault(cell["target"], cell["positives"])
    if not counts:
        return []
    shown = {target: positives_text(count) for target, count in counts.items()}
    if len(counts) > WIDEST:
        shown = {target: text for target, text in shown.items() if "(" in text}
    parts = [f"{target} {text}" for target, text in shown.items()]
    return [
        f"Positives among the test people: {', '.join(parts) or 'no target has few'}. Tests of "
        f"targets with fewer than {UNDERPOWERED} are underpowered: a difference that is not found "
        "there says little."
    ]


def positives_text(count: int | str) -> str:
    """Return a count of positives, marked where nothing is scored or tests are underpowered."""
    if isinstance(count, str) or count < TEST_POSITIVES:
        return f"{count} (too few)"
    return f"{count} (underpowered)" if count < UNDERPOWERED else str(count)


def _effects(sections: Iterable[Mapping[str, Any]]) -> list[str]:
    texts = []
    for goal in sorted({section["goal"] for section in sections if section["goal"]}):
        lines = [line for section in sections for line in section["lines"]]
        if any(line["gap_closed"] for line in lines):
            texts.append(
                f"Gap closed: share of the way from the reference to {goal} that a method covers "
                f"[95% interval]; blank where {goal} is not above the reference."
            )
        elif any(line["method"] == goal and line["value"] is not None for line in lines):
            texts.append(
                f"Gap closed: nowhere shown, since {goal} is not above the reference or was not "
                "compared with it."
            )
    if any(line["label_factor"] for section in sections for line in section["lines"]):
        texts.append(
            "Labels needed: the share of labels with which the reference would reach the method's "
            "score, interpolated between the fractions of this board on the logarithm of labels."
        )
    return texts


def family_text(block: str, family: Mapping[str, Any]) -> str:
    """Say what a family is and who belongs to it."""
    members = f"{family['members']} {block} method{'s' * (family['members'] > 1)}"
    outsider = f" and {family['outsider']}" if family["outsider"] else ""
    return f"{PRIMARY[family['primary']]}, {members}{outsider}"


def resolves_text(section: Mapping[str, Any]) -> str:
    """Return the true differences to the reference that a section's tests can find."""
    found = sorted(
        d["resolvable"]
        for line in section["lines"]
        if line["block"] != "unranked" and (d := line["difference"]) and d["resolvable"] is not None
    )
    if not found:
        return ""
    digits = places(found[0] / 2)
    spread = number(found[0], digits)
    if len(found) > 1 and number(found[-1], digits) != spread:
        spread = f"{spread} to {number(found[-1], digits)}"
    return (
        f"The tests against {section['reference']} resolve true differences of {spread} "
        f"{section['metric']} with 80% power."
    )
