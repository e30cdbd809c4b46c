"""``ecgcmr compare``: two methods on every task, in numbers and in a sentence each."""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmark.cli.common import add_place, command, make_request

EXAMPLES = """\
Reads recorded rows, and the scores in the store where those do not compare this pair; trains
nothing. The tests are paired over the same test people, and corrected (Holm) for the number of
comparisons printed together.

exit code: 0 something was compared, 1 nothing was, 2 asked wrongly

examples:
  ecgcmr compare ptacl mae                         every task, all labels
  ecgcmr compare ptacl mmcl --task phenotype --fraction 0.1
  ecgcmr compare ptacl mae --json
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "two methods on every task, in numbers and in words"
    compare = command(commands, "compare", _compare, purpose, examples=EXAMPLES)
    compare.add_argument("a", metavar="A", help="a method")
    compare.add_argument("b", metavar="B", help="another one")
    compare.add_argument("--task", default="all", metavar="NAMES", help="tasks (default all)")
    compare.add_argument(
        "--fraction", type=float, default=1.0, metavar="F", help="share of the labels (default 1.0)"
    )
    compare.add_argument(
        "--head", default="", metavar="NAME", help="what both are read under (default: their own)"
    )
    compare.add_argument(
        "--modality",
        default="",
        metavar="NAME",
        help="the encoder that is compared: ecg or cmr (default: wherever a task has an endpoint)",
    )
    compare.add_argument(
        "--margin",
        type=float,
        default=0.01,
        metavar="D",
        help="scores that differ by less are practically equal (default 0.01)",
    )
    compare.add_argument("--json", action="store_true", help="for programs")
    add_place(compare)


def _place(options: argparse.Namespace) -> list[str]:
    """Return the options of `add_place` that were given."""
    parser = argparse.ArgumentParser()
    add_place(parser)
    usual = vars(parser.parse_args([]))
    given = {name: getattr(options, name) for name in usual}
    return [text for n, v in given.items() if v != usual[n] for text in (f"--{n}", str(v))]


def _compare(options: argparse.Namespace) -> int:
    from benchmark.compare import compare
    from benchmark.compare_text import as_json, text
    from benchmark.engine.store import Store
    from benchmark.planning import expand

    request = make_request(
        options,
        methods=(options.a, options.b),
        tasks=expand(options.task, "task"),
        fractions=(options.fraction,),
        modality=options.modality,
    )
    pairs = compare(
        options.a,
        options.b,
        request,
        Store(),
        options.leaderboards,
        head=options.head,
        margin=options.margin,
    )
    print(json.dumps(as_json(pairs), indent=1) if options.json else text(pairs, _place(options)))
    return 0 if any(pair.difference is not None for pair in pairs) else 1
