"""A file dropped into methods/ or tasks/ is enough; a broken one does not stop the others."""

import sys

import pytest

import methods
from benchmark import registry as module
from benchmark.api import UserError
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
    with pytest.raises(UserError, match=r"methods\.broken is broken: ModuleNotFoundError"):
        found.method("broken")


def test_two_stages_of_one_name_are_refused(drop):
    found = drop("again", PLUGIN.replace("class Twist", "class PTACL"))
    assert "two specs are called PTACL" in found.broken["methods.again"]


def test_two_methods_of_one_name_are_refused(drop):
    found = drop("again", PLUGIN.replace('"twist"', '"mae"'))
    assert "two methods are called mae" in found.broken["methods.again"]


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
