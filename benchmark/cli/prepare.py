"""``ecgcmr prepare``: a cohort of your own files."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.cli.common import add_workers, command, worker_count

UKB_EXAMPLES = """\
example:
  ecgcmr prepare ukb --raw BULK_FOLDER --table TABLE.csv --withdrawn WITHDRAWN.csv --dry-run
"""
WFDB_EXAMPLES = """\
example:
  ecgcmr prepare wfdb --raw PTB_XL_FOLDER
"""


def add(commands: Any) -> None:
    """Add the command."""
    prepare = commands.add_parser(
        "prepare",
        help="make a cohort of your own files",
        description="Make a cohort of your own files; it stays in the private store.",
        epilog=UKB_EXAMPLES + WFDB_EXAMPLES.partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = prepare.add_subparsers(title="cohorts", metavar="COHORT", required=True)

    purpose = "UK Biobank, from its bulk files and tables"
    ukb = command(sources, "ukb", _prepare_ukb, purpose, examples=UKB_EXAMPLES)
    ukb.add_argument(
        "--raw",
        required=True,
        action="append",
        type=Path,
        metavar="DIR",
        help="folder with the files of fields 20205, 20209 and 20208, or images converted to "
        "NIfTI, at any depth; may be given several times",
    )
    ukb.add_argument(
        "--table",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="tables (CSV, TSV or Parquet) with age, sex, sizes, diagnoses and CMR phenotypes",
    )
    lists = ukb.add_mutually_exclusive_group(required=True)
    lists.add_argument(
        "--withdrawn",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="lists of the people who withdrew, one id a line; looked at again on every run",
    )
    lists.add_argument(
        "--no-withdrawn-list", action="store_true", help="say that there is none (simulated people)"
    )
    ukb.add_argument(
        "--crop",
        default="auto",
        choices=("auto", "segmentation", "motion", "inlinevf", "fixed"),
        help="how the heart is found (default auto: segmentation where there is one, else motion)",
    )
    ukb.add_argument("--frames", type=int, default=50, help="per heart beat (default 50)")
    ukb.add_argument("--size", type=int, default=80, help="pixels per side (default 80)")
    ukb.add_argument("--spacing", type=float, default=1.8, help="mm per pixel (default 1.8)")
    ukb.add_argument(
        "--long-axis",
        action="store_true",
        help="keep four-chamber cines too, and leave out people without one",
    )
    ukb.add_argument(
        "--when",
        default="ever",
        choices=("ever", "prevalent", "incident"),
        help="diagnoses at any time (default), up to the visit, or after it",
    )
    add_workers(ukb)
    ukb.add_argument(
        "--dry-run", action="store_true", help="count people and files, and read none of them"
    )
    ukb.add_argument("--json", action="store_true", help="for programs: who is in, and who is not")

    wfdb = command(
        sources,
        "wfdb",
        _prepare_wfdb,
        "public 12-lead ECGs: PTB-XL, or any folder of WFDB records; nothing is downloaded",
        examples=WFDB_EXAMPLES,
    )
    wfdb.add_argument(
        "--raw",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder into which the database is unpacked",
    )
    wfdb.add_argument(
        "--layout",
        default="auto",
        choices=("auto", "ptbxl", "folder"),
        help="PTB-XL with its tables, or every header (.hea) at any depth (default auto)",
    )
    wfdb.add_argument(
        "--records100",
        action="store_true",
        help="read PTB-XL's copies at 100 Hz (done anyway where records500 is missing)",
    )
    _add_sizes(wfdb)
    _add_installed(sources)


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    add_workers(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="count records and people, and read no signal"
    )
    parser.add_argument("--json", action="store_true", help="for programs: who is in, and who not")


def _add_installed(sources: Any) -> None:
    """Add the cohorts of installed packages, known by their entry points: none is imported."""
    for entry in importlib.metadata.entry_points(group="ecgcmr_bench.cohorts"):
        if entry.name in sources.choices:
            continue  # as in the registry, the one that is there keeps the name
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        text = f"a cohort of the package {package}; nothing is downloaded"
        parser = command(sources, entry.name, _prepare_installed, text)
        parser.add_argument(
            "--raw", required=True, type=Path, metavar="DIR", help="folder with its files"
        )
        _add_sizes(parser)
        parser.set_defaults(cohort=entry.name, module=entry.value.partition(":")[0].strip())


def _prepared(prepare: Callable[..., Any], sources: Any, options: argparse.Namespace) -> Any:
    """Prepare a cohort with progress, and print who is in it and who is not."""
    from benchmark.engine.progress import Reporter

    reporter = Reporter()
    try:
        done = prepare(
            sources,
            workers=worker_count(options),
            dry_run=options.dry_run,
            say=reporter.line,
            begin=reporter.begin,
            progress=reporter.progress,
        )
    finally:
        reporter.stop()
    print(json.dumps(done.report.as_json(), indent=1) if options.json else done.report.text())
    return done


def _prepare_ukb(options: argparse.Namespace) -> int:
    from benchmark.cohorts.prepared import stands_on_other
    from benchmark.cohorts.ukb.cohort import UKB
    from benchmark.cohorts.ukb.images import ImageOptions
    from benchmark.cohorts.ukb.prepare import Sources, prepare, settle
    from benchmark.engine.store import Store

    images = ImageOptions(
        frames=options.frames,
        size=options.size,
        spacing=options.spacing,
        crop=options.crop,
        long_axis=options.long_axis,
    )
    sources = Sources(
        raw=tuple(options.raw),
        tables=tuple(options.table),
        withdrawn=tuple(options.withdrawn),
        images=images,
        when=options.when,
    )
    store = Store()
    done = _prepared(prepare, sources, options)
    if done.fingerprint is None:
        return 0
    if done.discard:
        count = store.discard(lambda stage: stands_on_other(stage, UKB, done.fingerprint))
        settle(done.fingerprint)
        if count:
            text = f"removed {count:,} results that were made before people withdrew"
            print(text, file=sys.stderr)
    print("prepared; run: ecgcmr run --cohort ukb --method all --task all", file=sys.stderr)
    return 0


def _prepare_wfdb(options: argparse.Namespace) -> int:
    from benchmark.cohorts.wfdb_cohort import Sources, prepare

    sources = Sources(options.raw, layout=options.layout, records100=options.records100)
    done = _prepared(prepare, sources, options)
    if done.fingerprint is not None:
        print("prepared; run: ecgcmr run --cohort wfdb --method all --task cvd", file=sys.stderr)
    return 0


def _prepare_installed(options: argparse.Namespace) -> int:
    from benchmark.cohorts.prepared import PreparedCohort
    from benchmark.registry import registry

    known = registry()
    if options.cohort not in known.cohorts and options.module in known.broken:
        reason = known.broken[options.module].strip().splitlines()[-1]
        raise UserError(f"the plugin {options.module} is broken: {reason}")
    cohort = known.cohort(options.cohort)
    if not issubclass(cohort, PreparedCohort):
        raise UserError(f"the cohort {options.cohort} is not made of files; it needs no prepare")
    done = _prepared(cohort.prepare, options.raw, options)
    if done.fingerprint is not None:
        text = f"prepared; run: ecgcmr run --cohort {options.cohort} --method mae --task all"
        print(text, file=sys.stderr)
    return 0
