"""The whole way from raw files to boards, with ids of UK Biobank's form: none of them leaves.

Simulated people are written as UK Biobank hands its data out, some files are damaged, a method is
added that puts ids into all it says, and then every file and every message is searched.
"""

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmark import privacy_scan
from benchmark.cohorts.splits import split_of
from benchmark.cohorts.ukb.write import Simulation, write_ukb

ROOT = Path(__file__).resolve().parent.parent
SPLITS = [*["train"] * 8, "validation", "test", "test", "train"]
"""Of each person; the files of the first three are damaged, and the last one withdrew."""
PEOPLE = len(SPLITS)

NEED_IDS = {"ids.parquet", "withdrawn.txt", "refused.csv"}
"""Files of the private store that cannot do without ids, beside the listings of raw folders."""

INDISCREET = '''
import logging
import sys
import warnings
from dataclasses import dataclass

from benchmark.api import Recipe, Variant
from benchmark.cohorts.cohort import CohortData
from methods.blocks.bases import ECGMethod


@dataclass(frozen=True, kw_only=True)
class Indiscreet(ECGMethod):
    """Says whom it has seen."""

    variants = {"indiscreet": Variant(tracks=("harmonised",))}
    kind = "untrained"
    recipe: Recipe = Recipe()

    def run(self, context):
        ids = list(CohortData(context.open(self.cohort)).hash_id)
        logging.getLogger("indiscreet").warning("logged %s", ids[0])
        warnings.warn(f"warned of {ids[1]}")
        print("printed", ids[2], file=sys.stderr)
        context.progress(1, 2, note=f"at {ids[3]}")
        try:
            raise KeyError(ids[4])
        except KeyError as error:
            raise ValueError(f"no cine in /bulk/{ids[5]}_20209_2_0.zip") from error
'''


def eid(number):
    """Return an id of UK Biobank's form for person ``number``, in the split that it is to be in."""
    found = 0
    candidate = 4_871_233
    while True:
        if split_of([str(candidate)])[0] == SPLITS[found]:
            found += 1
            if found == number:
                return candidate
        candidate += 977


EIDS = [eid(number) for number in range(1, PEOPLE + 1)]


@dataclass
class Rehearsal:
    """Folders, and what each command said."""

    home: Path
    said: dict[str, subprocess.CompletedProcess]

    @property
    def store(self):
        return self.home / "store"

    def files(self, place):
        return [path for path in sorted((self.home / place).rglob("*")) if path.is_file()]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    home = tmp_path_factory.mktemp("rehearsal")
    simulation = Simulation(
        people=PEOPLE, frames=12, rows=32, columns=32, spacing=5.4, eid=lambda number: eid(number)
    )
    written = write_ukb(home / "raw", simulation)
    ecgs, stacks = (sorted(written.raw.rglob(f"*_{field}_*")) for field in (20205, 20209))
    for path, content in (
        (ecgs[0], b""),
        (ecgs[1], ecgs[1].read_bytes()[:5000]),
        (stacks[2], stacks[2].read_bytes()[:-500]),
    ):
        path.write_bytes(content)

    plugin = home / "plugin"
    (plugin / "indiscreet-1.0.dist-info").mkdir(parents=True)
    (plugin / "indiscreet-1.0.dist-info" / "METADATA").write_text("Name: indiscreet\nVersion: 1.0")
    entry = "[ecgcmr_bench.methods]\nindiscreet = indiscreet_plugin\n"
    (plugin / "indiscreet-1.0.dist-info" / "entry_points.txt").write_text(entry)
    (plugin / "indiscreet_plugin.py").write_text(INDISCREET)
    recording = home / "recording" / f"{EIDS[5]}_20205_2_0.hea"
    shutil.copytree(ROOT / "examples" / "ptbdb_s0010_re", recording.parent)
    (recording.parent / "s0010_re.hea").rename(recording)

    for place in ("temporary", "elsewhere", "out"):
        (home / place).mkdir()
    environment = {
        **os.environ,
        "ECGCMR_STORE": str(home / "store"),
        "HOME": str(home / "elsewhere"),
        "TMPDIR": str(home / "temporary"),
        "PYTHONPATH": str(plugin),
    }
    at = ["--cohort", "ukb", "--scale", "smoke", "--leaderboards", home / "out"]
    near = ["neighbours", recording, "--method", "mae", *at]
    commands = {
        "prepare": [
            *("prepare", "ukb", "--raw", written.raw, "--table", *written.tables),
            *("--withdrawn", written.withdrawn, "--frames", 12, "--size", 32, "--spacing", 5.4),
            *("--workers", 2),
        ],
        "run": [
            "run",
            "--method",
            "mae,indiscreet",
            "--task",
            "cvd,phenotype",
            "--fractions",
            1.0,
            *at,
        ],
        "neighbours": near,
        "odd neighbours": [*near, "--k", 6],
        "status": ["status"],
        "privacy": ["privacy", home / "out"],
    }
    said = {
        name: subprocess.run(
            [sys.executable, "-m", "benchmark", *map(str, arguments)],
            env=environment,
            cwd=home / "elsewhere",
            capture_output=True,
            text=True,
            timeout=300,
        )
        for name, arguments in commands.items()
    }
    return Rehearsal(home, said)


