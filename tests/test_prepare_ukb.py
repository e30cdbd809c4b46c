"""From UK Biobank's raw files to a cohort, on simulated people written in those formats."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from ukb_files import as_nifti, nifti_affine, write_nifti

from benchmark.api import UserError
from benchmark.cli import parser
from benchmark.cohorts.cohort import AS_CODED, COVARIATES, DIAGNOSES, CohortData
from benchmark.cohorts.phenotypes import PHENOTYPE_NAMES
from benchmark.cohorts.prepared import (
    Preparation,
    data_folder,
    prepared_folder,
    read_current,
    write_current,
)
from benchmark.cohorts.simulated.cine import draw_stack
from benchmark.cohorts.simulated.ecg import draw_ecg
from benchmark.cohorts.simulated.long_axis import draw_long_axis
from benchmark.cohorts.simulated.population import draw_block
from benchmark.cohorts.simulated.presets import PRESETS
from benchmark.cohorts.splits import fraction_rank, split_of
from benchmark.cohorts.ukb import cardiosoft, dicom
from benchmark.cohorts.ukb import prepare as prepare_module
from benchmark.cohorts.ukb.cine import Cine
from benchmark.cohorts.ukb.cohort import UKB, among
from benchmark.cohorts.ukb.files import find_files
from benchmark.cohorts.ukb.images import ImageOptions, assemble_images, assemble_long_axis
from benchmark.cohorts.ukb.labels import ECG, LONG_AXIS, SHORT_AXIS
from benchmark.cohorts.ukb.prepare import Sources, prepare, settle
from benchmark.cohorts.ukb.reasons import Reason
from benchmark.cohorts.ukb.write import Simulation, write_ukb
from benchmark.engine.store import Store
from benchmark.planning import Request, jobs_of
from benchmark.registry import registry
from benchmark.runner import bring

ROOT = Path(__file__).resolve().parent.parent
PEOPLE, FEW = 8, 3
SIMULATION = Simulation(people=PEOPLE, frames=10, rows=72, columns=64, spacing=2.4, withdrawn=0)
IMAGES = ImageOptions(frames=10, size=48, spacing=2.4)
EIDS = [SIMULATION.id_of(number) for number in range(1, PEOPLE + 1)]


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    return write_ukb(tmp_path_factory.mktemp("ukb") / "files", SIMULATION)


@pytest.fixture(scope="session")
def finished(written, tmp_path_factory):
    """A store in which all people have been prepared."""
    store = tmp_path_factory.mktemp("finished") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGCMR_STORE", str(store))
        prepare(Sources(raw=(written.raw,), tables=written.tables, images=IMAGES))
    return store


@pytest.fixture
def raw(written, tmp_path):
    """A copy of the raw files that a test may damage: the same people, files of the same state."""
    folder = tmp_path / "raw"
    shutil.copytree(written.raw, folder)
    return folder


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def sources(written, raw):
    return Sources(raw=(raw,), tables=written.tables, images=IMAGES)


@pytest.fixture
def few(sources, raw):
    """The files of the first three people alone."""
    for eid in EIDS[FEW:]:
        for path in raw.glob(f"{eid}_*"):
            path.unlink()
    return sources


@pytest.fixture
def prepared(finished, sources, store):
    """The same with everybody prepared in the test's store."""
    shutil.copytree(finished, store)
    return sources


def current_data():
    return CohortData(data_folder("ukb", read_current("ukb")["fingerprint"]))


def bulk(raw, number, field=SHORT_AXIS):
    (path, *_) = sorted(raw.glob(f"{EIDS[number - 1]}_{field}_*"))
    return path


def a_list(path, *people):
    path.write_text("".join(f"{person}\n" for person in people))
    return path


def excluded(report):
    return sum(report.excluded, Counter())


# ----------------------------------------------------------------------------- there and back


