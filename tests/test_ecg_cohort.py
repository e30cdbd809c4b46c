"""What any source of ECGs gets from the harness, on the smallest one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from benchmark.api import UserError
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.ecg_cohort import ECGCohort, Records
from benchmark.cohorts.prepared import data_folder
from benchmark.cohorts.recordings import Fault
from benchmark.cohorts.ukb.cohort import UKB


@dataclass(frozen=True, kw_only=True)
class Files(ECGCohort):
    """One npy file (12, samples) a record, named PERSON-NUMBER."""

    name: ClassVar[str] = "files"

    @classmethod
    def find(cls, raw: Path) -> Records:
        paths = sorted(path.name for path in raw.glob("*.npy"))
        table = pd.DataFrame({"path": paths, "person": [path.split("-")[0] for path in paths]})
        table["qrs_number"] = 11.0
        table["AF"] = 0.0
        table["Chagas"] = [float(path.endswith("-1.npy")) for path in paths]
        return Records(raw, table)

    @classmethod
    def read(cls, root: Path, record: str) -> tuple[np.ndarray, float]:
        return np.load(root / record), 250.0

    @classmethod
    def files(cls, root: Path, record: str) -> tuple[Path, ...]:
        return (root / record,)


@pytest.fixture(autouse=True)
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    (tmp_path / "raw").mkdir()
    for number, name in enumerate(("a-1", "a-2", "b-1", "c-1")):
        np.save(tmp_path / "raw" / f"{name}.npy", wave(number))
    return tmp_path / "raw"


def wave(number: int, seconds: float = 10.0) -> np.ndarray:
    time = np.arange(round(250 * seconds)) / 250
    return np.sin(2 * np.pi * (5 + number) * time) * np.linspace(0.5, 1, 12)[:, None]


def prepared(raw: Path) -> tuple[CohortData, dict[str, int]]:
    done = Files.prepare(raw)
    out = {r: n for step in done.report.as_json()["flow"] for r, n in step["excluded"].items()}
    return CohortData(data_folder("files", done.fingerprint)), out


def test_three_methods_make_a_cohort(raw: Path) -> None:
    data, out = prepared(raw)
    assert data.hash_id.tolist() == ["a", "b", "c"]
    assert not out
    steps = 2 * np.arange(5000) / 1000
    for row, number in enumerate((0, 2, 3)):
        expected = np.sin(2 * np.pi * (5 + number) * steps) * np.linspace(0.5, 1, 12)[:, None]
        assert np.abs(data.ecg[row] * 0.005 - expected)[:, 100:-100].max() < 0.01
    # Covariates it does not know are missing; measures and labels of its own are kept.
    assert list(data.people.columns) == ["id", "age", "sex", "height", "weight", "qrs_number"]
    assert data.people[["age", "sex"]].isna().all(axis=None)
    assert data.diagnoses["Chagas"].tolist() == [1, 1, 1]
    assert data.diagnoses["AF"].tolist() == [0, 0, 0]
    assert data.diagnoses["MI"].isna().all()
    assert Files.at("tiny").modalities == ("ecg",)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (wave(0, 8), Fault.SHORT),
        (np.where(np.arange(2500) == 7, np.nan, wave(0)), Fault.SAMPLES_MISSING),
        (wave(0)[:11], Fault.LEADS),
        (wave(0).T, Fault.LEADS),
        (1000 * wave(0), Fault.SCALE),
        (np.zeros((12, 2500)), Fault.FLAT),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_signal_is_found_for_every_source(
    raw: Path, bad: np.ndarray, fault: Fault
) -> None:
    np.save(raw / "b-1.npy", bad)
    data, out = prepared(raw)
    assert data.hash_id.tolist() == ["a", "c"]
    assert out == {fault: 1}


def test_the_next_recording_of_the_person_is_taken(raw: Path) -> None:
    (raw / "a-1.npy").write_bytes(b"no array")
    data, out = prepared(raw)
    assert not out
    assert data.diagnoses["Chagas"].tolist() == [0, 1, 1]  # labels are the taken recording's


def test_a_record_of_two_people_is_a_mistake_in_the_source(raw: Path) -> None:
    twice = pd.DataFrame({"path": ["x", "x"], "person": ["a", "b"]})
    with pytest.raises(ValueError, match="a path of its own, and a person"):
        Records(raw, twice)
    with pytest.raises(ValueError, match="a path of its own, and a person"):
        Records(raw, pd.DataFrame({"path": ["x", "y"], "person": ["a", None]}))


def test_what_to_type_is_said(raw: Path) -> None:
    with pytest.raises(UserError, match="run: ecgcmr prepare files --raw DIR"):
        Files.at("tiny")
    with pytest.raises(UserError, match="the cohort ukb is prepared by: ecgcmr prepare ukb"):
        UKB.prepare(raw)
