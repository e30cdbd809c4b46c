"""A file dropped into methods/ or tasks/ is enough; a broken one does not stop the others."""

import json
import os
import subprocess
import sys

import pytest

import methods
from benchmark import registry as module
from benchmark.api import UserError
from benchmark.listing import listing, text
from benchmark.registry import registry, suggestion
from benchmark.stage import UnboundFieldError

PLUGIN = '''
"""A twist on MMCL."""
from dataclasses import dataclass
from typing import ClassVar

from benchmark.api import Variant
from methods.mmcl import MMCL


@dataclass(frozen=True, kw_only=True)
class Twist(MMCL):
    """MMCL with both directions weighted alike."""

    variants: ClassVar = {"twist": Variant({"image_weight": 0.5}, tracks=("harmonised",))}
'''


@pytest.fixture
def drop(tmp_path, monkeypatch):
    """Drop a file into methods/ for the time of one test."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    before = set(sys.modules)

    def put(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        registry.cache_clear()
        return registry()

    yield put
    registry.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("methods."):
            del sys.modules[name]


def test_a_dropped_file_is_a_method(drop):
    found = drop("twist", PLUGIN)
    entry = found.method("twist")
    assert entry.origin == "methods.twist"
    assert entry.summary == "MMCL with both directions weighted alike."
    method = entry.on_track("harmonised", "tiny")
    assert method.image_weight == 0.5
    assert method.recipe == found.method("mmcl").on_track("harmonised", "tiny").recipe


def test_a_broken_file_is_reported_and_the_rest_go_on(drop):
    found = drop("broken", "import no_such_module_anywhere")
    assert "ptacl" in found.methods
    assert "no_such_module_anywhere" in found.broken["methods.broken"]
    with pytest.raises(
        UserError, match=r"methods\.broken is broken: ModuleNotFoundError.*list methods"
    ):
        found.method("broken")


def test_two_stages_of_one_name_are_refused(drop):
    found = drop("zagain", PLUGIN.replace("class Twist", "class PTACL"))
    assert "two specs are called PTACL: methods.ptacl keeps" in found.broken["methods.zagain"]


def test_two_methods_of_one_name_are_refused(drop):
    found = drop("zagain", PLUGIN.replace('"twist"', '"mae"'))
    assert "two methods are called mae: methods.mae keeps" in found.broken["methods.zagain"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('{"image_weight": 0.5}', '{"image_wieght": 0.5}', "image_wieght"),
        ("tracks=", 'head="linaer", tracks=', "linaer"),
        ('("harmonised",)', '("harmonized",)', "did you mean harmonised"),
        ('("harmonised",)', '("paper",), protocol="mmlc"', "mmlc"),
    ],
)
def test_a_method_that_no_board_could_show_is_broken(drop, before, after, message):
    found = drop("twist", PLUGIN.replace(before, after))
    assert message in found.broken["methods.twist"]
    assert "twist" not in found.methods
    assert "ptacl" in found.methods


@pytest.mark.parametrize("name", ["a|b", "../up", "Two Words", ""])
def test_names_that_no_file_or_table_could_hold_are_refused(drop, name):
    found = drop("again", PLUGIN.replace('"twist"', repr(name)))
    assert "a name holds small letters" in found.broken["methods.again"]


def test_suggestions():
    assert suggestion("ptacll", ["ptacl", "mae"]) == "did you mean ptacl?"
    assert suggestion("x", ["ptacl", "mae"]) == "there is mae, ptacl"


def test_an_unknown_track_is_refused():
    with pytest.raises(UserError, match="did you mean harmonised"):
        module.track_module("harmonized")


def test_a_method_without_a_cohort_has_no_digest():
    method = registry().method("ptacl").on_track("harmonised", "tiny")
    with pytest.raises(UnboundFieldError, match="cohort is not set"):
        _ = method.digest


def test_stages_have_unique_names():
    names = [cls.__name__ for cls in registry().classes.values()]
    assert len(names) == len(set(names))


# ------------------------------------------------------------------------- installed packages

TASK = """
from dataclasses import dataclass
from tasks.demographics import Demographics

@dataclass(frozen=True, kw_only=True)
class Another(Demographics):
    name = "another"

@dataclass(frozen=True, kw_only=True)
class Half(Demographics.__mro__[1]):
    name = "half"