def test_simulated_people_come_back_from_their_raw_files(sources):
    done = prepare(replace(sources, images=replace(IMAGES, long_axis=True)))
    data = current_data()
    assert data.hash_id.tolist() == [str(eid) for eid in EIDS]
    assert data.split.tolist() == split_of(map(str, EIDS)).tolist()
    assert data.people["id"].is_unique
    assert not data.people["id"].str.contains(r"\d").any()

    preset = PRESETS["default"]
    block = draw_block(0, 0, preset)
    ecg, r_peaks = draw_ecg(block, 0, 0, preset)
    np.testing.assert_array_equal(data.ecg, ecg[:PEOPLE])
    complexes = np.isfinite(r_peaks[:PEOPLE]).sum(axis=1)
    np.testing.assert_array_equal(data.people["qrs_number"], complexes)
    assert data.people["qrs_duration"].between(60, 250).all()
    drawing = {"frames": 10, "size": 72, "spacing": 2.4}
    for row in range(PEOPLE):
        frames, _ = draw_stack(block, 0, 0, row, preset, **drawing)
        stack = Cine(frames=frames[..., 4:68], spacing=2.4, gap=10.0)
        images = assemble_images(stack, IMAGES)
        np.testing.assert_array_equal(data.cine[row], images.cine)
        np.testing.assert_array_equal(data.volumes[row], images.volumes)
        frames = draw_long_axis(block, 0, 0, preset, **drawing, rows=[row])
        view = Cine(frames=frames[..., 4:68], spacing=2.4)
        np.testing.assert_array_equal(data.long_axis[row], assemble_long_axis(view, IMAGES))

    assert tuple(data.phenotypes) == PHENOTYPE_NAMES
    np.testing.assert_allclose(data.phenotypes, block.measured[:PEOPLE], rtol=1e-4, atol=1e-4)
    assert tuple(data.diagnoses) == (*DIAGNOSES, *AS_CODED.values())
    clean = data.diagnoses[list(DIAGNOSES)]
    np.testing.assert_array_equal(clean, block.person.diagnoses[:PEOPLE])
    person = block.person
    truth = np.stack([person.age, person.male, person.height, person.weight], 1)[:PEOPLE]
    difference = np.abs(data.people[list(COVARIATES)].to_numpy(float) - truth)
    assert (difference.max(axis=0) <= [1, 0, 0.06, 0.06]).all()

    assert not excluded(done.report)
    assert data.about == {
        "spacing": 2.4,
        "crop": {"motion": PEOPLE},
        "when": "ever",
    }


PROGRAM = """\
import time
from pathlib import Path
from benchmark.cohorts.ukb import prepare as module
from benchmark.cohorts.ukb.images import ImageOptions

module.BLOCK = 2
SOURCES = module.Sources(
    raw=(Path({raw!r}),), tables={tables!r}, images=ImageOptions(frames=10, size=48, spacing=2.4)
)

def stop(done, total, unit):
    if done >= 2:
        print("stopped", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    {run}
"""


def program(sources, path, run):
    """Write a program that prepares a cohort in a process of its own."""
    tables = tuple(map(str, sources.tables))
    path.write_text(PROGRAM.format(raw=str(sources.raw[0]), tables=tables, run=run))
    return [sys.executable, path]


