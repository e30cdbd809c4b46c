"""Cohorts that lie prepared in the store: publishing, resuming, locking, and what they refuse."""

import errno
import json
import multiprocessing
import os
import types
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from benchmark.api import Cohort, UserError, View
from benchmark.cohorts.arrays import create_array
from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES, CohortData
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.cohorts.prepared import (
    Preparation,
    PreparedCohort,
    data_folder,
    fingerprint_of,
    prepared_folder,
    read_current,
    stands_on_other,
)
from benchmark.cohorts.splits import split_of

PEOPLE = 5
EVERYTHING = ("ecg", "cmr", "covariates")


@dataclass(frozen=True, kw_only=True)
class Sheep(PreparedCohort):
    """A prepared cohort of a farm."""

    name: ClassVar[str] = "sheep"
    command: ClassVar[str] = "ecgcmr prepare sheep"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def publish(seed=0, *, name="sheep", recipe=0, tables=None, ecg=None, about=None):
    """Prepare a small cohort of random content; return its fingerprint."""
    rng = np.random.default_rng(seed)
    people = pd.DataFrame(rng.random((PEOPLE, 4)), columns=list(COVARIATES))
    people.insert(0, "id", [f"P{k}" for k in range(PEOPLE)])
    ids = pd.Series([str(9_000_000 + k) for k in range(PEOPLE)])
    phenotypes = pd.DataFrame(rng.random((PEOPLE, 82)), columns=list(PHENOTYPE_NAMES))
    phenotypes.iloc[1, 3] = np.nan
    diagnoses = pd.DataFrame(rng.integers(0, 2, (PEOPLE, 6)) * 1.0, columns=list(DIAGNOSES))
    frames = {"people": people, "ids": ids, "phenotypes": phenotypes, "diagnoses": diagnoses}
    frames |= tables or {}
    with Preparation(name) as preparation:
        preparation.work({"recipe": recipe})
        array = create_array(preparation.draft() / "ecg.npy", (PEOPLE, 12, 50), np.int16)
        array[:] = rng.integers(-9, 9, array.shape) if ecg is None else ecg
        array.flush()
        return preparation.finish(
            *frames.values(), about=about or {"spacing": 1.8}, holds=EVERYTHING
        )


def test_nothing_prepared_names_the_command():
    with pytest.raises(UserError, match="ecgcmr prepare sheep"):
        Sheep.at("smoke")


def test_published_cohort_is_read_as_any_other(tmp_path):
    fingerprint = publish()
    cohort = Sheep.at("smoke")
    assert cohort == Sheep.at("full")
    assert cohort.fingerprint == fingerprint
    assert cohort.modalities == EVERYTHING
    assert (cohort.title, cohort.simulated) == ("sheep", False)
    out = tmp_path / "out"
    out.mkdir()
    cohort.run(types.SimpleNamespace(out=out))
    data = CohortData(out)
    assert len(data.people) == PEOPLE
    assert data.ecg.shape == (PEOPLE, 12, 50)
    assert data.about == {"spacing": 1.8}
    assert (data.split == split_of(str(9_000_000 + k) for k in range(PEOPLE))).all()
    linked, original = (out / "ecg.npy").stat(), data_folder("sheep", fingerprint) / "ecg.npy"
    assert linked.st_ino == original.stat().st_ino  # takes no room a second time


def test_files_are_copied_where_links_are_not_possible(tmp_path, monkeypatch):
    publish()

    def refuse(*args):
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    out = tmp_path / "out"
    out.mkdir()
    Sheep.at("tiny").run(types.SimpleNamespace(out=out))
    assert fingerprint_of(out) == Sheep.at("tiny").fingerprint


def test_digest_is_of_the_fingerprint_alone():
    cohort = Sheep(fingerprint="a", people=5, holds=("ecg",))
    assert cohort.digest == Sheep(fingerprint="a", people=6, holds=EVERYTHING).digest
    assert cohort.digest != Sheep(fingerprint="b", people=5, holds=("ecg",)).digest


def test_fingerprint_is_of_the_content():
    first = publish()
    assert publish() == first
    pseudonyms = pd.DataFrame(CohortData(data_folder("sheep", first)).people)
    pseudonyms["id"] = "Q"
    assert publish(tables={"people": pseudonyms}) == first, "other sites have other pseudonyms"
    ecg = np.array(CohortData(data_folder("sheep", first)).ecg)
    ecg[2, 3, 4] += 1
    others = {
        publish(ecg=ecg),
        publish(about={"spacing": 1.9}),
        publish(tables={"ids": pd.Series([str(9_000_001 + k) for k in range(PEOPLE)])}),
        publish(seed=1),
    }
    for name, column in (("people", "age"), ("phenotypes", "LVEDV"), ("diagnoses", "AF")):
        publish()
        table = getattr(CohortData(data_folder("sheep", first)), name).copy()
        table.loc[4, column] = np.nan
        others.add(publish(tables={name: table}))
    assert first not in others
    assert len(others) == 7


