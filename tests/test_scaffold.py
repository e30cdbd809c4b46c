"""What ``ecgcmr new`` writes works at once, and nothing of the user's is ever touched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import methods
import tasks
from benchmark.api import UserError
from benchmark.planning import Request, plan
from benchmark.registry import registry
from benchmark.scaffold import TEMPLATES, new_method, new_task
from benchmark.testing import check_method, check_task

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of its own, whose methods and tasks are found beside ours."""
    for package in (methods, tasks):
        folder = tmp_path / package.__name__
        folder.mkdir()
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    (tmp_path / "tests").mkdir()
    before = set(sys.modules)
    yield tmp_path
    registry.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith(("methods.", "tasks.", "ecgcmr_")):
            del sys.modules[name]


def ruff(folder):
    lint = ("check", "--per-file-ignores", "test_*.py:D")
    for command in (lint, ("format", "--check")):
        place = ("--config", ROOT / "pyproject.toml", folder)
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *place], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_a_new_method_passes_the_kit(checkout):
    made = new_method("fresh-idea", root=checkout)
    assert [path.relative_to(checkout).as_posix() for path in made.files] == [
        *("methods/fresh_idea.py", "tests/test_fresh_idea.py")
    ]
    assert ".venv/bin/ecgcmr run --method fresh-idea --task phenotype --scale smoke" in made.then
    ruff(checkout)
    registry.cache_clear()
    assert registry().method("fresh-idea").origin == "methods.fresh_idea"
    assert registry().broken == {}
    check_method("fresh-idea")


@pytest.mark.parametrize(
    ("like", "inherits"), [("mmcl", {}), ("ptacl-global", {"local_weight": 0.0}), ("eccl", {})]
)
def test_a_twist_is_its_parent_but_for_the_loss(checkout, like, inherits):
    new_method("fresh-twist", like=like, root=checkout)
    ruff(checkout)
    registry.cache_clear()
    assert registry().broken == {}
    entry, parent = registry().method("fresh-twist"), registry().method(like)
    assert issubclass(entry.cls, parent.cls)
    assert (entry.variant.tracks, entry.head) == (("harmonised",), parent.head)
    own, theirs = (e.on_track("harmonised", "smoke") for e in (entry, parent))
    for name in ("recipe", "ecg", "cmr", *inherits):
        assert getattr(own, name) == getattr(theirs, name)
    asked = Request(methods=("fresh-twist",), tasks=("phenotype",), scale="smoke")
    assert len(plan(asked).jobs) == 3


def test_a_new_task_passes_the_kit(checkout):
    new_task("fresh-task", root=checkout)
    ruff(checkout)
    registry.cache_clear()
    assert registry().task("fresh-task").target_names == ("LAVI", "LAEF")
    check_task("fresh-task")


@pytest.mark.parametrize("kind", ["method", "task"])
def test_a_package_of_its_own(checkout, monkeypatch, kind):
    folder = checkout / "package"
    make = {"method": new_method, "task": new_task}[kind]
    made = make("fresh-thing", package=folder, root=checkout / "no such place")
    assert made.then[0] == f"pip install -e {folder}"
    ruff(folder)
    text = (folder / "pyproject.toml").read_text()
    assert f'[project.entry-points."ecgcmr_bench.{kind}s"]' in text
    monkeypatch.syspath_prepend(str(folder))
    info = folder / "ecgcmr_fresh_thing-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: ecgcmr-fresh-thing\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(
        f"[ecgcmr_bench.{kind}s]\nfresh-thing = ecgcmr_fresh_thing\n"
    )
    registry.cache_clear()
    found = getattr(registry(), kind)("fresh-thing")
    cls = found.cls if kind == "method" else type(found)
    assert registry().package(cls) == "ecgcmr-fresh-thing 0.1.0"
    with pytest.raises(UserError, match="exists already and stays as it is"):
        make("other-thing", package=folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_idea", "cannot be a method's name"),
        ("Idea", "cannot be a method's name"),
        ("3d", "cannot be a method's name"),
        ("a--b", "cannot be a method's name"),
        ("../up", "cannot be a method's name"),
        ("ptacl[sigma=1]", "cannot be a method's name"),
        ("", "cannot be a method's name"),
        ("x" * 31, "cannot be a method's name"),
        ("all", "means something else"),
        ("references", "means something else"),
        ("class", "means something else"),
        ("mae", "there is a method called mae already"),
        ("m-m-c-l", None),
        ("recipe", "would make a second class Recipe"),
        ("variant", "would hide a name"),
    ],
)
def test_names_that_cannot_be_taken(checkout, name, message):
    if message is None:  # class names differ in capitals: MMCL and MMCL's letters one by one
        with pytest.raises(UserError, match="would make a second class MMCL"):
            new_method(name, root=checkout)
    else:
        with pytest.raises(UserError, match=message):
            new_method(name, root=checkout)
    assert not list((checkout / "methods").iterdir())