def test_workers_and_sizes_of_blocks_do_not_matter(prepared, tmp_path):
    before = read_current("ukb")["fingerprint"]
    shutil.rmtree(prepared_folder("ukb"))
    two = program(
        prepared, tmp_path / "two.py", "print(module.prepare(SOURCES, workers=2).fingerprint)"
    )
    done = subprocess.run(two, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == before, done.stderr


def test_the_cohort_is_used_by_its_name(prepared, tmp_path):
    cohort = UKB.at("smoke")
    assert (cohort.fingerprint, cohort.people) == (read_current("ukb")["fingerprint"], PEOPLE)
    assert (cohort.title, cohort.simulated) == ("ukb", False)
    cohort.run(SimpleNamespace(out=tmp_path))
    assert len(CohortData(tmp_path).cine) == PEOPLE
    assert not CohortData(tmp_path).has("long_axis")


def test_another_time_rule_is_another_cohort(prepared):
    ever = UKB.at("tiny").fingerprint
    assert prepare(replace(prepared, when="prevalent")).fingerprint != ever
    assert current_data().about["when"] == "prevalent"


def test_diagnoses_that_would_pass_as_clean_are_refused(prepared):
    current = read_current("ukb")
    path = data_folder("ukb", current["fingerprint"]) / "cohort.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"endpoints": "clean"}))
    assert UKB.at("tiny").people
    path.write_text(json.dumps(about | {"endpoints": "as-coded"}))
    words = current["command"].split()
    old = " ".join([*words, "--endpoints", "as-coded"])
    write_current("ukb", current | {"command": old})
    with pytest.raises(UserError, match="'as-coded' in place of the clean ones") as error:
        UKB.at("tiny")
    assert str(error.value).endswith(current["command"])


def test_both_definitions_of_the_diseases_are_tasks(prepared):
    clean, as_coded = (registry().task(name) for name in ("cvd", "cvd-as-coded"))
    data, cohort = current_data(), UKB.at("tiny")
    assert clean.targets(data).columns.tolist() == list(DIAGNOSES)
    table = as_coded.targets(data)
    assert table.columns.tolist() == [*DIAGNOSES, "I21"]
    assert table.isin([0, 1]).all(axis=None)
    request = Request(methods=("mae",), tasks=("cvd-as-coded",), cohort="ukb", fractions=(1.0,))
    assert list(jobs_of(registry().method("mae"), as_coded, cohort, 0, request))


def test_converted_images_bring_their_segmentation(few, raw):
    path = bulk(raw, 1)
    path.unlink()
    frames, masks = draw_stack(
        draw_block(0, 0, PRESETS["default"]),
        *(0, 0, 0, PRESETS["default"]),
        **{"frames": 10, "size": 72, "spacing": 2.4},
    )
    folder = raw / "converted" / f"{EIDS[0]}_2"
    affine = nifti_affine()
    affine[:3, :2] *= 2.4 / np.linalg.norm(affine[:3, 0])
    write_nifti(folder / "sa.nii.gz", as_nifti(frames.astype(np.uint16)), affine)
    write_nifti(folder / "seg_sa.nii.gz", as_nifti(masks), affine)
    done = prepare(few)
    assert done.report.crop == {"segmentation": 1, "motion": FEW - 1}
    stack = Cine(
        frames=frames,
        spacing=2.4,
        gap=10.0,
        segmentation=masks,
        segmented_frames=tuple(range(10)),
    )
    images = assemble_images(stack, IMAGES)
    for name in ("cine", "volumes"):
        prepared = getattr(current_data(), name)[0].astype(int)
        assert np.abs(prepared - getattr(images, name)).max() <= 1


# ----------------------------------------------------------------------------- damaged files


def test_damaged_files_are_counted_and_stop_nobody_else(prepared, raw):
    whole = UKB.at("tiny")
    before = {name: np.array(getattr(current_data(), name)) for name in ("ecg", "cine", "volumes")}
    bulk(raw, 1, ECG).write_bytes(b"")
    bulk(raw, 2).write_bytes(bulk(raw, 2).read_bytes()[:5000])
    bulk(raw, 3, ECG).unlink()
    bulk(raw, 4, SHORT_AXIS).unlink()
    bulk(raw, 5, ECG).rename(raw / f"{EIDS[4]}_{ECG}_3_0.xml")
    bulk(raw, 8, ECG).write_text("<a>")
    done = prepare(prepared)
    assert done.fingerprint != whole.fingerprint
    assert excluded(done.report) == {
        Reason.EMPTY_FILE: 1,
        Reason.ZIP_DAMAGED: 1,
        Reason.NO_ECG: 1,
        Reason.NO_CMR: 1,
        Reason.NO_SAME_VISIT: 1,
        Reason.XML_MALFORMED: 1,
    }
    assert [number for _, number in done.report.flow] == [8, 5, 5, 2]
    data = current_data()
    assert data.hash_id.tolist() == [str(EIDS[5]), str(EIDS[6])]
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(data, name), array[[5, 6]])

    refused = pd.read_csv(prepared_folder("ukb") / "refused.csv")
    assert len(refused) == 3
    assert refused["file"].tolist() == [
        str(bulk(raw, 1, ECG)),
        str(bulk(raw, 2)),
        str(bulk(raw, 8, ECG)),
    ]
    kept = json.loads((prepared_folder("ukb") / "report.json").read_text())
    assert kept == done.report.as_json()
    text = done.report.text()
    assert "zip is damaged" in text
    assert not any(str(eid) in text for eid in EIDS)


