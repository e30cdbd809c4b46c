"""Arguments and helpers that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import UserError
from benchmark.engine.executors import EXECUTORS

if TYPE_CHECKING:
    from benchmark.engine.store import Store
    from benchmark.planning import Request
    from benchmark.stage import Stage

ROOT = Path(__file__).resolve().parent.parent.parent
LEADERBOARDS = (ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()) / "leaderboards"
"""Those of the clone; where the project is installed without it, in the current folder."""


def command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], int],
    text: str,
    aliases: tuple[str, ...] = (),
    examples: str = "",
) -> argparse.ArgumentParser:
    """Add a command that calls ``function``, and return its parser.

    ``examples`` stand below its options, as they are written.
    """
    description = text[0].upper() + text[1:] + "."
    parser = commands.add_parser(name, aliases=aliases, help=text, description=description)
    if examples:
        parser.epilog, parser.formatter_class = examples, argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=function)
    return parser


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add which cohort, at which scale, and where its rows and boards are."""
    parser.add_argument("--cohort", default="simulated", help="cohort (default simulated)")
    parser.add_argument("--preset", default="default", help="preset of the simulated cohort")
    parser.add_argument("--scale", default="", help="scale (default tiny; see list scales)")
    parser.add_argument(
        "--leaderboards",
        type=Path,
        default=LEADERBOARDS,
        metavar="DIR",
        help="where rows and boards go",
    )


def add_track(parser: argparse.ArgumentParser) -> None:
    """Add the track."""
    parser.add_argument(
        "--track",
        default="harmonised",
        help="harmonised (default: the same for all methods, ranked) or paper (each paper's own "
        "recipe, at the scales smoke and, by default, full)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the device that stages run on."""
    devices = ("auto", "cpu", "cuda", "mps")
    parser.add_argument("--device", default="auto", choices=devices, help="default auto")


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Add how many devices share one training."""
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="GPUs of one machine, or with --device cpu processes, that share the training of one "
        "stage, with the same result within rounding (default 1: several stages beside each other "
        "do more)",
    )


def device_count(options: argparse.Namespace) -> int:
    """Return how many devices share one training."""
    if options.devices < 1:
        raise UserError(f"--devices is {options.devices}; at least 1 is needed")
    return options.devices


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the number of worker processes."""
    parser.add_argument(
        "--workers", type=int, metavar="N", help="worker processes (default: the usable cores)"
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Add how the stages are run: where, by what, in how many processes."""
    add_device(parser)
    add_devices(parser)
    parser.add_argument(
        "--executor",
        default="auto",
        choices=("auto", *EXECUTORS),
        help="inline: in this process; local: in several; slurm: as jobs of SLURM; none: only what "
        "is in the store already; default: local where --workers asks for several or there are "
        "several GPUs",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, beside one for each GPU; with SLURM the jobs of an array that run at once",
    )
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of sbatch, such as partition=long; device.partition=gpu for what is done "
        "on a device, cpu.partition=cpu for the rest; repeat it for more",
    )
    parser.add_argument(
        "--detach", action="store_true", help="submit to SLURM and do not wait for it"
    )


def execution(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_execution` was told, for `benchmark.runner.bring`."""
    worker_count(options)
    if getattr(options, "commands", False) and options.executor != "auto":
        raise UserError(
            "--commands prints lines for a scheduler of your own: --executor says nothing about it"
        )
    settings = {
        "executor": options.executor,
        "device": options.device,
        "workers": options.workers,
        "devices": device_count(options),
    }
    if options.executor == "slurm":
        settings |= {"options": options.slurm, "detach": options.detach}
    elif options.slurm or options.detach:
        raise UserError("--slurm and --detach are of --executor slurm; add that, or leave them out")
    return settings


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the choice to have lines printed for another scheduler."""
    parser.add_argument(
        "--commands",
        action="store_true",
        help="print shell lines that do it, with what each waits for and needs, and stop",
    )


def print_commands(options: argparse.Namespace, targets: Sequence[Stage], store: Store) -> None:
    """Print lines that make the stages, and then do what this command was asked for."""
    from benchmark.engine.executors.commands import commands

    asked = [word for word in options.arguments if word != "--commands"]
    finish = [*asked, "--executor", "none"]
    print(commands(targets, store, finish, options.device, device_count(options)), end="")


def make_request(
    options: argparse.Namespace,
    methods: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    **asked: Any,
) -> Request:
    """Return what was asked for, where `add_place` says."""
    from benchmark.planning import Request

    place = {"cohort": options.cohort, "preset": options.preset, "scale": options.scale}
    return Request(methods=methods, tasks=tasks, **place, **asked)


def fractions_of(text: str) -> tuple[float, ...]:
    """Return the shares of the labels that ``--fractions`` names."""
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--fractions is {text!r}; it is a list such as 1.0,0.1") from None
    if not values:
        raise UserError("--fractions names no fraction")
    return tuple(dict.fromkeys(values))


def worker_count(options: argparse.Namespace) -> int:
    """Return the number of workers asked for, by default the usable cores."""
    from benchmark.engine.provenance import usable_cores

    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers is {options.workers}; at least 1 is needed")
    return options.workers or usable_cores()


def relative(path: Path) -> Path:
    """Return the path from the current folder, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
