"""``ecgcmr embed``: recordings in, a table of features out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmark.cli.common import add_device, add_place, add_track, command, make_request, relative

EXAMPLES = """\
Every 12-lead recording (WFDB, .mat, UK Biobank's XML) becomes one row: its path, then f0, f1, ...
Features are individual-level data: the table gets mode 0600, and a place that git would see is
refused. What cannot be used is skipped and listed in NAME.skipped.csv.

exit code: 0 done, even if some were skipped; 1 none could be used; 2 asked wrongly

examples:
  ecgcmr embed --method ptacl examples/ptbdb_s0010_re --out ~/features.parquet
  ecgcmr embed --method mae RECORDINGS --out ~/features.csv
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "a table of features of a folder of 12-lead recordings"
    embed = command(commands, "embed", _embed, purpose, examples=EXAMPLES)
    embed.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="folders and single recordings"
    )
    embed.add_argument("--method", required=True, metavar="NAME", help="whose encoder")
    embed.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=".parquet or .csv (default exports/features-NAME.parquet)",
    )
    embed.add_argument(
        "--replicate", type=int, default=0, metavar="R", help="which training (default 0)"
    )
    embed.add_argument(
        "--task", default="", metavar="NAME", help="whose labels a label-using method learned"
    )
    embed.add_argument("--json", action="store_true", help="for programs")
    add_place(embed)
    add_track(embed)
    add_device(embed)


def _embed(options: argparse.Namespace) -> int:
    from benchmark.embed_folder import counted, embed, summary
    from benchmark.engine.store import Store

    request = make_request(options, methods=(options.method,), track=options.track)
    done = embed(
        options.paths,
        options.method,
        options.out,
        request,
        Store(),
        replicate=options.replicate,
        task=options.task,
        device=options.device,
    )
    for line in summary(done):
        print(line, file=sys.stderr)
    if options.json:
        places = {"out": done.out, "skipped_file": done.skipped_file}
        counts = {"recordings": done.recordings, "features": done.width}
        counts["skipped"] = len(done.skipped)
        print(json.dumps(counts | {k: p and str(p) for k, p in places.items()}, indent=1))
    elif done.out is not None:
        print(f"{relative(done.out)}: {counted(done.recordings)}, {done.width} features each")
        print("Features are individual-level data: keep the table where its recordings may be.")
    else:
        print("none of the recordings could be used")
    return 0 if done.out is not None else 1