def test_an_error_that_nobody_thought_of_is_one_more_reason(few, monkeypatch):
    read = dicom.read_short_axis
    calls = []

    def fails_once(path):
        calls.append(path)
        if len(calls) == 2:
            raise ZeroDivisionError
        return read(path)

    monkeypatch.setattr(dicom, "read_short_axis", fails_once)
    assert excluded(prepare(few).report) == {Reason.UNEXPECTED: 1}
    assert len(current_data().ecg) == FEW - 1


def test_lack_of_memory_says_nothing_about_a_file(few, monkeypatch):
    def fails(path):
        raise MemoryError

    monkeypatch.setattr(dicom, "read_short_axis", fails)
    with pytest.raises(UserError, match="fewer --workers"):
        prepare(few)


def test_a_drive_that_goes_away_leaves_nobody_out(few, raw, monkeypatch):
    read = cardiosoft.read_ecg

    def last(content):
        raw.rename(raw.with_name("away"))
        return read(content)

    monkeypatch.setattr(cardiosoft, "read_ecg", last)
    with pytest.raises(UserError, match="is gone"):
        prepare(few)
    assert read_current("ukb") is None


def test_long_axis_is_asked_for_explicitly(few, raw):
    bulk(raw, 1, LONG_AXIS).unlink()
    done = prepare(replace(few, images=replace(IMAGES, long_axis=True)))
    assert excluded(done.report) == {Reason.NO_LONG_AXIS: 1}
    assert current_data().long_axis.shape == (FEW - 1, 10, 48, 48)


def test_people_without_a_row_or_without_age_are_left_out(prepared, written, tmp_path):
    tables = []
    for path in written.tables:
        table = pd.read_csv(path, dtype=str)
        table = table[table["eid"] != str(EIDS[0])]
        if "31-0.0" in table:
            table.loc[table["eid"] == str(EIDS[1]), "31-0.0"] = None
        tables.append(tmp_path / path.name)
        table.to_csv(tables[-1], index=False)
    done = prepare(replace(prepared, tables=tuple(tables)))
    assert excluded(done.report) == {Reason.NOT_IN_TABLE: 1, Reason.NO_COVARIATES: 1}
    assert current_data().hash_id.tolist() == [str(eid) for eid in EIDS[2:]]


def test_tables_of_another_application_are_noticed(sources, written, tmp_path):
    table = pd.read_csv(written.tables[0], dtype=str)
    table["eid"] = table["eid"].astype("int64") + 500
    table.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(UserError, match="different applications"):
        prepare(replace(sources, tables=(tmp_path / "other.csv",)))


def test_nobody_left_is_said_with_the_counts(few, raw):
    for number in range(1, FEW + 1):
        for path in raw.glob(f"{EIDS[number - 1]}_{ECG}_*"):
            path.write_bytes(b"")
    said = []
    with pytest.raises(UserError, match="nobody is left"):
        prepare(few, say=said.append)
    assert "file is empty" in said[-1]


