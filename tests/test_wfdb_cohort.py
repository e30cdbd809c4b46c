from __future__ import annotations

import csv
import json
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import wfdb

from benchmark.api import UserError
from benchmark.cohorts import ecg_cohort, wfdb_cohort
from benchmark.cohorts.cohort import COVARIATES, DIAGNOSES, LEADS, CohortData
from benchmark.cohorts.ecg_cohort import Exclusion, Prepared
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.cohorts.prepared import data_folder, prepared_folder
from benchmark.cohorts.recordings import Fault
from benchmark.cohorts.simulated.ecg import draw_ecg
from benchmark.cohorts.simulated.population import draw_block
from benchmark.cohorts.simulated.presets import PRESETS
from benchmark.cohorts.splits import split_of
from benchmark.cohorts.wfdb_cohort import WFDB, Sources, prepare

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples"


@pytest.fixture(scope="module")
def ecgs() -> np.ndarray:
    """(10, 12, 5000) int16 in steps of 5 uV, of simulated people."""
    preset = PRESETS["default"]
    return draw_ecg(draw_block(0, 0, preset, people=10), 0, 0, preset)[0]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def write(
    root: Path,
    name: str,
    steps: np.ndarray,
    comments: Sequence[str] = (),
    rate: float = 500,
    leads: Sequence[str] = LEADS,
) -> None:
    """Write a WFDB record whose samples are steps of 5 uV."""
    folder = (root / name).parent
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        Path(name).name,
        fs=rate,
        units=["mV"] * len(leads),
        sig_name=list(leads),
        d_signal=np.asarray(steps, dtype=np.int64).T,
        fmt=["16"] * len(leads),
        adc_gain=[200.0] * len(leads),
        baseline=[0] * len(leads),
        comments=list(comments),
        write_dir=str(folder),
    )


def data_of(done: Prepared) -> CohortData:
    assert done.fingerprint is not None
    return CohortData(data_folder("wfdb", done.fingerprint))


def flow(done: Prepared) -> dict[str, int]:
    """Every step and every exclusion of a report."""
    found: dict[str, int] = {}
    for step in done.report.as_json()["flow"]:
        found[step["people"]] = step["number"]
        found |= step["excluded"]
    return found


# ---------------------------------------------------------------------------------------- PTB-XL

STATEMENTS = """\
,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal ECG,1.0,,,NORM,NORM
IMI,inferior myocardial infarction,1.0,,,MI,IMI
INJAS,subendocardial injury in anteroseptal leads,1.0,,,MI,AMI
LVH,left ventricular hypertrophy,1.0,,,HYP,LVH
ABQRS,abnormal QRS,,1.0,,,
SR,sinus rhythm,,,1.0,,
AFIB,atrial fibrillation,,,1.0,,
"""

# ecg_id, patient_id, age, sex, height, weight, date, statements, simulated person
ROWS = [
    (1, 15709.0, 56, 1, None, 63, "1984-11-09 09:17:34", {"NORM": 100.0, "SR": 0.0}, 0),
    (2, 13243.0, 300, 0, 178, None, "1986-02-01 10:00:00", {"IMI": 35.0, "AFIB": 0.0}, 1),
    (3, 13243.0, 300, 0, None, None, "1987-02-01 10:00:00", {"NORM": 80.0, "SR": 0.0}, 2),
    (4, 20372.0, 24, 1, 160, 55, "1990-01-01 00:00:00", {"LVH": 100.0, "SR": 0.0}, 3),
    (5, 20372.0, 19, 1, 160, 50, "1985-01-01 00:00:00", {"ABQRS": 0.0}, 4),
    (6, 17014.0, 70, 0, 0, -5, "1985-03-01 00:00:00", {"INJAS": 0.0, "SR": 0.0}, 5),
    (7, None, 70, 0, None, None, "1985-03-02 00:00:00", {"NORM": 100.0, "SR": 0.0}, 6),
]


