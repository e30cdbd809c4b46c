"""``ecgcmr completion``: the Tab key in bash, zsh and fish."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmark.cli.common import command

EXAMPLES = """\
examples, each to be put into the file that the shell reads at its start:
  eval "$(ecgcmr completion bash)"        in ~/.bashrc
  eval "$(ecgcmr completion zsh)"         in ~/.zshrc, below compinit
  ecgcmr completion fish | source         in ~/.config/fish/config.fish

Completed are commands, options, and the names of methods, tasks, cohorts, presets, scales and
published tables, those of installed plugins too.
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "print what lets bash, zsh or fish complete names and options"
    completion = command(commands, "completion", _completion, purpose, examples=EXAMPLES)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def _completion(options: argparse.Namespace) -> int:
    import argcomplete

    print(argcomplete.shellcode(["ecgcmr"], shell=options.shell), end="")
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that asks what could stand here, and end the process."""
    import argcomplete

    _name_values(parser)
    argcomplete.autocomplete(parser, always_complete_options="long")


def _name_values(parser: argparse.ArgumentParser) -> None:
    """Say for the arguments of all commands where their values come from."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                _name_values(sub)
        elif action.dest in VALUES and action.choices is None and action.type is not Path:
            action.completer = _Listed(VALUES[action.dest])


class _Listed:
    """Completes the last of several names, separated by commas."""

    def __init__(self, known: Callable[[], Iterable[str]]) -> None:
        self._known = known

    def __call__(self, prefix: str, **_: Any) -> list[str]:
        head, comma, _ = prefix.rpartition(",")
        taken = set(head.split(","))
        return [f"{head}{comma}{name}" for name in self._known() if name not in taken]


def _methods() -> list[str]:
    from benchmark.registry import registry

    return [*registry().methods, "all", "references"]


def _single_methods() -> list[str]:
    from benchmark.registry import registry

    return list(registry().methods)


def _tasks() -> list[str]:
    from benchmark.registry import registry

    return [*registry().tasks, "all"]


def _cohorts() -> list[str]:
    from benchmark.registry import registry

    return list(registry().cohorts)


def _presets() -> list[str]:
    from benchmark.cohorts.simulated.presets import PRESETS

    return list(PRESETS)


def _scales() -> list[str]:
    from benchmark.registry import TRACKS, track_module

    return list(dict.fromkeys(s for track in TRACKS for s in track_module(track).SCALES))


def _tracks() -> tuple[str, ...]:
    from benchmark.registry import TRACKS

    return TRACKS


def _modalities() -> list[str]:
    from benchmark.planning import MODALITIES

    return list(MODALITIES)


def _tables() -> list[str]:
    from benchmark.reports.published import tables

    return list(tables())


VALUES: dict[str, Callable[[], Iterable[str]]] = {
    "method": _methods,
    "a": _single_methods,
    "b": _single_methods,
    "task": _tasks,
    "cohort": _cohorts,
    "preset": _presets,
    "scale": _scales,
    "track": _tracks,
    "modality": _modalities,
    "table": _tables,
}
"""Where the values of an argument come from, by its name."""
