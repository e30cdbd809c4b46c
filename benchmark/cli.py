"""The command line, ``ecgcmr``. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import __version__
from benchmark.api import UserError
from benchmark.privacy import mask_messages

if TYPE_CHECKING:
    from benchmark.runner import Request

ROOT = Path(__file__).resolve().parent.parent

EPILOG = """\
examples:
  ecgcmr run --method ptacl --task retrieval       train, evaluate, print the board
  ecgcmr run --method references --task all        the references on every task
  ecgcmr run --method mae,mmcl --task cvd --dry-run   what would run, and how long it takes
  ecgcmr list methods                              what there is
  ecgcmr neighbours RECORD --method ptacl          similar people for a recording of your own
  ecgcmr reproduce "MMCL Table II"                 a published table, beside our numbers
  ecgcmr check                                     whether a change made something worse

Finished work is kept in $ECGCMR_STORE (default ~/.cache/ecgcmr-bench) and never done twice; a
killed command goes on where it stopped.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0 done, 1 something failed, 2 asked wrongly.

    ``check`` also returns 3: inconclusive.
    """
    # libgomp's threads wait for each other by spinning, by default for so long that a training
    # step takes thirty times longer as soon as something else uses one of the cores. To be set
    # before torch is loaded; a value of the user's own stays.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    mask_messages()
    try:
        options = _parser().parse_args(arguments)
        return options.run(options)
    except UserError as error:
        print(f"ecgcmr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) is gone; so is the need to print.
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecgcmr",
        description="Train and fairly compare ECG representations guided by cardiac MRI.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ecgcmr-bench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    purpose = "train and evaluate methods on tasks, write the boards"
    run = _command(commands, "run", _run, purpose, aliases=("bench",))
    run.add_argument(
        "--method",
        required=True,
        metavar="NAMES",
        help="methods, separated by commas; 'all', or 'references' for the rows all are read "
        "against",
    )
    run.add_argument("--task", required=True, metavar="NAMES", help="tasks, or 'all'")
    run.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="replicates: everything random is redrawn in each (default 1: a claim about one "
        "checkpoint; 3 for a comparison)",
    )
    run.add_argument(
        "--fractions",
        default="1.0,0.1,0.01",
        metavar="LIST",
        help="shares of the training labels (default 1.0,0.1,0.01, nested)",
    )
    run.add_argument(
        "--modality",
        default="",
        metavar="NAME",
        help="the encoder to evaluate: ecg, cmr (default: the ECG's where a method has two)",
    )
    _add_place(run)
    _add_track(run)
    _add_device(run)
    _add_workers(run)
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    run.add_argument("--json", action="store_true", help="print the requested rows as JSON")

    show = _command(commands, "list", _list, "list methods, tasks, cohorts or scales")
    kinds = ("methods", "tasks", "cohorts", "scales")
    show.add_argument("kind", nargs="?", choices=kinds, help="all of them when left out")
    show.add_argument("--json", action="store_true", help="for programs")
    show.add_argument(
        "--parameters", action="store_true", help="count the parameters of methods (imports torch)"
    )
    show.add_argument("--track", help="only methods of this track: harmonised or paper")
    show.add_argument(
        "--scale", help="at which parameters are counted (default tiny; full in the paper track)"
    )

    status = _command(commands, "status", _status, "what the store holds, and whether it is sound")
    status.add_argument(
        "--verify", action="store_true", help="compare every file with its checksum"
    )
    status.add_argument("--json", action="store_true", help="for programs")

    sheet = _command(commands, "show", _show, "draw a few simulated people: ECG, heart, phenotypes")
    sheet.add_argument("what", choices=("cohort",), help="what to draw")
    sheet.add_argument("--cohort", default="simulated", help="cohort (default simulated)")
    sheet.add_argument("--preset", default="default", help="preset of the simulated cohort")
    sheet.add_argument("--scale", default="small", help="scale of the images (default small)")
    sheet.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        help="where to write (default cohort-TITLE.png in the current folder)",
    )

    tables = _command(
        commands,
        "reproduce",
        _reproduce,
        "a table of one of the papers, its numbers beside those of the methods here",
    )
    tables.add_argument(
        "table",
        nargs="?",
        metavar="TABLE",
        help="such as 'MMCL Table II'; without it, the tables there are",
    )
    tables.add_argument("--seeds", type=int, default=1, metavar="N", help="replicates (default 1)")
    _add_place(tables)
    _add_track(tables)
    _add_device(tables)
    _add_workers(tables)
    tables.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    tables.add_argument("--json", action="store_true", help="for programs")

    boards = _command(commands, "boards", _boards, "render the boards again from their rows")
    _add_place(boards)

    _add_gate(commands)

    privacy = _command(
        commands,
        "privacy",
        _privacy,
        "look for ids and data of single people in everything that git would see",
    )
    privacy.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="files and folders (default: the repository one stands in)",
    )
    privacy.add_argument(
        "--history", action="store_true", help="every commit of every branch and tag as well"
    )
    privacy.add_argument("--json", action="store_true", help="for programs")

    _add_prepare(commands)
    _add_simulate(commands)

    near = _command(
        commands,
        "neighbours",
        _neighbours,
        "similar people and predicted phenotypes for one ECG recording",
    )
    near.add_argument("record", type=Path, help="a WFDB record (.hea) or a MATLAB file (.mat)")
    near.add_argument(
        "--method", required=True, metavar="NAME", help="the method whose encoder is used"
    )
    near.add_argument("--k", type=int, default=5, help="how many people (default 5)")
    near.add_argument("--json", action="store_true", help="for programs")
    _add_device(near)
    _add_place(near)
    return parser


def _command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], int],
    text: str,
    aliases: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    description = text[0].upper() + text[1:] + "."
    parser = commands.add_parser(name, aliases=aliases, help=text, description=description)
    parser.set_defaults(run=function)
    return parser


GATE = """\
layers:
  A  frozen metrics: every metric, interval, test and letter of made-up predictions (seconds)
  B  fingerprints: losses, features and predictions of every method after a few updates (minutes)
  C  learning smoke: fresh training seeds against stored reference seeds, in two stages (minutes)
  D  recorded rows: nothing missing, the same people, a changed recipe not inferior (seconds)