def ptbxl(root: Path, ecgs: np.ndarray, rows: Sequence[tuple] = ROWS, **changes: Any) -> None:
    """Write the tree of PTB-XL; ``changes`` replace columns of its table."""
    table = []
    for ecg_id, patient, age, sex, height, weight, date, codes, person in rows:
        high = f"records500/00000/{ecg_id:05d}_hr"
        low = f"records100/00000/{ecg_id:05d}_lr"
        write(root, high, ecgs[person])
        # As a polyphase filter would, but by the mean of five samples.
        write(root, low, ecgs[person].reshape(12, 1000, 5).mean(axis=-1).round(), rate=100)
        table.append((ecg_id, patient, age, sex, height, weight, date, str(codes), low, high))
    columns = "ecg_id patient_id age sex height weight recording_date scp_codes filename_lr"
    frame = pd.DataFrame(table, columns=[*columns.split(), "filename_hr"]).assign(**changes)
    frame.to_csv(root / "ptbxl_database.csv", index=False)
    (root / "scp_statements.csv").write_text(STATEMENTS)


def test_ptbxl_people_labels_and_arrays(raw: Path, ecgs: np.ndarray) -> None:
    ptbxl(raw, ecgs)
    done = prepare(Sources(raw))
    data = data_of(done)
    # By date: 15709, then 20372's earlier recording, 17014, and 13243's earlier recording.
    assert data.hash_id.tolist() == ["15709", "20372", "17014", "13243"]
    assert (data.ecg == ecgs[[0, 4, 5, 1]]).all()
    people = data.people
    assert list(people.columns) == ["id", *COVARIATES]
    assert people["age"].tolist() == [56, 19, 70, 90]  # 300 stands for over 89
    assert people["sex"].tolist() == [0, 0, 1, 1]  # 1 is male here and female there
    assert people["height"].fillna(-1).tolist() == [-1, 160, -1, 178]
    assert people["weight"].fillna(-1).tolist() == [63, 50, -1, -1]
    labels = data.diagnoses.fillna(-1)
    assert list(labels.columns) == list(DIAGNOSES)
    assert labels["MI"].tolist() == [0, -1, 1, 1]  # nothing diagnostic: unknown; likelihood 0: yes
    assert labels["AF"].tolist() == [0, -1, 0, 1]  # no rhythm named: unknown
    assert (labels[["CAD", "DM", "HF", "CM"]] == -1).all(axis=None)
    assert list(data.phenotypes.columns) == list(PHENOTYPE_NAMES)
    assert data.phenotypes.isna().all(axis=None)
    assert data.about == {"spacing": None, "source": "PTB-XL", "records": 500}
    assert not data.has("cine")
    assert flow(done) == {
        "records": 7,
        Exclusion.NO_PATIENT: 1,
        "people": 4,
        "in the cohort": 4,
    }
    assert done.report.counts["ages over 89, taken as 90"] == 2


def test_cohort_is_found_under_its_name_and_is_private(raw: Path, ecgs: np.ndarray) -> None:
    with pytest.raises(UserError, match="run: ecgcmr prepare wfdb --raw DIR"):
        WFDB.at("tiny")
    ptbxl(raw, ecgs)
    done = prepare(Sources(raw))
    cohort = WFDB.at("tiny")
    assert cohort == WFDB.at("full")
    assert (cohort.fingerprint, cohort.people) == (done.fingerprint, 4)
    assert cohort.modalities == ("ecg", "covariates")
    assert cohort.title == "wfdb"
    data = data_of(done)
    assert (data.split == split_of(["15709", "20372", "17014", "13243"])).all()
    assert not {*data.people["id"]} & {*data.hash_id}
    for path in prepared_folder("wfdb").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_ptbxl_in_the_folder_it_unpacks_into(raw: Path, ecgs: np.ndarray) -> None:
    ptbxl(raw / "ptb-xl-1.0.3", ecgs, ROWS[:2])
    assert len(data_of(prepare(Sources(raw, layout="ptbxl"))).people) == 2
    ptbxl(raw / "copy", ecgs, ROWS[:1])
    with pytest.raises(UserError, match="holds PTB-XL twice"):
        prepare(Sources(raw))


@pytest.mark.parametrize("how", ["told", "alone"])
def test_copies_at_100_hz(raw: Path, ecgs: np.ndarray, how: str) -> None:
    ptbxl(raw, ecgs)
    if how == "alone":
        (raw / "records500").rename(raw.parent / "elsewhere")
    data = data_of(prepare(Sources(raw, records100=how == "told")))
    assert data.about["records"] == 100
    for found, true in zip(data.ecg, ecgs[[0, 4, 5, 1]], strict=True):
        # A 100 Hz copy holds what lies below 50 Hz; means of five samples come 4 ms late.
        shifted = np.roll(found, 2, axis=-1)[:, 100:-100].ravel()
        assert np.corrcoef(shifted, true[:, 100:-100].ravel())[0, 1] > 0.97


