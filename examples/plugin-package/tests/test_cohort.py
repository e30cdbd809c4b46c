"""What is particular to the files of CODE-15% and EchoNext."""

import h5py
import numpy as np
import pandas as pd
import pytest

from benchmark.api import UserError
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.ecg_cohort import Exclusion
from benchmark.cohorts.prepared import data_folder, prepared_folder
from benchmark.cohorts.recordings import Fault
from ecgcmr_example.cohort import CODE15, EchoNext
from ecgcmr_example.imitate import people
from ecgcmr_example.task import Findings


def prepared(cohort, raw, **how):
    """Return the cohort's data and, by reason, what was left out or counted."""
    done = cohort.prepare(raw, **how)
    report = done.report.as_json()
    out = {reason: n for step in report["flow"] for reason, n in step["excluded"].items()}
    return CohortData(data_folder(cohort.name, done.fingerprint)), out | report["counts"]


def test_code15_padding_rate_leads_and_first_usable_exam(code15):
    data, counts = prepared(CODE15, code15)
    # Of ten people's worth of exams, 0 and 1 are one person's (0 is too short), 5 and 6 too, and 3
    # is too short.
    tens = np.arange(0, 40, 10)
    exam = {f"{900 + k + d}": k + e for k in tens for d, e in ((0, 1), (2, 2), (4, 4), (5, 5))}
    exam |= {f"{900 + k + d}": k + d for k in tens for d in (7, 8, 9)}
    assert sorted(data.hash_id) == sorted(exam)
    _, ecgs, rates = people(40)
    for person, stored, sb in zip(data.hash_id, data.ecg, data.diagnoses["SB"], strict=True):
        # There and back: 500 Hz to 400 Hz and again to 500 Hz, less what lies above 200 Hz.
        error = stored[:, 100:-100] * 0.005 - ecgs[exam[person], :, 100:-100]
        assert np.sqrt((error**2).mean()) < 0.02
        assert sb == (rates[exam[person]] < 60)
    assert counts[Fault.SHORT] == 4
    assert counts["people with a later recording than their first"] == 4
    assert counts["rows of files that belong to no exam"] == 2
    assert data.diagnoses[["CAD", "DM"]].isna().all(axis=None)
    assert set(data.people["sex"]) == {0, 1}


def test_one_unreadable_record_costs_only_itself(code15):
    everybody = len(prepared(CODE15, code15)[0].people)
    with h5py.File(code15 / "exams_part0.hdf5", "r+") as file:
        exams = list(file["exam_id"])
        single = [row for row, exam in enumerate(exams) if exam % 10 in (2, 4, 7)]
        file["tracings"][single[0]] = 0
        file["tracings"][single[1], 1000, 3] = np.nan
        file["tracings"][single[2], :, 5] = 0
    data, counts = prepared(CODE15, code15)
    assert len(data.people) == everybody - 3
    assert (counts[Fault.SIGNALS], counts[Fault.SAMPLES_MISSING], counts[Fault.FLAT]) == (1, 1, 1)
    refused = pd.read_csv(prepared_folder("code15") / "refused.csv").set_index("record")["detail"]
    assert refused[f"exams_part0.hdf5:{single[0]}"] == "nothing but zeros"


def test_a_file_that_is_cut_short_is_counted(code15):
    path = code15 / "exams_part1.hdf5"
    path.write_bytes(path.read_bytes()[:5000])
    _, counts = prepared(CODE15, code15)
    assert counts["files that cannot be read"] == 1
    assert counts[Exclusion.NO_SIGNAL] == 20


def test_exams_without_patient_or_there_twice_are_left_out(code15):
    exams = pd.read_csv(code15 / "exams.csv")
    exams.loc[2, "patient_id"] = np.nan
    exams = pd.concat([exams, exams.iloc[[4]]])  # which of the two is right?
    exams.to_csv(code15 / "exams.csv", index=False)
    data, counts = prepared(CODE15, code15)
    assert not {"902", "904"} & {*data.hash_id}
    assert "907" in {*data.hash_id}  # though one gap makes pandas read all ids as floats
    assert (counts[Exclusion.NO_PATIENT], counts[Exclusion.REPEATED]) == (1, 2)


def test_workers_do_not_matter_and_changed_files_are_read_anew(code15):
    first = CODE15.prepare(code15).fingerprint
    assert CODE15.prepare(code15, workers=2).fingerprint == first
    with h5py.File(code15 / "exams_part0.hdf5", "r+") as file:
        file["tracings"][:] = 1.25 * file["tracings"][:]
    assert CODE15.prepare(code15).fingerprint != first


def test_echonext_rows_follow_their_split(echonext):
    data, counts = prepared(EchoNext, echonext)
    _, ecgs, rates = people(30)
    assert len(data.people) == 30
    for row, person in enumerate(data.hash_id.astype(int) - 900):
        one, other = data.ecg[row].ravel(), ecgs[person].ravel()
        assert np.corrcoef(one, other)[0, 1] > 0.99
        assert data.people["qrs_number"][row] == pytest.approx(rates[person] / 6, abs=0.1)
    assert data.people["qrs_duration"].isna().all()  # 0 is "not measured"
    assert counts["recordings refused"] == 0


def test_echonext_of_another_release_is_refused(echonext):
    path = echonext / "EchoNext_val_waveforms.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(UserError, match="9 rows for 10"):
        EchoNext.prepare(echonext)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged or incomplete"):
        EchoNext.prepare(echonext)


@pytest.mark.parametrize("cohort", [CODE15, EchoNext])
def test_what_to_fetch_is_said(cohort, tmp_path):
    with pytest.raises(UserError) as caught:
        cohort.prepare(tmp_path)
    assert cohort.fetch in str(caught.value)
    with pytest.raises(UserError, match=f"run: ecgcmr prepare {cohort.name} --raw DIR"):
        cohort.at("tiny")


def test_findings_are_the_readers_where_there_are_any(code15, echonext):
    read, _ = prepared(CODE15, code15)
    targets = Findings().targets(read)
    assert (targets["SB"] == read.diagnoses["SB"]).all()
    assert targets["low-EF"].isna().all()
    measured, _ = prepared(EchoNext, echonext)
    targets = Findings().targets(measured)
    assert (targets["SB"] == (measured.people["qrs_number"] < 10)).all()
    assert (targets["low-EF"] == measured.diagnoses["low-EF"]).all()
    assert targets["LBBB"].isna().all()
