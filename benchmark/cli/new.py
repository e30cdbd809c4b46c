"""``ecgcmr new``: a method or a task to start from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmark.cli.common import command, relative

EPILOG = """\
examples:
  ecgcmr new method my-method                 a small method on the ECG, and its test
  ecgcmr new method my-mmcl --like mmcl       one that differs from mmcl in its loss
  ecgcmr new task left-atrium                 a task, and its test
  ecgcmr new method my-method --package DIR   a package of its own, to be installed

What is written runs as it stands; existing files are never touched.
"""


def add(commands: Any) -> None:
    """Add the command."""
    new = commands.add_parser(
        "new",
        help="write a method or a task to start from, and its test",
        description="Write a method or a task to start from, and its test.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = new.add_subparsers(title="kinds", metavar="KIND", required=True)
    method = command(kinds, "method", _new, "a file in methods/ and its test", examples=EPILOG)
    method.add_argument(
        "--like", metavar="METHOD", help="start from this method and differ in its loss"
    )
    task = command(kinds, "task", _new, "a file in tasks/ and its test", examples=EPILOG)
    for parser in (method, task):
        parser.add_argument("name", metavar="NAME", help="such as my-idea, as boards will show it")
        parser.add_argument(
            "--package", type=Path, metavar="DIR", help="write a package of its own instead"
        )
        parser.add_argument("--json", action="store_true", help="for programs")
    method.set_defaults(kind="method")
    task.set_defaults(kind="task")


def _new(options: argparse.Namespace) -> int:
    from benchmark.scaffold import new_method, new_task

    if options.kind == "method":
        made = new_method(options.name, options.like, options.package)
    else:
        made = new_task(options.name, options.package)
    files = [str(relative(path)) for path in made.files]
    if options.json:
        print(json.dumps({"files": files, "next": list(made.then)}, indent=1))
        return 0
    print("\n".join(f"wrote {file}" for file in files))
    print("\nIt runs as it stands. Next:")
    print("\n".join(f"  {step}" for step in made.then))
    return 0