def test_first_usable_recording_counts(raw: Path, ecgs: np.ndarray) -> None:
    ptbxl(raw, ecgs)
    (raw / "records500/00000/00002_hr.dat").unlink()
    (raw / "records500/00000/00006_hr.hea").unlink()
    done = prepare(Sources(raw))
    data = data_of(done)
    assert data.hash_id.tolist() == ["15709", "20372", "13243"]
    assert (data.ecg[2] == ecgs[2]).all()
    # Age and labels are those of the recording that was taken.
    assert data.diagnoses["AF"].tolist()[2] == 0
    found = flow(done)
    assert (found["people"], found["in the cohort"], found[Fault.MISSING]) == (4, 3, 1)
    assert done.report.counts["people with a later recording than their first"] == 1
    rows = [*csv.DictReader((prepared_folder("wfdb") / "refused.csv").open())]
    assert {row["record"]: row["reason"] for row in rows} == {
        "records500/00000/00002_hr": Fault.SIGNALS,
        "records500/00000/00006_hr": Fault.MISSING,
    }
    report = json.loads((prepared_folder("wfdb") / "report.json").read_text())
    assert report["counts"]["recordings refused"] == 2


def test_file_names_stay_inside_the_folder(raw: Path, ecgs: np.ndarray) -> None:
    write(raw.parent, "secret", ecgs[9])
    names = ["../secret", str(raw.parent / "secret"), "records500/00000/00004_hr", "a\0b"]
    ptbxl(raw, ecgs, [ROWS[0], ROWS[1], ROWS[3], ROWS[5]], filename_hr=names)
    done = prepare(Sources(raw))
    assert data_of(done).hash_id.tolist() == ["20372"]
    assert flow(done)[Exclusion.OUTSIDE] == 3


def test_one_recording_is_one_person(raw: Path, ecgs: np.ndarray) -> None:
    same = ["records500/00000/00001_hr"] * 2
    ptbxl(raw, ecgs, ROWS[:2], filename_hr=same)
    done = prepare(Sources(raw))
    assert data_of(done).hash_id.tolist() == ["15709"]
    assert flow(done)[Exclusion.REPEATED] == 1


@pytest.mark.parametrize("text", ["", "nonsense", "{'NORM': ", "__import__('os')", "[1]", "{{}}"])
def test_statements_that_cannot_be_read_are_unknown(raw: Path, ecgs: np.ndarray, text: str) -> None:
    ptbxl(raw, ecgs, ROWS[:2], scp_codes=[text, "{'SR': 0.0}"])
    done = prepare(Sources(raw))
    assert data_of(done).diagnoses["AF"].fillna(-1).tolist() == [-1, 0]
    assert done.report.counts["records without statements that can be read"] == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: (raw / "scp_statements.csv").unlink(), "no such file, though PTB-XL has it"),
        (
            lambda raw: (raw / "ptbxl_database.csv").write_text("a,b\n1,2\n"),
            "no column ecg_id, pat",
        ),
        (lambda raw: (raw / "ptbxl_database.csv").write_bytes(b""), "cannot read this table"),
        (lambda raw: (raw / "ptbxl_database.csv").write_bytes(b"\xff\xfe\0x"), "cannot read this"),
        (
            lambda raw: [(raw / f"records{k}").rename(raw / f"old{k}") for k in (100, 500)],
            "neither records500 nor records100; fetch PTB-XL",
        ),
    ],
    ids=["no statements", "other table", "empty table", "not text", "no records"],
)
def test_damaged_ptbxl(
    raw: Path, ecgs: np.ndarray, damage: Callable[[Path], Any], message: str
) -> None:
    ptbxl(raw, ecgs, ROWS[:1])
    damage(raw)
    with pytest.raises(UserError, match=message) as caught:
        prepare(Sources(raw))
    assert "\n" not in str(caught.value)
    assert str(raw) in str(caught.value)


# ------------------------------------------------------------------------------------ any folder


