"""``ecgcmr export``: a trained encoder as a folder of its own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmark.cli.common import (
    add_device,
    add_place,
    add_track,
    command,
    make_request,
    relative,
)

EXAMPLES = """\
examples:
  ecgcmr export --method ptacl                     exports/ptacl-simulated-tiny-replicate-0
  ecgcmr export --method ptacl --modality cmr --onnx
  ecgcmr export --method eccl --task phenotype     whose labels it learned
  ecgcmr export --method mae --cohort ukb --out /safe/mae --permitted-by "A. Officer, ref. 7"
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "a trained encoder: weights, model card, standalone loader"
    export = command(commands, "export", _export, purpose, examples=EXAMPLES)
    export.add_argument("--method", required=True, metavar="NAME", help="whose encoder")
    export.add_argument(
        "--out", type=Path, metavar="DIR", help="folder (default exports/ and what it holds)"
    )
    export.add_argument(
        "--replicate", type=int, default=0, metavar="R", help="which training (default 0)"
    )
    export.add_argument(
        "--modality", default="", metavar="NAME", help="ecg or cmr (default: ecg where there is)"
    )
    export.add_argument(
        "--task", default="", metavar="NAME", help="whose labels a label-using method learned"
    )
    export.add_argument(
        "--onnx", action="store_true", help="a program for onnxruntime as well (extra 'onnx')"
    )
    export.add_argument(
        "--permitted-by",
        default="",
        metavar="TEXT",
        help="who allowed weights of real people to leave the store; goes into the model card",
    )
    export.add_argument("--json", action="store_true", help="print config.json of the folder")
    add_place(export)
    add_track(export)
    add_device(export)


def _export(options: argparse.Namespace) -> int:
    from benchmark.engine.store import Store
    from benchmark.export.folder import Wanted, export

    names = ("method", "replicate", "modality", "task", "onnx", "permitted_by", "out")
    wanted = Wanted(**{name: getattr(options, name) for name in names})
    request = make_request(options, methods=(options.method,), track=options.track)
    out = export(wanted, request, Store(), options.leaderboards, options.device)
    about = json.loads((out / "config.json").read_text())
    if options.json:
        print(json.dumps({"folder": str(out), **about}, indent=1))
        return 0
    print(f"{relative(out)}: {about['width']} features, checked in a process of its own")
    for name in about["files"]:
        print(f"  {name}")
    return 0
