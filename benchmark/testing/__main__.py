"""``python -m benchmark.testing NAME...``: the conformance kit on the shell."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# Before torch is loaded: spinning threads of libgomp make a step many times slower as soon as
# something else uses a core.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from benchmark.api import UserError
from benchmark.names import suggestion
from benchmark.registry import registry
from benchmark.testing.cohorts import CohortSubject
from benchmark.testing.fingerprints import record
from benchmark.testing.methods import MethodSubject
from benchmark.testing.report import Report, Skipped, Subject, report
from benchmark.testing.tasks import TaskSubject

FILE = Path("tests/fingerprints.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check plugins, or record their fingerprints; return 0, 1 for a failure, 2 for a bad call."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.testing",
        description="Check that a method, task or cohort keeps what comparisons rely on.",
        epilog="example: python -m benchmark.testing my-method",
    )
    parser.add_argument("name", nargs="+", help="of methods, tasks or cohorts")
    parser.add_argument("--track", help="of methods; by default the first each is part of")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.add_argument(
        "--fingerprints",
        type=Path,
        metavar="FILE",
        help=f"recorded fingerprints to compare with (default: {FILE}, where it is)",
    )
    parser.add_argument(
        "--write-fingerprint",
        type=Path,
        nargs="?",
        const=FILE,
        metavar="FILE",
        help=f"record what the plugins compute instead of checking (default: {FILE})",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    subjects = list(_subjects(options.name, options.track))
    if options.write_fingerprint:
        return _record(subjects, options.write_fingerprint)
    file = options.fingerprints or (FILE if FILE.exists() else None)
    if options.fingerprints and not file.exists():
        raise UserError(f"there is no {file}; --write-fingerprint {file} makes it")
    found: list[Report] = []
    for subject in subjects:
        found.append(report(subject.checks(file, None)))
        if not options.json:
            print(found[-1], flush=True)
    if options.json:
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=1))
    return 0 if all(each.ok for each in found) else 1


def _record(subjects: Sequence[Subject], path: Path) -> int:
    if not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.absolute().parent} to write {path.name} to")
    for subject in subjects:
        try:
            record(subject, path)
        except Skipped as error:
            raise UserError(f"{subject.title} computes nothing here: {error}") from None
        print(f"{subject.title}: recorded in {path}")
    return 0


def _subjects(names: Sequence[str], track: str | None) -> Iterator[Subject]:
    """Yield everything that is called so; raises `UserError` for what is nothing."""
    known = registry()
    for name in names:
        base = name.partition("[")[0]
        found: list[Subject] = []
        if base in known.methods:
            found.append(MethodSubject.of(name, track=track))
        if name in known.tasks:
            found.append(TaskSubject.of(name))
        if name in known.cohorts:
            found.append(CohortSubject.of(name))
        if not found:
            if name in {b.rpartition(".")[2].replace("_", "-") for b in known.broken}:
                known.method(name)
            everything = [*known.methods, *known.tasks, *known.cohorts]
            raise UserError(f"no plugin is called {name!r}; {suggestion(name, everything)}")
        yield from found


if __name__ == "__main__":
    sys.exit(main())