"""
COHORT = """
from dataclasses import dataclass
from benchmark.api import Cohort

@dataclass(frozen=True, kw_only=True)
class Others(Cohort):
    \"\"\"Other people.\"\"\"
    name = "others"
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put packages where an installer would, for the time of one test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def put(package, version, **modules):
        entries = {"methods": [], "tasks": [], "cohorts": []}
        for kind_and_name, source in modules.items():
            kind, _, name = kind_and_name.partition("_")
            (tmp_path / f"{name}.py").write_text(source)
            entries[kind].append(f"{name} = {name}")
        info = tmp_path / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
        groups = (f"[ecgcmr_bench.{kind}]\n" + "\n".join(e) for kind, e in entries.items())
        (info / "entry_points.txt").write_text("\n".join(groups))
        registry.cache_clear()
        return tmp_path

    yield put
    registry.cache_clear()
    for name in set(sys.modules) - before:
        if not name.startswith(("methods.", "tasks.", "benchmark.")):
            del sys.modules[name]


def test_packages_join_by_entry_points_and_lists_say_whose(install):
    install("third-party", "1.2", methods_third=PLUGIN, tasks_thirdtask=TASK, cohorts_people=COHORT)
    found = registry()
    assert found.method("twist").origin == "third"
    assert found.package(found.method("twist").cls) == "third-party 1.2"
    assert found.package(found.method("mae").cls) == ""
    assert found.cohort("others").__name__ == "Others"
    tables = listing(None)
    for kind, name in (("methods", "twist"), ("tasks", "another"), ("cohorts", "others")):
        (row,) = (row for row in tables[kind] if row["name"] == name)
        assert row["package"] == "third-party 1.2"
    (line,) = (line for line in text(tables).splitlines() if line.startswith("  twist "))
    assert line.endswith("(ecg+cmr, ranked, from third-party 1.2)")
    (broken,) = (row for row in tables["tasks"] if "broken" in row)
    assert "the task half does not say its kind, title" in broken["broken"]
    assert "broken" not in str(tables["methods"])


def test_the_projects_own_name_wins_and_both_origins_are_named(install):
    install("third-party", "1.2", methods_third=PLUGIN.replace('"twist"', '"mae"'))
    assert registry().method("mae").origin == "methods.mae"
    why = "two methods are called mae: methods.mae keeps the name, not third (third-party 1.2)"
    assert why in registry().broken["third"]


def test_of_two_packages_the_first_by_name_wins(install):
    install("b-package", "1", methods_second=PLUGIN.replace("class Twist", "class Second"))
    install("a-package", "3", methods_first=PLUGIN)
    assert registry().method("twist").origin == "first"
    why = "two methods are called twist: first (a-package 3) keeps the name, not second (b-package"
    assert why in registry().broken["second"]


def test_a_package_may_name_its_class_and_must_define_what_it_names(install):
    folder = install("third-party", "1.2", methods_third=PLUGIN, tasks_empty="x = 1")
    entries = folder / "third-party-1.2.dist-info" / "entry_points.txt"
    entries.write_text(entries.read_text().replace("= third", "= third:Twist"))
    registry.cache_clear()
    assert registry().method("twist").origin == "third"
    assert "empty is named for tasks and defines none" in registry().broken["empty"]


@pytest.mark.parametrize(
    ("source", "trace"),
    [
        ("import sys\nprint('[')\nsys.exit(3)", "SystemExit: 3"),
        ("import pytest\npytest.skip('not here', allow_module_level=True)", "Skipped"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("class Odd(Exception):\n    __str__ = None\nraise Odd", "Odd"),
        ("def x(:", "SyntaxError"),
        ("import methods.no_such_thing", "ModuleNotFoundError"),
        (PLUGIN.replace("image_weight", "cohort_weight"), "cohort_weight"),
        (PLUGIN + "    @property\n    def views(self): raise SystemExit(4)", "SystemExit: 4"),
    ],
)
def test_odd_plugins_do_not_take_the_command_line_down(install, source, trace):
    folder = install("odd", "0", methods_odd=source)
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", "list", "methods", "--json"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert trace in rows["odd"]["broken"]
    assert rows["odd"]["package"] == "odd 0"
    assert "ptacl" in rows