def test_header_comments_of_the_challenges(raw: Path, ecgs: np.ndarray) -> None:
    known = {
        "g2/A10": ["Age: 74", "Sex: Male", "Dx: 426783006,164889003", "Rx: Unknown"],
        "g2/A9": ["Age: NaN", "Sex: Unknown", "Dx: 164865005"],
        "g1/B1": ["age: 300", "sex: F", "Dx: 426783006"],
        "g1/B2": ["Age: 190", "Sex: female"],
    }
    for person, (name, comments) in enumerate(known.items()):
        write(raw, name, ecgs[person], comments)
    done = prepare(Sources(raw))
    data = data_of(done)
    assert data.hash_id.tolist() == ["g1/B1", "g1/B2", "g2/A9", "g2/A10"]
    assert (data.ecg == ecgs[[2, 3, 1, 0]]).all()
    assert data.people["age"].fillna(-1).tolist() == [90, -1, -1, 74]
    assert data.people["sex"].fillna(-1).tolist() == [0, 0, -1, 1]
    assert data.diagnoses["AF"].fillna(-1).tolist() == [0, -1, 0, 1]
    assert data.diagnoses["MI"].fillna(-1).tolist() == [0, -1, 1, 0]
    assert data.about == {"spacing": None, "source": "folder"}
    assert done.report.counts["records that name no patient, each taken as a person"] == 4


def test_a_diagnosis_that_nobody_has_is_not_known_to_be_absent(raw: Path, ecgs: np.ndarray) -> None:
    write(raw, "a", ecgs[0], ["Dx: 426783006"])
    write(raw, "b", ecgs[1], ["Dx: 164889003"])
    data = data_of(prepare(Sources(raw)))
    assert data.diagnoses["AF"].tolist() == [0, 1]
    assert data.diagnoses["MI"].isna().all()


def test_one_recording_per_patient(raw: Path, ecgs: np.ndarray) -> None:
    write(raw, "patient001/s10", ecgs[0])
    write(raw, "patient001/s9", ecgs[1])
    write(raw, "files/p1000/p10000032/s1/1", ecgs[2], ["<subject_id>: 10000032"])
    write(raw, "files/p1000/p10000032/s2/2", ecgs[3], ["<subject_id>: 10000032"])
    write(raw, "x", ecgs[4], ["Patient ID: n/a"])
    done = prepare(Sources(raw))
    data = data_of(done)
    assert data.hash_id.tolist() == ["10000032", "patient001", "x"]
    assert (data.ecg == ecgs[[2, 1, 4]]).all()
    assert WFDB.at("tiny").holds == ("ecg",)  # nobody has age, sex or size


def test_real_recording_is_resampled_and_cut() -> None:
    data = data_of(prepare(Sources(EXAMPLE)))
    assert data.hash_id.tolist() == ["ptbdb_s0010_re/s0010_re"]
    assert data.people.iloc[0][["age", "sex"]].tolist() == [81, 0]
    record = wfdb.rdrecord(str(EXAMPLE / "ptbdb_s0010_re/s0010_re"))
    spectrum = np.fft.rfft(record.p_signal[:20_000, :12], axis=0)[:5001]
    expected = np.fft.irfft(spectrum, axis=0)[100:4900] / 2  # another way to 500 Hz
    assert np.abs(data.ecg[0, :, 100:4900].T * 0.005 - expected).max() < 0.02
    one, two, three = data.ecg[0, :3].astype(int)
    assert np.abs(one + three - two).max() <= 2


@pytest.mark.parametrize("rate", [250, 257, 400, 500, 1000])
def test_ten_seconds_at_any_rate(raw: Path, rate: int) -> None:
    time = np.arange(12 * rate) / rate
    wave = np.round(100 * np.sin(2 * np.pi * 7 * time) + 20 * np.arange(12)[:, None])
    write(raw, "long", wave, rate=rate)
    write(raw, "ten", wave[:, : 10 * rate], rate=rate)
    write(raw, "short", wave[:, : 10 * rate - 5], rate=rate)
    done = prepare(Sources(raw))
    data = data_of(done)
    assert data.hash_id.tolist() == ["long", "ten"]
    expected = 100 * np.sin(2 * np.pi * 7 * np.arange(5000) / 500) + 20 * np.arange(12)[:, None]
    assert np.abs(data.ecg[0] - expected).max() <= 2  # to the end: it goes on behind the cut
    assert np.abs(data.ecg[1] - expected)[:, 100:4900].max() <= 2
    assert flow(done)[Fault.SHORT] == 1