def holds_an_id(name, content):
    """Whether a file has one of the ids: in its name, as text or as a number, packed or not."""
    if any(str(eid) in name for eid in EIDS):
        return True
    for _, _, part in privacy_scan.contents(name, content):
        assert not isinstance(part, str), f"{name}: {part}"
        as_text = [str(eid).encode(code) for eid in EIDS for code in ("ascii", "utf-16-le")]
        # Eight bytes with five zeros among them occur by chance in pictures, hence not in those.
        words = [struct.pack("<q", eid) for eid in EIDS] if not name.endswith(".npy") else []
        words += [struct.pack("<d", eid) for eid in EIDS]
        if any(pattern in part for pattern in (*as_text, *words)):
            return True
        with contextlib.suppress(ValueError):  # an array of objects cannot be there
            for _, values in privacy_scan.columns(part):
                if values.dtype.kind in "iuf" and np.isin(values, EIDS).any():
                    return True
                if values.dtype.kind == "O" and {str(v) for v in values} & {str(e) for e in EIDS}:
                    return True
    return False


def test_the_rehearsal_went_as_planned(rehearsal):
    codes = {name: done.returncode for name, done in rehearsal.said.items()}
    everything = "\n".join(f"{n}: {d.stdout}{d.stderr}" for n, d in rehearsal.said.items())
    assert codes == {
        "prepare": 0,
        "run": 1,
        "neighbours": 0,
        "odd neighbours": 2,
        "status": 0,
        "privacy": 0,
    }, everything
    run = rehearsal.said["run"].stderr
    for message in ("logged [id]", "warned of [id]", "printed [id]"):
        assert message in run
    assert "no cine in /bulk/[id]_20209_2_0.zip" in run
    assert "no cine in /bulk/[id]_20209_2_0.zip" in rehearsal.said["status"].stdout


def test_no_message_has_an_id(rehearsal):
    for name, done in rehearsal.said.items():
        for eid in EIDS:
            assert str(eid) not in done.stdout + done.stderr, name


@pytest.mark.parametrize("place", ["out", "temporary", "elsewhere"])
def test_nothing_outside_the_store_has_an_id(rehearsal, place):
    files = rehearsal.files(place)
    assert files or place != "out"
    for path in files:
        name = path.relative_to(rehearsal.home).as_posix()
        assert not holds_an_id(name, path.read_bytes()), name


def test_in_the_store_only_the_files_that_need_ids_have_them(rehearsal):
    having = {
        path.relative_to(rehearsal.store).as_posix(): path
        for path in rehearsal.files("store")
        if holds_an_id(path.relative_to(rehearsal.store).as_posix(), path.read_bytes())
    }
    for name, path in having.items():
        known = path.name in NEED_IDS or path.name.startswith("files-")
        assert known, f"{name} holds an id"
        assert path.stat().st_mode & 0o077 == 0, f"{name} can be read by others"
    assert {path.name for path in having.values()} >= NEED_IDS
    # The failure is kept, with all that it said.
    [failure] = (rehearsal.store / "failed").glob("*.json")
    assert json.loads(failure.read_text())["traceback"].count("[id]") == 2


def test_rows_of_few_people_say_nothing_about_them(rehearsal):
    rows = [
        row
        for path in (rehearsal.home / "out" / "rows").rglob("mae.json")
        for row in json.loads(path.read_text())["rows"]
    ]
    assert len(rows) > 10
    for row in rows:
        assert row["result"]["value"] is None
        assert row["result"]["n"] in ("<5", 0)
        assert not row["result"]["positives"]
    boards = [p.read_text() for p in rehearsal.files("out") if p.suffix == ".md"]
    assert boards


def test_neighbours_are_described_together(rehearsal):
    said = rehearsal.said["neighbours"].stdout
    assert "the 5 most similar people" in said
    assert "[id]_20205_2_0" in said
    assert "5 of them or a multiple" in rehearsal.said["odd neighbours"].stderr