exit code: 0 pass, 1 regression (what was measured differs, is missing, or nothing was compared),
2 asked wrongly, 3 inconclusive

examples:
  ecgcmr check                                     layers A, B and D against the last commit
  ecgcmr check --layer D --against v0.1.0          the rows of a release against those of now
  ecgcmr check --layer B --method mae,ptacl        two methods alone
  ecgcmr check --layer C --passes 20               how often unchanged code passes

After a change that is meant, ecgcmr golden writes the references again; review the difference.
"""


def _add_gate(commands: Any) -> None:
    check = _command(commands, "check", _check, "tell whether a change made something worse")
    golden = _command(
        commands, "golden", _golden, "write the references of check again, for review"
    )
    for command, default in ((check, "A,B,D"), (golden, "A,B")):
        command.add_argument(
            "--layer", default=default, metavar="LIST", help=f"some of A,B,C,D (default {default})"
        )
        command.add_argument(
            "--method", default="", metavar="NAMES", help="layers B and C: only these methods"
        )
        command.add_argument(
            "--track", default="harmonised", help="layer B: whose methods (default harmonised)"
        )
        command.add_argument(
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
        default=ROOT / "leaderboards",
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


def _add_prepare(commands: Any) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="make a cohort of your own files",
        description="Make a cohort of your own files; it stays in the private store.",
    )
    sources = prepare.add_subparsers(title="cohorts", metavar="COHORT", required=True)

    ukb = _command(sources, "ukb", _prepare_ukb, "UK Biobank, from its bulk files and tables")
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
    _add_workers(ukb)
    ukb.add_argument(
        "--dry-run", action="store_true", help="count people and files, and read none of them"
    )

    wfdb = _command(
        sources,
        "wfdb",
        _prepare_wfdb,
        "public 12-lead ECGs: PTB-XL, or any folder of WFDB records; nothing is downloaded",
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
    _add_workers(wfdb)
    wfdb.add_argument(
        "--dry-run", action="store_true", help="count records and people, and read no signal"
    )


def _add_simulate(commands: Any) -> None:
    simulate = _command(
        commands,
        "simulate",
        _simulate,
        "write simulated people in the raw formats of UK Biobank, to rehearse prepare with",
    )
    simulate.add_argument(
        "--as-ukb", required=True, type=Path, metavar="DIR", help="an empty or new folder"
    )
    simulate.add_argument(
        "--people", type=int, default=10, metavar="N", help="how many (default 10; 22 MB each)"
    )
    simulate.add_argument(
        "--first", type=int, default=1, metavar="K", help="number of the first one (default 1)"
    )
    simulate.add_argument("--preset", default="default", help="of the simulated cohort")
    simulate.add_argument(
        "--grammar",
        default="ukbconv",
        choices=("ukbconv", "r", "field-name", "dx", "stata"),
        help="how the tables name their columns (default ukbconv)",
    )
    simulate.add_argument(
        "--layout",
        default="flat",
        choices=("flat", "rap"),
        help="flat, as ukbfetch downloads (default), or the tree of the Research Analysis Platform",
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, metavar="N", help="worker processes (default: the usable cores)"
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    devices = ("auto", "cpu", "cuda", "mps")
    parser.add_argument("--device", default="auto", choices=devices, help="default auto")


def _add_track(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--track",
        default="harmonised",
        help="harmonised (default: the same for all methods, ranked) or paper (each paper's own "
        "recipe, at the scales smoke and, by default, full)",
    )


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cohort", default="simulated", help="cohort (default simulated)")
    parser.add_argument("--preset", default="default", help="preset of the simulated cohort")
    parser.add_argument("--scale", default="", help="scale (default tiny; see list scales)")
    parser.add_argument(
        "--leaderboards",
        type=Path,
        default=ROOT / "leaderboards",
        metavar="DIR",
        help="where rows and boards go",
    )


def _request(
    options: argparse.Namespace,
    methods: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    **asked: Any,
) -> Request:
    """Return what was asked for, where `_add_place` says."""
    from benchmark.runner import Request

    place = {"cohort": options.cohort, "preset": options.preset, "scale": options.scale}
    return Request(methods=methods, tasks=tasks, **place, **asked)


def _run(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.runner import expand, run

    request = _request(
        options,
        methods=expand(options.method, "method", options.track),
        tasks=expand(options.task, "task"),
        replicates=options.seeds,
        fractions=_fractions(options.fractions),
        track=options.track,
        modality=options.modality,
    )
    outcome = run(
        request,
        Store(),
        options.leaderboards,
        device=options.device,
        workers=_workers(options),
        dry_run=options.dry_run,
    )
    if outcome.report is not None:
        _print_results(request, outcome, options)
    return 0 if outcome.ok else 1


def _print_results(request: Any, outcome: Any, options: argparse.Namespace) -> None:
    """Print this run's rows, then the boards they stand on."""
    from benchmark.reports.boards import own_rows
    from benchmark.reports.rows import dumps

    if options.json:
        print(dumps({"files": outcome.files}), end="")
        return
    print(own_rows(outcome.files, request.fractions))
    for text in outcome.kept:
        print(f"the board keeps the recorded rows of {text}: they have more replicates")
    for board in outcome.boards:
        print()
        print(board.read_text().rstrip())
        print(f"\nboard: {_relative(board)}")


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _fractions(text: str) -> tuple[float, ...]:
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--fractions is {text!r}; it is a list such as 1.0,0.1") from None
    if not values:
        raise UserError("--fractions names no fraction")
    return tuple(dict.fromkeys(values))