def test_amplitudes_beyond_what_int16_holds_do_not_wrap_around(raw: Path) -> None:
    steps = np.round(50 * np.sin(np.arange(5000) / 9)) * np.ones((12, 1))
    spike = steps.copy()
    spike[3, 700:702] = [32_000, -32_000]
    write(raw, "a", spike)
    header = raw / "a.hea"
    header.write_text(header.read_text().replace("200.0(0)/mV", "100.0(0)/mV"))  # now of 10 uV
    ecg = data_of(prepare(Sources(raw))).ecg[0]
    assert ecg[3, 700:702].tolist() == [32_767, -32_767]
    assert (ecg[3, :700] == 2 * steps[3, :700]).all()


# ---------------------------------------------------------------------------- damaged recordings


def _replace(old: str, new: str) -> Callable[[Path], None]:
    return lambda record: _header(record).write_text(_header(record).read_text().replace(old, new))


def _header(record: Path) -> Path:
    return record.with_suffix(".hea")


DAMAGES: Mapping[str, tuple[Callable[[Path], Any], Fault]] = {
    "header empty": (lambda r: _header(r).write_bytes(b""), Fault.HEADER),
    "header of something else": (
        lambda r: _header(r).write_text("/* a header of the other kind */\n"),
        Fault.HEADER,
    ),
    "header cut": (
        lambda r: _header(r).write_text("\n".join(_header(r).read_text().splitlines()[:5])),
        Fault.HEADER,
    ),
    "no rate": (lambda r: _replace("12 500 5000", "12")(r), Fault.RATE),
    "slow": (_replace("12 500 5000", "12 50 5000"), Fault.RATE),
    "signals gone": (lambda r: r.with_suffix(".dat").unlink(), Fault.SIGNALS),
    "signals cut": (lambda r: r.with_suffix(".dat").write_bytes(b"\0" * 999), Fault.SIGNALS),
    "lead missing": (_replace(" V6", " V7"), Fault.LEADS),
    "lead twice": (_replace(" V6", " V5"), Fault.LEADS),
    "not volts": (_replace("/mV", "/mmHg"), Fault.UNIT),
    "not mV": (_replace("200.0(0)/mV", "0.2(0)/mV"), Fault.SCALE),
    "flat": (_replace("200.0(0)/mV", "9000000(0)/mV"), Fault.FLAT),
}


def test_damaged_recordings_are_counted_and_stop_nobody(raw: Path, ecgs: np.ndarray) -> None:
    for number, (damage, _) in enumerate(DAMAGES.values()):
        write(raw, f"r{number}", ecgs[number % 10])
        damage(raw / f"r{number}")
    missing = ecgs[0].copy()
    missing[2, 100:200] = -32_768  # what WFDB has for a sample that is missing
    write(raw, "r90", missing)
    write(raw, "r91", ecgs[0, :, :2000])
    write(raw, "r92", ecgs[0])
    done = prepare(Sources(raw))
    assert (data_of(done).ecg == ecgs[:1]).all()
    rows = csv.DictReader((prepared_folder("wfdb") / "refused.csv").open())
    reasons = {row["record"]: row["reason"] for row in rows}
    expected = {f"r{k}": fault.value for k, (_, fault) in enumerate(DAMAGES.values())}
    assert reasons == {**expected, "r90": Fault.SAMPLES_MISSING, "r91": Fault.SHORT}
    found = flow(done)
    assert (found["people"], found["in the cohort"]) == (len(DAMAGES) + 3, 1)
    assert sum(found[fault] for fault in {*reasons.values()}) == len(DAMAGES) + 2