def test_a_dry_run_reads_no_ecg_and_makes_no_cohort(few, monkeypatch):
    def fails(content):
        raise AssertionError

    monkeypatch.setattr(cardiosoft, "read_ecg", fails)
    done = prepare(few, dry_run=True)
    assert done.report.flow[-1] == ("whose files would be read", FEW)
    assert done.fingerprint is None
    with pytest.raises(UserError, match="ecgcmr prepare ukb"):
        UKB.at("tiny")


# ----------------------------------------------------------------------------- again and again


def count_reads(monkeypatch):
    reads = []
    read = dicom.read_short_axis
    monkeypatch.setattr(dicom, "read_short_axis", lambda path: reads.append(path) or read(path))
    return reads


def test_people_whose_files_have_not_changed_are_not_read_again(few, raw, monkeypatch):
    first = prepare(few)
    reads = count_reads(monkeypatch)
    assert prepare(few).fingerprint == first.fingerprint
    assert reads == []
    changed = bulk(raw, 3)
    os.utime(changed, ns=(1, 1))
    assert prepare(few).fingerprint == first.fingerprint
    assert reads == [changed]
    reads.clear()
    prepare(replace(few, images=replace(IMAGES, size=40)))
    assert len(reads) == FEW


def test_what_odd_files_are_kept_is_remembered(few, monkeypatch):
    images = replace(few, images=replace(IMAGES, frames=12))
    first = prepare(images).report
    assert dict(first.flags) == {"another number of frames, resampled over the heart beat": FEW}
    reads = count_reads(monkeypatch)
    again = prepare(images).report
    assert reads == []
    assert (again.flags, again.crop) == (first.flags, first.crop)


@pytest.mark.parametrize("name", ["cine.npy", "ids.parquet", "../keys.parquet"])
def test_nothing_is_taken_over_from_a_damaged_preparation(prepared, name):
    cohort, fingerprint = UKB.at("tiny"), read_current("ukb")["fingerprint"]
    path = data_folder("ukb", fingerprint) / name
    path.write_bytes(path.read_bytes()[:-64] + bytes(64) if name == "cine.npy" else b"")
    if not name.startswith(".."):
        assert not bring([cohort], Store(), device="cpu").ok
    assert prepare(prepared).fingerprint == fingerprint
    assert bring([cohort], Store(), device="cpu").ok


def test_a_killed_preparation_goes_on_where_it_was(few, monkeypatch, tmp_path):
    """kill -9 while people are read; the finished blocks are not read again."""
    command = program(few, tmp_path / "p.py", "module.prepare(SOURCES, progress=stop)")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "stopped\n"
    with pytest.raises(UserError, match="another process is preparing"):
        prepare(few)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    monkeypatch.setattr(prepare_module, "BLOCK", 2)
    reads = count_reads(monkeypatch)
    resumed = prepare(few).fingerprint
    assert len(reads) == FEW - 2
    shutil.rmtree(prepared_folder("ukb"))
    assert prepare(few).fingerprint == resumed