def _list(options: argparse.Namespace) -> int:
    from benchmark.listing import listing, text

    tables = listing(options.kind, options.parameters, options.track, options.scale)
    if options.json:
        print(json.dumps(tables[options.kind] if options.kind else tables, indent=1))
    else:
        print(text(tables))
    return 0


def _status(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.listing import status

    report = status(Store(), verify=options.verify)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        print(report["text"])
    return 1 if report["damaged"] else 0


def _show(options: argparse.Namespace) -> int:
    from benchmark.cohorts.show import contact_sheet
    from benchmark.registry import registry

    kind = registry().cohort(options.cohort)
    print(contact_sheet(kind, options.preset, options.scale, options.out))
    return 0


def _boards(options: argparse.Namespace) -> int:
    from benchmark.runner import board_folder, prepare_folder, render_boards

    request = _request(options)
    rows = options.leaderboards / "rows" / board_folder(request) / request.track
    if not rows.exists():
        raise UserError(f"there are no rows to render under {rows}; ecgcmr run writes them")
    prepare_folder(request, options.leaderboards)
    for board in render_boards(request, options.leaderboards).values():
        print(_relative(board))
    return 0


def _gate_options(options: argparse.Namespace, **more: Any) -> Any:
    from benchmark.check import Options
    from benchmark.runner import expand

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
    print(text, end="")
    if options.summary is not None:
        with options.summary.open("a", encoding="utf-8") as file:
            file.write(text)
    return EXIT_CODES[overall(verdicts)]


def _golden(options: argparse.Namespace) -> int:
    from benchmark.check import rewrite_golden

    for path in rewrite_golden(_gate_options(options)):
        print(_relative(path))
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from benchmark.reports.published import find, overview

    if options.table is None:
        print(overview())
        return 0
    table = find(options.table)
    from benchmark.engine.store import Store
    from benchmark.reproduce import as_json, markdown, reproduce

    request = _request(options, replicates=options.seeds, fractions=(1.0,), track=options.track)
    done = reproduce(
        table,
        request,
        Store(),
        options.leaderboards,
        device=options.device,
        workers=_workers(options),
        dry_run=options.dry_run,
    )
    if done.path is not None:
        if options.json:
            print(json.dumps(as_json(done), indent=1))
        else:
            print(markdown(done))
            print(f"table: {_relative(done.path)}")
    return 0 if done.ok else 1


def _privacy(options: argparse.Namespace) -> int:
    from benchmark.privacy_scan import scan

    report = scan(options.paths, history=options.history)
    print(json.dumps(report.as_json(), indent=1) if options.json else report.text())
    return 0 if report.ok else 1


def _workers(options: argparse.Namespace) -> int:
    from benchmark.engine.provenance import usable_cores

    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers is {options.workers}; at least 1 is needed")
    return options.workers or usable_cores()


def _prepared(prepare: Callable[..., Any], sources: Any, options: argparse.Namespace) -> Any:
    """Prepare a cohort with progress, and print who is in it and who is not."""
    from benchmark.engine.progress import Reporter

    reporter = Reporter()
    try:
        done = prepare(
            sources,
            workers=_workers(options),
            dry_run=options.dry_run,
            say=reporter.line,
            begin=reporter.begin,
            progress=reporter.progress,
        )
    finally:
        reporter.stop()
    print(done.report.text())
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
    print("prepared; run: ecgcmr run --cohort ukb --method all --task all")
    return 0


def _prepare_wfdb(options: argparse.Namespace) -> int:
    from benchmark.cohorts.wfdb_cohort import Sources, prepare

    sources = Sources(options.raw, layout=options.layout, records100=options.records100)
    done = _prepared(prepare, sources, options)
    if done.fingerprint is not None:
        print("prepared; run: ecgcmr run --cohort wfdb --method all --task cvd")
    return 0


def _simulate(options: argparse.Namespace) -> int:
    from benchmark.cohorts.ukb.write import Simulation, write_ukb
    from benchmark.engine.progress import Reporter

    simulation = Simulation(people=options.people, first=options.first, preset=options.preset)
    reporter = Reporter()

    def progress(done: int, total: int) -> None:
        if not done:  # nothing is announced before the options are found sound
            reporter.begin(f"writing {total:,} simulated people as UK Biobank's files")
        reporter.progress(done, total, "people")

    try:
        files = write_ukb(options.as_ukb, simulation, options.grammar, options.layout, progress)
    except OSError as error:
        raise UserError(f"{options.as_ukb} cannot be written: {error.strerror}") from None
    finally:
        reporter.stop()
    command = ["ecgcmr", "prepare", "ukb", "--raw", files.raw, "--table", *files.tables]
    command += ["--withdrawn", files.withdrawn]
    print(f"{simulation.people:,} people, {simulation.withdrawn} of them withdrawn; now run:")
    print(shlex.join(map(str, command)))
    return 0


def _neighbours(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.neighbours import as_json, neighbours

    request = _request(options, methods=(options.method,), fractions=(1.0,))
    found = neighbours(options.record, options.method, options.k, request, Store(), options.device)
    print(as_json(found) if options.json else found.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
