from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.stage import (
    UNSET,
    Spec,
    Stage,
    UnboundFieldError,
    bind,
    has_field,
    rewrite,
    topological,
)


@dataclass(frozen=True, kw_only=True)
class Setting(Spec):
    rate: float = 0.5
    source: Stage | None = None


@dataclass(frozen=True, kw_only=True)
class Source(Stage):
    people: int = 3
    seed: int = UNSET


@dataclass(frozen=True, kw_only=True)
class Reader(Stage):
    source: Stage = Source()
    others: tuple[Stage, ...] = ()
    setting: Setting = Setting()
    fraction: float = 1.0
    note: str = "é\n\"'"
    quiet: bool = field(default=False, metadata={"identity": False})


@dataclass(frozen=True, kw_only=True)
class Viewer(Stage):
    source: Source = Source()

    def implied_inputs(self):
        return (Reader(source=self.source, note=self.view),)

    view = "mid-slice"


READER = Reader(source=Source(seed=0))


def sha(name, fields, version=1):
    text = json.dumps(
        {"name": name, "version": version, "fields": fields}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_digest_is_the_sha256_of_canonical_json():
    source = sha("Source", {"people": 3, "seed": 0})
    setting = sha("Setting", {"rate": 0.5, "source": None})
    fields = {"source": source, "others": [], "setting": setting, "fraction": 1.0}
    assert READER.digest == sha("Reader", {**fields, "note": "é\n\"'"})


def test_the_digest_is_the_same_in_another_process():
    for hash_seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.strip() == READER.digest


@given(st.integers(-(2**53), 2**53))
def test_an_integer_in_a_float_field_is_that_float(value):
    assert Setting(rate=value).digest == Setting(rate=float(value)).digest
    assert isinstance(Setting(rate=value).rate, float)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False))
def test_different_numbers_have_different_digests(one, other):
    if other in (float("inf"), -float("inf")):
        with pytest.raises(TypeError, match=r"Setting\.rate"):
            _ = Setting(rate=other).digest
    else:
        same = repr(one) == repr(other)
        assert (Setting(rate=one).digest == Setting(rate=other).digest) == same


def test_what_is_no_identity_changes_nothing():
    assert READER.replace(quiet=True).digest == READER.digest
    assert "quiet" not in READER.describe()


@pytest.mark.parametrize(
    "change",
    [
        {"fraction": 0.1},
        {"note": ""},
        {"source": Source(seed=1)},
        {"others": (Source(seed=0),)},
        {"setting": Setting(rate=0.25)},
    ],
)
def test_every_other_field_changes_the_digest(change):
    assert READER.replace(**change).digest != READER.digest


def test_version_and_class_name_are_identity(monkeypatch):
    before = Source(seed=0).digest
    monkeypatch.setattr(Source, "version", 2)
    assert Source(seed=0).digest == sha("Source", {"people": 3, "seed": 0}, version=2) != before


def test_an_unset_field_has_no_digest_and_is_named():
    with pytest.raises(UnboundFieldError, match=r"Source\.seed is not set"):
        _ = Reader().digest


@pytest.mark.parametrize("value", [float("nan"), [1], {"a": 1}, object(), b"x"])
def test_fields_that_json_cannot_hold_exactly_are_refused(value):
    with pytest.raises(TypeError, match=r"Reader\.note"):
        _ = READER.replace(note=value).digest


def test_stages_are_frozen():
    with pytest.raises(FrozenInstanceError):
        READER.fraction = 0.5


def test_replicates_and_fractions_share_a_recipe_at_every_depth():
    other = READER.replace(source=Source(seed=7), fraction=0.1)
    assert other.recipe_digest == READER.recipe_digest
    assert READER.replace(note="").recipe_digest != READER.recipe_digest
    assert READER.replace(source=Source(people=4, seed=0)).recipe_digest != READER.recipe_digest


def test_inputs_are_found_in_tuples_and_specs_each_once_in_field_order():
    a, b, c = (Source(people=n, seed=0) for n in (1, 2, 3))
    stage = Reader(source=b, others=(a, b), setting=Setting(source=c))
    assert stage.inputs == (b, a, c)


def test_implied_inputs_are_inputs_and_identity(monkeypatch):
    viewer, view = Viewer(source=Source(seed=0)), READER.replace(note="mid-slice")
    assert viewer.inputs == (Source(seed=0), view)
    assert topological([viewer]) == [Source(seed=0), view, viewer]
    other = viewer.replace(source=Source(seed=1))
    assert (other.recipe_digest, other.digest != viewer.digest) == (viewer.recipe_digest, True)
    before = viewer.digest
    monkeypatch.setattr(Viewer, "view", "three phases")
    assert Viewer(source=Source(seed=0)).digest != before


def test_topological_puts_inputs_before_users_each_digest_once():
    base = Source(seed=0)
    left, right = Reader(source=base, note="l"), Reader(source=base, note="r")
    top = Reader(source=left, others=(right, Source(seed=0)))
    assert topological([top, right]) == [base, left, right, top]


def test_bind_fills_unset_fields_only_and_at_every_depth():
    stage = Reader(others=(Source(), Source(seed=5)), setting=Setting(source=Source()))
    bound = bind(stage, seed=2, fraction=0.1)
    assert bound.source.seed == bound.others[0].seed == bound.setting.source.seed == 2
    assert bound.others[1].seed == 5
    assert bound.fraction == 1.0


def test_rewrite_changes_inner_specs_first_and_keeps_what_did_not_change():
    def changes(spec):
        return {"people": 9} if isinstance(spec, Source) else {}

    assert rewrite(READER, changes).source.people == 9
    assert rewrite(READER, lambda spec: {}) is READER


def test_has_field_looks_into_nested_specs():
    assert has_field(READER, "rate")
    assert has_field(READER, "people")
    assert not has_field(READER, "quiet")
    assert not has_field(Source(), "fraction")


if __name__ == "__main__":
    print(READER.digest)
