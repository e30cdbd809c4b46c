"""``ecgcmr check`` and ``ecgcmr golden``: whether a change made something worse."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.cli.common import LEADERBOARDS, ROOT, command, relative

GATE = """\
layers:
  A  frozen metrics: every metric, interval, test and letter of made-up predictions (seconds)
  B  fingerprints: losses, features and predictions of every method after a few updates (minutes)
  C  learning smoke: fresh training seeds against stored reference seeds, in two stages (minutes)
  D  recorded rows: nothing missing, the same people, no drop that fresh seeds confirm, a changed
     recipe not inferior (seconds)

exit code: 0 pass, 1 regression (what was measured differs, is missing, or nothing was compared),
2 asked wrongly, 3 inconclusive

examples:
  ecgcmr check                                     layers A, B and D against the last commit
  ecgcmr check --layer D --against v0.1.0          the rows of a release against those of now
  ecgcmr check --layer B --method mae,ptacl        two methods alone
  ecgcmr check --layer C --passes 20               how often unchanged code passes

After a change that is meant, ecgcmr golden writes the references again; review the difference.
"""


GOLDEN = """\
example:
  ecgcmr golden --layer B --method ptacl       after a change of one method that is meant
"""


def add(commands: Any) -> None:
    """Add the commands."""
    check = command(commands, "check", _check, "tell whether a change made something worse")
    purpose = "write the references of check again, for review"
    golden = command(commands, "golden", _golden, purpose, examples=GOLDEN)
    for each, default in ((check, "A,B,D"), (golden, "A,B")):
        each.add_argument(
            "--layer", default=default, metavar="LIST", help=f"some of A,B,C,D (default {default})"
        )
        each.add_argument(
            "--method", default="", metavar="NAMES", help="layers B and C: only these methods"
        )
        each.add_argument(
            "--track", default="harmonised", help="layer B: whose methods (default harmonised)"
        )
        each.add_argument(
            "--golden",
            type=Path,
            default=ROOT / "tests" / "golden",
            metavar="DIR",
            help="where the references are",
        )
    check.epilog, check.formatter_class = GATE, argparse.RawDescriptionHelpFormatter
    check.add_argument(
        "--against",
        default="HEAD",
        metavar="WHAT",
        help="layer D: a git ref, a folder of leaderboards or a rows file (default HEAD)",
    )
    check.add_argument(
        "--leaderboards",
        type=Path,
        default=LEADERBOARDS,
        metavar="DIR",
        help="layer D: the rows that are checked",
    )
    check.add_argument(
        "--passes",
        type=int,
        metavar="N",
        help="layer C: train fresh seeds so often, different ones each time, and count the passes",
    )
    check.add_argument(
        "--summary", type=Path, metavar="FILE", help="append the result to a Markdown file too"
    )
    check.add_argument("--json", action="store_true", help="for programs")


def _gate_options(options: argparse.Namespace, **more: Any) -> Any:
    from benchmark.check import Options
    from benchmark.planning import expand

    return Options(
        layers=tuple(letter.strip() for letter in options.layer.upper().split(",")),
        methods=expand(options.method, "method", options.track) if options.method else (),
        track=options.track,
        folder=options.golden,
        **more,
    )


def _check(options: argparse.Namespace) -> int:
    from benchmark.check import check, passes
    from benchmark.reports.gate import EXIT_CODES, overall, summary

    place = {"against": options.against, "leaderboards": options.leaderboards}
    asked = _gate_options(options, **place)
    verdicts = check(asked) if options.passes is None else passes(asked, options.passes)
    text = summary(verdicts)
    if options.json:
        layers = [{**asdict(verdict), "outcome": verdict.outcome} for verdict in verdicts]
        print(json.dumps({"outcome": overall(verdicts), "layers": layers}, indent=1))
    else:
        print(text, end="")
    if options.summary is not None:
        with options.summary.open("a", encoding="utf-8") as file:
            file.write(text)
    return EXIT_CODES[overall(verdicts)]


def _golden(options: argparse.Namespace) -> int:
    from benchmark.check import rewrite_golden

    for path in rewrite_golden(_gate_options(options)):
        print(relative(path))
    return 0
