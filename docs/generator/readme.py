"""Writes the README's board again from the recorded one: ``python docs/generator/readme.py``."""

from __future__ import annotations

import csv
from pathlib import Path

from text import BLANK, table

from benchmark.reports.boards.text import estimate as shown
from benchmark.reports.boards.text import percent, rank, signed

ROOT = Path(__file__).resolve().parents[2]
BOARD = ROOT / "leaderboards" / "simulated-tiny" / "phenotype.csv"
README = ROOT / "README.md"
BEGIN, END = "<!-- board: python docs/generator/readme.py -->\n", "<!-- end of board -->\n"
METHODS = {
    "mmcl": "",
    "ptacl": "",
    "ptacl-global": "",
    "mmcl-wo-mdm": "",
    "mae": "",
    "cmr-supervised": "sees the images",
    "ecg-features": "no learning",
    "tabular": "no ECG",
    "supervised": "labels alone",
    "mmcl-permuted-pairs": "control",
    "ptacl-shuffled-phase": "control",
    "random-init": "untrained",
}
REFERENCE = "mae"
UNLEARNED = "ecg-features"
CHECKPOINTS = "Each line is one training; another of the same method may rank elsewhere."


def board() -> str:
    """Return the table: some methods, mean over targets, all labels, best first in each block.

    Below it stands how many of all ranked methods pass what learns nothing, and what one replicate
    cannot say, while the board has no more.
    """
    with BOARD.open(newline="", encoding="utf-8") as file:
        every = [line for line in csv.DictReader(file) if _is_meant(line)]
    lines = [line for line in every if line["method"] in METHODS]
    if missing := METHODS.keys() - {line["method"] for line in lines}:
        raise ValueError(f"{BOARD} has no value of {', '.join(sorted(missing))}")
    lines.sort(key=lambda x: (not x["rank_lo"], -float(x["value"])))
    heads = ["rank", "method", "R² [95% interval]", "share of ceiling", f"minus `{REFERENCE}`"]
    single = any(line["replicates"] == "1" for line in lines)
    below = [_passing(every), *([CHECKPOINTS] if single else [])]
    return f"{table(heads, [_row(line) for line in lines])}\n\n{' '.join(below)}"


def _passing(lines: list[dict[str, str]]) -> str:
    value = {line["method"]: float(line["value"]) for line in lines}
    ranked = [line["method"] for line in lines if line["rank_lo"]]
    count = sum(value[name] > value[UNLEARNED] for name in ranked)
    share = (
        f"{count} of the {len(ranked)} ranked methods score"
        if count
        else (f"None of the {len(ranked)} ranked methods scores")
    )
    return f"{share} higher than `{UNLEARNED}` here."


def text() -> str:
    """Return the README with the board in place."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise ValueError(f"{README} has no place for the board")
    return f"{before}{BEGIN}{board()}\n{END}{after}"


def _is_meant(line: dict[str, str]) -> bool:
    place = (line["modality"], float(line["fraction"]), line["section_head"], line["target"])
    wanted = line["metric"] == "R2" and line["status"] == "ok"
    return wanted and place == ("ecg", 1.0, "linear", "mean")


def _row(line: dict[str, str]) -> list[str]:
    def numbers(**names: str) -> dict[str, float | None]:
        return {k: float(line[name]) if line[name] else None for k, name in names.items()}

    value = numbers(value="value", lo="lo", hi="hi", se="se")
    d = numbers(value="difference", lo="difference_lo", hi="difference_hi")
    place = (int(line["rank_lo"]), int(line["rank_hi"])) if line["rank_lo"] else None
    note = METHODS[line["method"]]
    difference = "reference" if line["method"] == REFERENCE else BLANK
    if d["value"] is not None and line["method"] != REFERENCE:
        # As many digits as the standard error has to say something about.
        difference = signed({**d, "se": (d["hi"] - d["lo"]) / (2 * 1.96)})
    share = numbers(share="share_of_ceiling")["share"]
    name = f"`{line['method']}`" + (f" ({note})" if note else "")
    return [rank(place), name, shown(value), percent(share), difference]


if __name__ == "__main__":
    README.write_text(text(), encoding="utf-8")