def test_a_kill_while_the_cohort_is_written_loses_nothing(few, monkeypatch):
    def killed(self, *args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Preparation, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(few)
    assert read_current("ukb") is None
    reads = count_reads(monkeypatch)
    prepare(few)
    assert reads == []
    assert UKB.at("tiny").people == FEW


# ----------------------------------------------------------------------------- withdrawals


def test_withdrawn_people_are_found_whatever_form_their_id_has():
    """A text in a list of numbers is never found: a filter that compares the two removes nobody."""
    ids = [9_000_001, 9_000_002, 9_000_003]
    expected = [False, True, False]
    for form in (int, str, np.int64):
        assert among(map(form, ids), {9_000_002}).tolist() == expected
        assert among(ids, [form(9_000_002)]).tolist() == expected


@pytest.mark.parametrize("form", ["{}", "{}.0", '"{}"', "\ufeff{}"])
def test_withdrawn_people_are_left_out_whatever_form_the_list_has(prepared, form, tmp_path):
    gone = a_list(tmp_path / "w.csv", form.format(EIDS[2]))
    done = prepare(replace(prepared, withdrawn=(gone,)))
    assert excluded(done.report) == {Reason.WITHDRAWN: 1}
    assert current_data().hash_id.tolist() == [str(eid) for eid in EIDS if eid != EIDS[2]]


def test_a_list_that_has_grown_stops_every_run_until_the_cohort_is_prepared_again(
    prepared, tmp_path, monkeypatch
):
    gone = a_list(tmp_path / "w.csv", 9_999_999)
    sources = replace(prepared, withdrawn=(gone,))
    settle(prepare(sources).fingerprint)
    before = UKB.at("tiny")
    data = current_data()
    old = {name: np.array(getattr(data, name)) for name in ("ecg", "cine", "volumes")}
    old_split, old_rank = data.split, fraction_rank(data.hash_id, 0)
    phenotypes = data.phenotypes

    a_list(gone, 9_999_999, EIDS[3], EIDS[6])
    with pytest.raises(UserError, match=r"^2 of the people .*--withdrawn") as refused:
        UKB.at("tiny")
    assert not any(str(eid) in str(refused.value) for eid in EIDS)

    reads = count_reads(monkeypatch)
    done = prepare(sources)
    assert reads == [], "nobody else is read again"
    assert done.discard
    with pytest.raises(UserError, match="still in the store"):
        UKB.at("tiny")
    settle(done.fingerprint)
    assert UKB.at("tiny").digest != before.digest

    stay = [0, 1, 2, 4, 5, 7]
    data = current_data()
    assert data.hash_id.tolist() == [str(EIDS[k]) for k in stay]
    for name, array in old.items():
        np.testing.assert_array_equal(getattr(data, name), array[stay])
    pd.testing.assert_frame_equal(data.phenotypes, phenotypes.iloc[stay].reset_index(drop=True))
    assert data.split.tolist() == old_split[stay].tolist()
    assert fraction_rank(data.hash_id, 0).tolist() == old_rank[stay].tolist()

    # Their ids stand in the list of withdrawn people and nowhere else.
    for path in prepared_folder("ukb").rglob("*"):
        if path.is_file() and path.name != "withdrawn.txt":
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content = pd.read_parquet(path).to_csv().encode()
            assert not any(str(EIDS[k]).encode() in content for k in (3, 6)), path.name
            assert not any(EIDS[k].to_bytes(8, "little") in content for k in (3, 6)), path.name


def test_lists_of_an_unfinished_preparation_count(prepared, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "full")

    more = replace(prepared, withdrawn=(a_list(tmp_path / "w.csv", EIDS[0]),))
    with monkeypatch.context() as patch:
        patch.setattr(Preparation, "finish", full)
        with pytest.raises(UserError, match="full"):
            prepare(more)
    with pytest.raises(UserError, match="1 of the people in the ukb cohort have withdrawn"):
        UKB.at("tiny")


def test_a_record_that_cannot_be_read_asks_for_another_preparation(prepared, tmp_path):
    prepare(replace(prepared, withdrawn=(a_list(tmp_path / "w.csv", 9_999_999),)))
    fingerprint = read_current("ukb")["fingerprint"]
    settle(fingerprint)
    (data_folder("ukb", fingerprint) / "ids.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="damaged; prepare it again"):
        UKB.at("tiny")


def test_nobody_comes_back_with_a_shorter_list(prepared, tmp_path):
    gone = a_list(tmp_path / "first.csv", EIDS[1])
    settle(prepare(replace(prepared, withdrawn=(gone,))).fingerprint)
    again = prepare(prepared)
    assert excluded(again.report) == {Reason.WITHDRAWN: 1}
    assert not again.discard


def test_a_list_that_is_gone_stops_every_run(prepared, tmp_path):
    gone = a_list(tmp_path / "w.csv", EIDS[1])
    settle(prepare(replace(prepared, withdrawn=(gone,))).fingerprint)
    UKB.at("tiny")
    gone.unlink()
    with pytest.raises(UserError, match=r"w\.csv is gone"):
        UKB.at("tiny")


def ecgcmr(*words):
    """Run a command in this process."""
    options = parser().parse_args([*map(str, words)])
    return options.run(options)


def test_what_was_made_from_an_earlier_cohort_is_removed(prepared, store, tmp_path, capsys):
    gone = a_list(tmp_path / "w.csv", 9_999_999)
    command = [
        *("prepare", "ukb", "--raw", *prepared.raw, "--table", *prepared.tables),
        *("--withdrawn", gone, "--frames", 10, "--size", 48, "--spacing", 2.4, "--workers", 1),
    ]
    assert ecgcmr(*command) == 0
    old = UKB.at("tiny")
    assert bring([old], Store(), device="cpu").ok
    assert (store / "done" / old.digest / "ids.parquet").exists()
    (store / "work" / "unfinished").mkdir()

    ecgcmr(*command)  # nothing has changed
    assert (store / "done" / old.digest).exists()

    a_list(gone, 9_999_999, EIDS[0])
    at_work = Store().claim(old)
    with pytest.raises(UserError, match="somebody is at work"):
        ecgcmr(*command)
    at_work.close()
    with pytest.raises(UserError, match="still in the store"):
        UKB.at("tiny")
    assert ecgcmr(*command) == 0
    assert not (store / "done" / old.digest).exists()
    assert not any((store / "work").iterdir())
    assert UKB.at("tiny").people == PEOPLE - 1
    said = capsys.readouterr()
    assert "removed 1 results" in said.err
    assert not any(str(eid) in said.out + said.err for eid in EIDS)


def test_a_list_or_the_word_that_there_is_none_is_needed(capsys):
    with pytest.raises(SystemExit):
        ecgcmr("prepare", "ukb", "--raw", "x", "--table", "y")
    assert "--no-withdrawn-list" in capsys.readouterr().err


# ----------------------------------------------------------------------------- finding files


def tree(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(*roots, cache=None, withdrawn=frozenset()):
    files = find_files(roots, cache, withdrawn)
    rows = files.files[["eid", "field", "instance", "converted"]].itertuples(index=False)
    return [tuple(row) for row in rows], files


def test_files_are_told_by_their_names_wherever_they_are(tmp_path):
    tree(
        tmp_path,
        "9000001_20205_2_0.xml",
        "Bulk/Heart MRI/Short axis/90/9000001_20209_2_0.zip",
        "deep/er/9000002_20208_3_1.ZIP",
        "ukb_9000003_20205_2_0.xml",
        "9000004_20205_2_0.zip",  # an ECG is no zip
        "9000004_20210_2_0.zip",  # another field
        "9000004_6025_0_0.xml",
        "0_20205_2_0.xml",
        "-9000004_20205_2_0.txt",
        "notes.txt",
        "nifti/9000005/sa.nii.gz",
        "nifti/9000005/la_4ch.nii.gz",
        "nifti/9000005/seg_sa.nii.gz",
        "nifti/9000006_3/sa.nii",
        "nifti/9000007_20209_2_0/sa.nii.gz",
        "nifti/somebody/sa.nii.gz",
    )
    rows, files = found(tmp_path)
    assert rows == [
        (9_000_001, ECG, 2, False),
        (9_000_001, SHORT_AXIS, 2, False),
        (9_000_002, LONG_AXIS, 3, False),
        (9_000_003, ECG, 2, False),
        (9_000_005, LONG_AXIS, 2, True),
        (9_000_005, SHORT_AXIS, 2, True),
        (9_000_006, SHORT_AXIS, 3, True),
        (9_000_007, SHORT_AXIS, 2, True),
    ]
    assert files.others == 8
    paths = [files.path(row.root, row.path) for row in files.files.itertuples()]
    assert all(path.exists() for path in paths)


def test_one_file_of_a_person_and_visit_counts(tmp_path):
    tree(
        tmp_path,
        "b/9000001_20209_2_0.zip",
        "a/9000001_20209_2_0.zip",
        "a/9000001_20209_2_1.zip",
        "b/9000002_20209_2_0.zip",
        "n/9000002/sa.nii.gz",
    )
    rows, files = found(tmp_path / "b", tmp_path / "a", tmp_path / "n")
    assert rows == [(9_000_001, SHORT_AXIS, 2, False), (9_000_002, SHORT_AXIS, 2, True)]
    assert files.repeated == 3
    assert files.path(*files.files.loc[0, ["root", "path"]]).parent.name == "b"


def test_an_unchanged_folder_is_not_listed_again(tmp_path, monkeypatch):
    raw, cache = tmp_path / "raw", tmp_path / "cache"
    cache.mkdir()
    tree(raw, "x/9000001_20205_2_0.xml", "y/9000002_20205_2_0.xml", "y/other", "9000003/sa.nii")
    past = time.time() - 3600
    for folder in (raw, raw / "x", raw / "y", raw / "9000003"):
        os.utime(folder, (past, past))
    first, files = found(raw, cache=cache)
    listed, scandir = [], os.scandir

    def watch(path):
        if Path(path) != cache:
            listed.append(Path(path).name)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watch)
    second, again = found(raw, cache=cache)
    assert (second, again.others) == (first, files.others)
    assert listed == []
    tree(raw, "y/9000004_20205_2_0.xml")
    third, _ = found(raw, cache=cache)
    assert [row[0] for row in third] == [9_000_001, 9_000_002, 9_000_003, 9_000_004]
    assert listed == ["y"]
    # A folder that changed a moment ago may change again under the same time stamp.
    found(raw, cache=cache)
    assert listed == ["y", "y"]
    (path,) = cache.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"cut")
    assert found(raw, cache=cache)[0] == third


def test_no_listing_of_withdrawn_people_is_kept(tmp_path):
    raw, cache = tmp_path / "raw", tmp_path / "cache"
    cache.mkdir()
    tree(raw, "x/9000001_20205_2_0.xml", "x/9000002_20205_2_0.xml", "n/9000003_2/sa.nii.gz")
    past = time.time() - 3600
    for folder in (raw, raw / "x", raw / "n", raw / "n" / "9000003_2"):
        os.utime(folder, (past, past))
    everybody, _ = found(raw, cache=cache)
    assert len(everybody) == 3
    gone = {9_000_002, 9_000_003}
    for _ in range(2):  # they are still found, so that they are counted
        assert found(raw, cache=cache, withdrawn=gone)[0] == everybody
        (path,) = cache.iterdir()
        listing = pd.read_parquet(path).to_csv()
        assert "9000001" in listing
        assert "9000002" not in listing
        assert "9000003" not in listing
    tree(tmp_path / "other", "9000004_20205_2_0.xml")
    found(tmp_path / "other", cache=cache)
    assert not path.exists(), "nobody would take people out of it later"


def test_links_that_lead_in_circles_end(tmp_path):
    tree(tmp_path, "a/9000001_20205_2_0.xml")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    rows, files = found(tmp_path)
    assert len(rows) == 1
    assert files.repeated == 0


def test_names_that_are_not_text_are_counted_or_refused(tmp_path):
    odd = os.fsdecode(b"\xff")
    tree(tmp_path / "raw", "9000001_20205_2_0.xml", f"{odd}_9000002_20205_2_0.xml")
    rows, files = found(tmp_path / "raw", cache=tmp_path)
    assert len(rows) == 1
    assert files.others == 1
    (tmp_path / "raw" / odd).mkdir()
    with pytest.raises(UserError, match="not UTF-8"):
        find_files([tmp_path / "raw"], tmp_path)
    with pytest.raises(UserError, match="not UTF-8"):
        find_files([tmp_path / "raw" / odd], tmp_path)


def test_folders_without_bulk_files_are_an_error(tmp_path):
    with pytest.raises(UserError, match="is named like"):
        find_files([tmp_path])
    with pytest.raises(UserError, match="cannot read the folder"):
        find_files([tmp_path / "missing"])