def test_an_unforeseen_error_is_a_reason_too(
    raw: Path, ecgs: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for person, name in enumerate("ab"):
        write(raw, name, ecgs[person])
    read = wfdb_cohort.read_recording

    def odd(path: Path) -> Any:
        if path.name == "a":
            raise ZeroDivisionError
        return read(path)

    monkeypatch.setattr(wfdb_cohort, "read_recording", odd)
    done = prepare(Sources(raw))
    assert data_of(done).hash_id.tolist() == ["b"]
    assert flow(done)[Exclusion.UNEXPECTED] == 1


def test_a_folder_that_goes_away_is_not_everybody_refused(raw: Path, ecgs: np.ndarray) -> None:
    write(raw, "a", ecgs[0])
    with pytest.raises(UserError, match="is gone; finished work is kept"):
        prepare(Sources(raw), begin=lambda text: raw.rename(raw.parent / "away"))


def test_nobody_left(raw: Path, ecgs: np.ndarray) -> None:
    write(raw, "a", ecgs[0, :, :2000])
    said: list[str] = []
    with pytest.raises(UserError, match="nobody is left"):
        prepare(Sources(raw), say=said.append)
    assert Fault.SHORT.value in said[-1]
    with pytest.raises(UserError, match="no wfdb cohort has been prepared"):
        WFDB.at("tiny")


# --------------------------------------------------------------------------- the work as a whole


@pytest.fixture
def many(raw: Path, ecgs: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven people in blocks of three."""
    monkeypatch.setattr(ecg_cohort, "BLOCK", 3)
    for number in range(7):
        write(raw, f"r{number}", ecgs[number], [f"Age: {20 + number}"])
    return raw


def test_work_goes_on_where_it_was_killed_and_workers_do_not_matter(
    many: Path, ecgs: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ecg_cohort.read_block

    def killed(cohort: type, work: Path, block: int) -> Any:
        if block == 2:
            raise KeyboardInterrupt
        return read(cohort, work, block)

    monkeypatch.setattr(ecg_cohort, "read_block", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(Sources(many))
    monkeypatch.setattr(ecg_cohort, "read_block", read)
    seen: list[tuple[int, int]] = []
    first = prepare(Sources(many), progress=lambda done, total, unit: seen.append((done, total)))
    assert seen == [(6, 7), (7, 7)]
    assert (data_of(first).ecg == ecgs[:7]).all()
    second = prepare(Sources(many), workers=2)
    assert second.fingerprint == first.fingerprint
    assert (data_of(second).ecg == ecgs[:7]).all()


def test_changed_files_are_read_anew(many: Path, ecgs: np.ndarray) -> None:
    first = prepare(Sources(many))
    write(many, "r0", ecgs[3] + 1, ["Age: 20"])
    second = prepare(Sources(many))
    assert second.fingerprint != first.fingerprint
    assert (data_of(second).ecg[0] == ecgs[3] + 1).all()


def test_dry_run_reads_no_signal_and_leaves_no_cohort(raw: Path, ecgs: np.ndarray) -> None:
    ptbxl(raw, ecgs)
    for path in raw.rglob("*.dat"):
        path.unlink()
    done = prepare(Sources(raw), dry_run=True)
    assert flow(done)["people whose records would be read"] == 4
    assert done.fingerprint is None
    with pytest.raises(UserError, match="no wfdb cohort"):
        WFDB.at("tiny")


# -------------------------------------------------------------------------------- wrong requests


def test_what_to_fetch_is_said_when_there_is_nothing(raw: Path) -> None:
    for folder, layout in (
        (raw / "missing", "auto"),
        (raw, "auto"),
        (raw, "ptbxl"),
        (raw, "folder"),
    ):
        with pytest.raises(UserError) as caught:
            prepare(Sources(folder, layout=layout))
        text = str(caught.value)
        assert text.startswith(f"{folder}: no ")
        for word in ("PhysioNet", "PTB-XL 1.0.3", "CC BY 4.0", "--raw"):
            assert word in text
        assert "\n" not in text


def test_ptbxl_is_not_read_as_any_folder(raw: Path, ecgs: np.ndarray) -> None:
    ptbxl(raw, ecgs, ROWS[:1])
    with pytest.raises(UserError, match="this is PTB-XL; leave --layout folder out"):
        prepare(Sources(raw, layout="folder"))
    with pytest.raises(UserError, match="no layout is called 'ptb'; there is auto, ptbxl, folder"):
        prepare(Sources(raw, layout="ptb"))


def test_command_line(raw: Path, ecgs: np.ndarray, ecgcmr: Callable, store: Path) -> None:
    ptbxl(raw, ecgs)
    done = ecgcmr("prepare", "wfdb", "--raw", raw, "--workers", 1, store=store)
    assert "in the cohort" in done.stdout
    assert WFDB.at("tiny").people == 4
