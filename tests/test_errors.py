"""Whatever is asked wrongly: one line that says what to do, exit code 2, no traceback."""

import argparse
import errno
import importlib
import json
import subprocess
import sys

import pytest

from benchmark.cli import main, parser

PLAIN = {"new", "show", "boards", "golden", "simulate", "completion", "prepare", "store"}
"""Commands whose result is a file that they write and name, or a script, or that have commands."""


def commands():
    """Every command with its parser; those below another by both words."""

    def walk(above, words):
        for action in above._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, below in action.choices.items():
                    yield (*words, name), below
                    yield from walk(below, (*words, name))

    return {" ".join(words): below for words, below in walk(parser(), ())}


@pytest.mark.parametrize("name", commands())
def test_every_command_shows_an_example(name):
    text = commands()[name].format_help()
    assert "example" in text
    assert f"ecgcmr {name}" in text or name == "bench"


@pytest.mark.parametrize("name", sorted(commands().keys() - PLAIN))
def test_every_command_with_a_result_speaks_json(name):
    assert "--json" in commands()[name].format_help()


@pytest.fixture
def wrong(tmp_path, monkeypatch, capsys):
    """Ask something, and return the one line of the answer."""
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))

    def ask(*arguments):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr().err.strip()
        assert code == 2, said
        assert len(said.splitlines()) == 1
        assert "Traceback" not in said
        return said

    return ask


RUN = ("run", "--method", "mae", "--task", "phenotype")


@pytest.mark.parametrize(
    ("arguments", "next_step"),
    [
        ((), "see ecgcmr --help"),
        (("stauts",), "did you mean status?"),
        (("run",), "see ecgcmr run --help"),
        (("run", "--method", "ptcal", "--task", "cvd"), "did you mean ptacl"),
        (("run", "--method", "", "--task", "cvd"), "there is"),
        (("run", "--method", "ptacl[sigma=]", "--task", "cvd"), "sigma"),
        (("run", "--method", "mae", "--task", "phenotypes"), "did you mean phenotype"),
        ((*RUN, "--seeds", "x"), "see ecgcmr run --help"),
        ((*RUN, "--seeds", "0"), "from 1 to"),
        ((*RUN, "--fractions", "nan"), "above 0"),
        ((*RUN, "--fractions", "a"), "a list such as"),
        ((*RUN, "--fractions", ","), "no fraction"),
        ((*RUN, "--scale", "tinny"), "did you mean tiny"),
        ((*RUN, "--preset", "harder", "--dry-run"), "hard"),
        ((*RUN, "--cohort", "simulatd"), "did you mean simulated"),
        ((*RUN, "--cohort", "wfdb"), "ecgcmr prepare wfdb"),
        ((*RUN, "--track", "papers"), "did you mean paper"),
        ((*RUN, "--modality", "eeg"), "did you mean ecg"),
        ((*RUN, "--commands", "--executor", "slurm", "--detach"), "a scheduler of your own"),
        (("boards", "--seeds", "1"), "name methods, or 'all'"),
        (("boards", "--method", "mae", "--seeds", "0"), "between 1 and 20"),
        ((*RUN, "--device", "cdua"), "did you mean cuda"),
        ((*RUN, "--workers", "0"), "at least 1"),
        (("list", "methodes"), "did you mean methods"),
        (("reproduce", "MMCL Table 9"), "did you mean"),
        (("check", "--layer", "Z"), "there are"),
        (("check", "--layer", "D", "--against", "nowhere"), "no git ref"),
        (("gc", "--unused-for", "soon"), "30d"),
        (("gc", "--cohort", "simulated-tinny"), "simulated"),
        (("gc", "--prepared", "ukb"), "prepared"),
        (("privacy", "nowhere"), "no such file"),
        (("completion", "csh"), "did you mean zsh"),
        (("prepare", "ukbb"), "did you mean ukb"),
        (("neighbours", "nowhere", "--method", "mae"), "no such recording"),
        (("simulate", "--as-ukb", "x", "--people", "-1"), "at least one"),
    ],
)
def test_nonsense(wrong, arguments, next_step):
    assert next_step in wrong(*arguments)


def test_files_that_cannot_be_written(wrong, tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    assert "cannot write" in wrong(*RUN, "--scale", "smoke", "--leaderboards", below)
    assert "file" in wrong("check", "--layer", "A", "--summary", below)
    assert "cannot be written" in wrong("simulate", "--as-ukb", below, "--people", "1")


@pytest.mark.parametrize("content", ["", "[", "{}", '{"rows": NaN}', '{"rows": [{"x": NaN}]}'])
def test_rows_that_are_none(wrong, tmp_path, content):
    folder = tmp_path / "rows" / "simulated-smoke" / "harmonised" / "phenotype"
    folder.mkdir(parents=True)
    (folder / "mae.json").write_text(content)
    for command in (RUN, ("boards",)):
        assert "mae.json" in wrong(*command, "--scale", "smoke", "--leaderboards", tmp_path)


def test_a_store_that_is_no_folder(wrong, tmp_path):
    (tmp_path / "store").touch()
    for command in ("status", "gc", (*RUN, "--scale", "smoke")):
        words = (command,) if isinstance(command, str) else command
        assert "set ECGCMR_STORE" in wrong(*words)


def failing(monkeypatch, error):
    """Let ``list`` fail in some way."""

    def fail(*_):
        raise error

    monkeypatch.setattr(importlib.import_module("benchmark.listing"), "listing", fail)


def test_a_full_disk_anywhere_is_one_line(wrong, monkeypatch):
    failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    assert "make room" in wrong("list")


def test_what_should_not_happen_keeps_its_traceback(monkeypatch, capsys):
    failing(monkeypatch, ValueError("too odd"))
    assert main(["list"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.strip().splitlines()[-1].startswith("ecgcmr: this is a fault of ecgcmr")


def test_a_device_that_is_not_here_is_told_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    import torch

    missing = "cuda" if torch.backends.mps.is_available() else "mps"
    place = ("--scale", "smoke", "--leaderboards", str(tmp_path), "--device", missing)
    assert main([*RUN, *place]) == 2  # after the plan, on lines of its own
    assert "there is no device" in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "store" / "done").iterdir())


def test_the_plan_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    place = ("--scale", "smoke", "--leaderboards", str(tmp_path))
    assert main([*RUN, *place, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["found"] == []
    assert plan["seconds"] == sum(stage["seconds"] for stage in plan["run"]) > 0
    assert not (tmp_path / "simulated-smoke").exists()


def test_help_imports_nothing_heavy():
    code = "import sys; from benchmark.cli import parser; parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    heavy = {"torch", "numpy", "pandas", "sklearn", "matplotlib", "xgboost", "scipy"}
    assert loaded
    assert not heavy & set(loaded.split())