def test_a_new_cohort_replaces_the_one_before_it(tmp_path):
    first = publish()
    before = Sheep.at("tiny")
    second = publish(seed=1)
    assert Sheep.at("tiny").fingerprint == second
    assert not data_folder("sheep", first).exists()
    with pytest.raises(UserError, match="run it again"):
        before.run(types.SimpleNamespace(out=tmp_path))


def test_everything_is_for_the_user_alone(store, monkeypatch):
    umask = os.umask(0)
    try:
        fingerprint = publish()
    finally:
        os.umask(umask)
    for path in [store, *store.rglob("*")]:
        assert not path.stat().st_mode & 0o077, path
    assert (data_folder("sheep", fingerprint) / "ids.parquet").stat().st_mode & 0o777 == 0o600


def test_unfinished_work_of_the_same_recipe_alone_is_gone_on_with():
    with Preparation("sheep") as preparation:
        work = preparation.work({"recipe": 1})
        (work / "block").write_text("done")
    with Preparation("sheep") as preparation:
        assert (preparation.work({"recipe": 1}) / "block").read_text() == "done"
        other = preparation.work({"recipe": 2})
        assert not any(other.iterdir())
        assert not work.exists(), "it may be about people who have withdrawn"
    publish(recipe=2)
    assert [p.name for p in prepared_folder("sheep").iterdir() if p.is_dir()] == [
        Sheep.at("tiny").fingerprint[:16]
    ]


def test_a_draft_is_begun_anew():
    with Preparation("sheep") as preparation:
        preparation.work({})
        (preparation.draft() / "cine.npy").write_text("half")
        assert not any(preparation.draft().iterdir())


def prepare_in_vain(answer):
    try:
        with Preparation("sheep"):
            answer.put("in")
    except UserError as error:
        answer.put(str(error))


def test_two_preparations_do_not_meet():
    answer = multiprocessing.get_context("spawn").Queue()
    with Preparation("sheep"), Preparation("goats"):
        process = multiprocessing.get_context("spawn").Process(
            target=prepare_in_vain, args=(answer,)
        )
        process.start()
        assert "another process is preparing the sheep cohort" in answer.get(timeout=60)
        process.join()
    with Preparation("sheep"):  # and the lock is free afterwards
        pass


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "is full"),
        (OSError("Failed to write: No space left on device"), "is full"),
        (BrokenProcessPool("died"), "fewer --workers"),
        (MemoryError(), "fewer --workers"),
    ],
)
def test_what_a_machine_lacks_is_said_in_one_line(error, message):
    umask = os.umask(0o022)
    os.umask(umask)
    with pytest.raises(UserError, match=message), Preparation("sheep"):
        raise error
    restored = os.umask(umask)
    assert restored == umask
    publish()


def test_other_errors_pass_through():
    with pytest.raises(ZeroDivisionError), Preparation("sheep"):
        raise ZeroDivisionError


def test_tables_of_different_lengths_are_a_fault_of_the_program():
    with pytest.raises(ValueError, match="diagnoses has 4 rows for 5 people"):
        publish(tables={"diagnoses": pd.DataFrame(np.zeros((4, 6)), columns=list(DIAGNOSES))})
    assert read_current("sheep") is None


@pytest.mark.parametrize("content", ["", "[]", '{"people": 3}', '{"fingerprint": "gone"}'])
def test_a_damaged_record_asks_for_another_preparation(content):
    publish()
    (prepared_folder("sheep") / "current.json").write_text(content)
    with pytest.raises(UserError, match="prepare it again"):
        Sheep.at("tiny")
    publish()
    assert Sheep.at("tiny").people == PEOPLE


def test_only_simulated_cohorts_have_presets():
    publish()
    with pytest.raises(UserError, match="no preset 'hard'"):
        Sheep.at("tiny", "hard")


def test_results_of_another_preparation_are_told_by_their_description():
    @dataclass(frozen=True, kw_only=True)
    class Look(View):
        frames: tuple[int, ...] = (1,)

    old, new = (Sheep(fingerprint=f, people=2, holds=EVERYTHING) for f in ("old", "new"))

    @dataclass(frozen=True, kw_only=True)
    class Fold(Cohort):
        parts: tuple[Cohort, ...] = ()

    described = [
        json.loads(json.dumps(stage.describe()))
        for stage in (old, Look(cohort=old), Fold(parts=(new, old)), Look(cohort=new), Fold())
    ]
    unwanted = [stands_on_other(stage, Sheep, "new") for stage in described]
    assert unwanted == [True, True, True, False, False]