@pytest.mark.parametrize("path", ["methods/fresh_idea.py", "tests/test_fresh_idea.py"])
def test_nothing_is_overwritten(checkout, path):
    (checkout / path).write_text("mine")
    with pytest.raises(UserError, match="exists already and stays as it is"):
        new_method("fresh-idea", root=checkout)
    assert [p.read_text() for p in checkout.rglob("*.py")] == ["mine"]


def test_a_folder_of_the_modules_name_would_be_imported_instead(checkout):
    (checkout / "methods" / "blocks").mkdir()
    with pytest.raises(UserError, match="blocks exists already and stays as it is"):
        new_method("blocks", root=checkout)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ("mmlc", "did you mean mmcl"),
        ("supervised", "not trained by a loss"),
        ("ecg-features", "not trained by a loss"),
        ("mae@mmcl", "not part of the harmonised track"),
        ("ptacl[sigma=0.2]", "names a method as it is: ptacl"),
    ],
)
def test_what_a_method_cannot_start_from(checkout, like, message):
    with pytest.raises(UserError, match=message):
        new_method("fresh-idea", like=like, root=checkout)


def test_without_a_checkout_a_package_is_offered(tmp_path):
    with pytest.raises(UserError, match="--package DIR makes a package of its own"):
        new_method("fresh-idea", root=tmp_path)


def test_templates_are_part_of_the_package():
    told = (ROOT / "pyproject.toml").read_text()
    assert '"benchmark.templates" = ["*.txt"]' in told
    assert {path.suffix for path in TEMPLATES.iterdir()} == {".txt"}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("target", "options", "run"),
    [
        ("new-method", "", ("--method", "fresh-thing", "--task", "phenotype")),
        ("new-method", "--like mmcl", ("--method", "fresh-thing", "--task", "phenotype")),
        ("new-task", "", ("--method", "random-init", "--task", "fresh-thing")),
    ],
)
def test_from_make_to_a_row(tmp_path, target, options, run):
    """As an author would, in a checkout of their own."""
    place = tmp_path / "checkout"
    for folder in ("benchmark", "methods", "tasks", "tests"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, place)
    shutil.copytree(ROOT / "leaderboards", place / "leaderboards")
    binaries = place / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(sys.executable)
    (binaries / ".installed").touch()
    script = binaries / "ecgcmr"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m benchmark "$@"\n')
    script.chmod(0o755)

    def call(*command):
        place_first = {**os.environ, "ECGCMR_STORE": str(tmp_path / "store")}
        done = subprocess.run(
            command, cwd=place, env=place_first, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "wrote" in call("make", target, "NAME=fresh-thing", f"ARGS={options}")
    quiet = ("-p", "no:benchmark", "-q")
    assert "passed" in call(sys.executable, "-m", "pytest", *quiet, "tests/test_fresh_thing.py")
    boards = tmp_path / "boards"
    call(str(script), "run", *run, "--scale", "smoke", "--leaderboards", str(boards))
    (row,) = (boards / "rows").rglob(f"{run[1]}.json")
    assert json.loads(row.read_text())["rows"]
