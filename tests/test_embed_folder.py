"""Recordings become rows of a private table; what is none is skipped and told."""

import csv
import json
import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat
from ukb_files import xml

from benchmark import embed_folder
from benchmark.api import UserError
from benchmark.cli import main
from benchmark.cohorts.recordings import read_recording
from benchmark.cohorts.views import prepare_recording
from benchmark.embed_folder import SHOWN, embed, find_recordings, summary
from benchmark.engine.store import Store
from benchmark.engine.training import load_encoders
from benchmark.evaluation.embed import encode
from benchmark.planning import Request
from benchmark.trained import encoder_stage

METHOD = "random-init"
REQUEST = Request(methods=(METHOD,), tasks=(), scale="smoke")
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "ptbdb_s0010_re"


@pytest.fixture
def folder(tmp_path):
    """Three good recordings of three kinds, below one another, and three bad ones."""
    top = tmp_path / "recordings"
    shutil.copytree(EXAMPLE, top / "deep" / "wfdb")
    (top / "device.xml").write_bytes(xml())
    signal = read_recording(top / "device.xml").ecg_mv
    savemat(top / "deep" / "code.mat", {"feats": signal[:, ::2], "curr_sample_rate": 250.0})
    (top / "7000001_20205_2_0.xml").write_text("junk")
    (top / "bad.hea").write_text("junk")
    savemat(top / "short.mat", {"feats": signal[:, :1000], "curr_sample_rate": 500.0})
    (top / "notes.txt").write_text("no recording")
    return top


def run(paths, out, store, **options):
    return embed(paths, METHOD, out, REQUEST, Store(store), device="cpu", **options)


def test_every_recording_is_a_row(folder, tmp_path, shared_store):
    done = run([folder], tmp_path / "out.parquet", shared_store)
    table = pd.read_parquet(done.out)
    kinds = ["deep/code.mat", "deep/wfdb/s0010_re.hea", "device.xml"]
    assert list(table["recording"]) == [str(folder / name) for name in kinds]
    assert (done.recordings, done.width) == (3, table.shape[1] - 1)

    method, _ = encoder_stage(METHOD, REQUEST)
    store = Store(shared_store)
    encoders = load_encoders(method, store.open(method))
    view = method.views()["ecg"]
    for path, row in zip(table["recording"], table.iloc[:, 1:].to_numpy(), strict=True):
        recording = read_recording(path)
        x = prepare_recording(recording.ecg_mv, recording.rate, view)
        wanted, _ = encode(encoders, "ecg", x, view.crops(), "cpu")
        np.testing.assert_allclose(row, wanted[0], rtol=0, atol=1e-6)
    assert table.attrs["stage"] == method.digest
    assert not list(tmp_path.glob(".part*"))


def test_what_cannot_be_used_is_told(folder, tmp_path, shared_store):
    done = run([folder], tmp_path / "out.csv", shared_store)
    with done.skipped_file.open(newline="") as file:
        listed = {row["recording"]: row["reason"] for row in csv.DictReader(file)}
    names = ("7000001_20205_2_0.xml", "bad.hea", "short.mat")
    assert set(listed) == {str(folder / name) for name in names}
    assert "at least 5 s" in listed[str(folder / "short.mat")]
    assert len(pd.read_csv(done.out)) == 3
    for path in (done.out, done.skipped_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = summary(done)
    assert f"skipped {folder / 'bad.hea'}: the header gives no sampling rate" in lines
    assert lines[-1].startswith("3 recordings skipped")
    for path in (folder / "bad.hea", folder / "short.mat", folder / names[0]):
        path.unlink()
    again = run([folder], tmp_path / "out.csv", shared_store)
    assert not done.skipped_file.exists()
    assert summary(again) == []


def test_ids_in_names_of_files_are_not_printed(tmp_path, shared_store):
    for number in range(SHOWN + 5):
        (tmp_path / f"{3_000_000 + number}_20205_2_0.xml").write_text("junk")
    done = run([tmp_path], tmp_path / "out" / "f.csv", shared_store)
    text = "\n".join(summary(done))
    assert "[id]_20205_2_0.xml: XML is malformed" in text
    assert f"{3_000_000}" not in text
    assert "and 5 more; most often 15 x XML is malformed" in text
    assert f"{3_000_000}" in done.skipped_file.read_text()


def test_batches_change_nothing(folder, tmp_path, shared_store, monkeypatch):
    whole = pd.read_parquet(run([folder], tmp_path / "a.parquet", shared_store).out)
    monkeypatch.setattr(embed_folder, "BATCH", 2)
    parts = pd.read_parquet(run([folder], tmp_path / "b.parquet", shared_store).out)
    pd.testing.assert_frame_equal(whole, parts, rtol=0, atol=1e-6)


def test_nothing_readable_is_a_failure(tmp_path, shared_store, monkeypatch, capsys):
    monkeypatch.setenv("ECGCMR_STORE", str(shared_store))
    (tmp_path / "bad.hea").write_text("junk")
    options = ["--method", METHOD, "--scale", "smoke", "--device", "cpu", "--json"]
    arguments = ["embed", str(tmp_path), "--out", str(tmp_path / "f.csv"), *options]
    assert main(arguments) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["recordings"], told["skipped"], told["out"]) == (0, 1, None)
    assert not (tmp_path / "f.csv").exists()


def test_a_killed_run_leaves_the_old_table(folder, tmp_path, shared_store, monkeypatch):
    out = tmp_path / "out.csv"
    out.write_text("old")

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(embed_folder, "_write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        run([folder], out, shared_store)
    assert out.read_text() == "old"
    assert {p.name for p in tmp_path.iterdir()} == {"recordings", "out.csv", "out.skipped.csv"}


@pytest.mark.parametrize(
    ("paths", "out", "message"),
    [
        (["recordings"], "out.xlsx", r"ends in neither \.parquet nor \.csv"),
        (["recordings"], "folder.csv", "is a folder"),
        (["recordings"], "repository/out.csv", "git would see"),
        (["recordings"], "recordings/bad.hea/x/out.csv", "cannot be written"),
        (["missing"], "out.csv", "no such file, record or folder"),
        (["empty"], "out.csv", "no recordings below"),
    ],
)
def test_asked_wrongly(folder, tmp_path, shared_store, paths, out, message):
    for name in ("folder.csv", "empty"):
        (tmp_path / name).mkdir()
    subprocess.run(["git", "init", "-q", tmp_path / "repository"], check=True)
    with pytest.raises(UserError, match=message):
        run([tmp_path / path for path in paths], tmp_path / out, shared_store)


def test_a_signal_file_beside_its_header_is_one_recording(tmp_path):
    for name in ("a.hea", "a.mat", "b.mat", "B.XML", "c.txt"):
        (tmp_path / name).touch()
    found = find_recordings([tmp_path, tmp_path / "b.mat"])
    assert [path.name for path in found] == ["B.XML", "a.hea", "b.mat"]
    assert find_recordings([tmp_path / "a"]) == [tmp_path / "a"]
