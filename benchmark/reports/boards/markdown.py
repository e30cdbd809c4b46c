"""A board as Markdown, from its document: the endpoint first, provenance last."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.reports.boards.document import caveat, folder_name
from benchmark.reports.boards.endpoint import (
    against_references,
    provenance,
    ranking,
    warnings,
)
from benchmark.reports.boards.grids import other_metrics, over_groups, per_target
from benchmark.reports.boards.info import (
    DIAGNOSTIC,
    LABEL_FREE,
    LABEL_USING,
    NOT_APPLICABLE,
    NOT_RUN,
    OTHER,
    RANKED_BLOCKS,
    UNRANKED,
    WIDEST,
)
from benchmark.reports.boards.reader import checkpoints_text, family_text, resolves_text
from benchmark.reports.boards.recorded import MEAN, group_target
from benchmark.reports.boards.sections import title
from benchmark.reports.boards.text import (
    BLANK,
    NOT_COMPARED,
    PRIMARY,
    Record,
    estimate,
    labels,
    modality_name,
    natural,
    not_applicable,
    short,
    table,
)

HEADINGS = {
    LABEL_FREE: "representations learned without labels",
    LABEL_USING: "representations learned with labels",
    UNRANKED: "References and controls, not ranked",
}
ORACLES = {
    "ecg": "oracle of the ECG",
    "cmr": "oracle of the CMR",
    "covariates": "oracle of the covariates",
    "truth": "phenotypes without measurement noise",
}


def markdown(document: Record) -> str:
    """Return the Markdown of a board document."""
    parts = heading(document)
    if document["cohort"] is None:
        return "\n\n".join([*parts, "Nothing run yet."]) + "\n"
    parts.append(
        f"Cohort {folder_name(document)} (fingerprint `{short(document['fingerprint'])}`), task "
        f"`{document['task']}` version {document['version']}, {document['track']} track."
    )
    parts += alarm(document)
    parts.append("\n".join(f"- {line}" for line in document["reading"]))
    parts += _ceilings(document)
    for section in document["sections"]:
        parts += _section(section, document)
    parts += _not_ranked(document)
    return "\n\n".join(parts) + "\n"


def heading(document: Record) -> list[str]:
    """Return the title, and whose people these are."""
    parts = [f"# {document['title']}"]
    if caution := caveat(document):
        parts.append("> **{}** {}".format(*caution))
    return parts


def alarm(document: Record) -> list[str]:
    """Say whether anybody exceeds the ceiling of what it sees."""
    if document["no_ceilings"]:
        return [document["no_ceilings"]]
    if not document["ceilings"]:
        return []
    count, missing, found = (document[k] for k in ("leak_cells", "leak_unchecked", "leaks"))
    tests = "(one-sided paired tests, Holm's correction over all of them, 5%)"
    rest = f" {missing} more cells {NOT_COMPARED} with their ceiling." if missing else ""
    if not found:
        return [f"Leak check: none of the {count} cells exceeds its ceiling {tests}.{rest}"]
    head = (
        f"**LEAK ALARM: {len(found)} of {count} cells exceed the ceiling of what the method "
        f"sees {tests}. It has seen something else.**{rest}"
    )
    return [head, "\n".join(f"- **{line}**" for line in found)]


def _ceilings(document: Record) -> list[str]:
    leading = document["sections"][0]["metric"] if document["sections"] else ""
    endpoint = document["ceiling_endpoint"]
    found = {
        (entry["modality"], entry["target"]): entry
        for entry in document["ceilings"]
        if entry["metric"] == leading and entry.get("targets", endpoint) == endpoint
    }
    groups = {group_target(name) for name in document["groups"]}
    known = [t for t in dict.fromkeys(t for _, t in found) if t != MEAN]
    targets = [t for t in known if t not in groups]
    if len(targets) > WIDEST:
        targets = [t for t in known if t in groups]
    targets.sort(key=lambda t: (endpoint.index(t) if t in endpoint else len(endpoint), natural(t)))
    columns = [MEAN, *targets]
    rows = [
        [
            name,
            *(estimate(found[modality, t]) if (modality, t) in found else BLANK for t in columns),
        ]
        for modality, name in ORACLES.items()
        if any((modality, t) in found for t in columns)
    ]
    if not rows:
        return []
    text = (
        f"What can be known of the labels of the test people, as {leading} [95% interval]. An "
        "oracle reads the true parameters that the input was drawn from, fitted on "
        f"{document['ceiling_people']:,} other people of the same population. Share of ceiling: "
        "how far a method came from chance to the oracle of what it sees; blank where the ceiling "
        "is not above chance."
    )
    if endpoint:
        text += f" The mean is over {_listed(endpoint)}."
    return ["## Ceilings", text, table(["", *columns], rows)]


def _listed(targets: Sequence[str]) -> str:
    return ", ".join(targets) if len(targets) <= WIDEST else f"all {len(targets)} targets"


# ---------------------------------------------------------------------------------- section


def _section(section: Record, document: Record) -> list[str]:
    lines = [line for line in section["lines"] if line["status"] != NOT_APPLICABLE]
    parts = ranked_blocks(section, document)
    if all(line["digest"] is None for line in lines):
        return parts
    parts += against_references(section)
    parts += warnings(lines)
    parts += over_groups(section, document)
    parts += per_target(section, document)
    parts += other_metrics(section)
    parts += ["Provenance:", provenance(lines)]
    return parts


def ranked_blocks(section: Record, document: Record) -> list[str]:
    """Return what a section says of its endpoint: who is missing, and a table for each block."""
    parts = [f"## {title(section)}"]
    lines = [line for line in section["lines"] if line["status"] != NOT_APPLICABLE]
    if all(line["digest"] is None for line in lines):
        others = any(line["status"] == OTHER for line in lines)
        return [*parts, "No comparable rows, see below." if others else "Nothing run yet."]
    first = next(s["head"] for s in document["sections"])
    caption = NOT_RUN.capitalize() if section["head"] == first else f"With this head {NOT_RUN}"
    if section["not_run"]:
        parts.append(f"{caption}: {', '.join(section['not_run'])}.")
    if missing := not_applicable(section):
        parts.append(f"{NOT_APPLICABLE.capitalize()}: {missing}.")
    parts.append(_endpoint(section, document))
    for block, name in HEADINGS.items():
        members = [line for line in lines if line["block"] == block]
        if not members:
            continue
        ranked = block in RANKED_BLOCKS and document["kind"] != DIAGNOSTIC
        family = section["families"].get(block)
        kind = f" ({PRIMARY[family['primary']]} family)" if family else ""
        parts.append(f"### {f'Ranked: {name}{kind}' if ranked else name[0].upper() + name[1:]}")
        parts.append(ranking(section, members, ranked))
        if family and family["compared"] < family["pairs"]:
            missing = family["pairs"] - family["compared"]
            parts.append(f"{missing} of {family['pairs']} pairs {NOT_COMPARED}.")
        if family and (checkpoints := checkpoints_text(section, block)):
            parts.append(checkpoints)
    return parts


def _endpoint(section: Record, document: Record) -> str:
    over = f" over {_listed(section['endpoint'])}" if section["endpoint"] else " over targets"
    if document["kind"] == DIAGNOSTIC:
        text = f"Shown: {section['metric']}{over if section['endpoint'] else ''}."
    else:
        kind = PRIMARY[section["primary"]].capitalize()
        text = f"{kind} endpoint: mean {section['metric']}{over}."
    if not section["higher_is_better"]:
        text += " Lower is better."
    if section["chance"] is not None:
        text += f" Chance {section['chance']:.4g}."
    if section["reference"]:
        there = any(x["method"] == section["reference"] for x in section["lines"])
        text += f" Reference method: {section['reference']}{'' if there else f', {NOT_RUN}'}."
    families = [
        f"{family_text(block, family)}, {family['pairs']} pair{'s' * (family['pairs'] > 1)}"
        for block, family in section["families"].items()
        if family["pairs"]
    ]
    if families:
        each = ", each its own" if len(families) > 1 else ""
        text += f" Families under Holm's correction{each}: {'; '.join(families)}."
    resolves = resolves_text(section)
    return f"{text} {resolves}" if resolves else text


def _not_ranked(document: Record) -> list[str]:
    rows = [
        [
            *(entry["method"], modality_name(entry["modality"]), entry["head"]),
            *(labels(entry["head"], entry["fraction"]), entry["metric"]),
            *(estimate(entry), str(entry["version"]), short(entry["fingerprint"])),
        ]
        for entry in document["others"]
    ]
    if not rows:
        return []
    headers = ["method", "modality", "head", "labels", "metric", "value [95% interval]"]
    headers += ["task version", "cohort"]
    return ["## Not ranked: other cohort or task version", table(headers, rows)]
