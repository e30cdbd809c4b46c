"""The Tab key: what a shell is told could stand at the end of a line."""

import os
import shutil
import subprocess
import sys

import pytest

from benchmark.registry import registry


def completions(line, tmp_path):
    """Ask as the shells' scripts do: the answer comes on file descriptor 8, or into a file."""
    answer = tmp_path / "answer"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    subprocess.run([sys.executable, "-m", "benchmark"], env=environment, check=True, timeout=60)
    return [name.strip() for name in answer.read_text().splitlines()]


def test_commands_and_options(tmp_path):
    assert completions("ecgcmr stat", tmp_path) == ["status"]
    assert "--json" in completions("ecgcmr status --", tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ecgcmr run --task retr", "retrieval"),
        ("ecgcmr run --cohort simu", "simulated"),
        ("ecgcmr run --preset permuted", "permuted-pairs"),
        ("ecgcmr run --track pa", "paper"),
        ("ecgcmr compare tabular@", "tabular@mmcl"),
        ("ecgcmr compare mae tabular@", "tabular@mmcl"),
    ],
)
def test_values(tmp_path, line, expected):
    assert completions(line, tmp_path) == [expected]


def test_every_name_of_a_list(tmp_path):
    names = {name for name in registry().methods if name.startswith("mmcl")}
    assert set(completions("ecgcmr run --method mmcl", tmp_path)) == names
    found = completions("ecgcmr run --method mae,mmcl,mmcl", tmp_path)
    assert set(found) == {f"mae,mmcl,{name}" for name in names - {"mmcl"}}


def test_files_are_left_to_the_shell(tmp_path):
    assert completions("ecgcmr prepare ukb --table MMCL", tmp_path) == []
    assert completions("ecgcmr reproduce 'MMCL Table VII", tmp_path) != []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_sound(ecgcmr, tmp_path, shell):
    script = ecgcmr("completion", shell, store=tmp_path).stdout
    assert "ecgcmr" in script
    if shutil.which(shell):
        check = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
        assert (check.returncode, check.stderr) == (0, "")
