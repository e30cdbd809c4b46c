"""Simulated people in UK Biobank's raw formats come back as they were, through the readers."""

import functools
import hashlib
import io
import zipfile

import numpy as np
import pandas as pd
import pydicom
import pytest
from defusedxml import ElementTree

from benchmark.api import UserError
from benchmark.cli import main
from benchmark.cohorts.cohort import DIAGNOSES, LEADS
from benchmark.cohorts.simulated.cine import draw_stack
from benchmark.cohorts.simulated.ecg import draw_ecg
from benchmark.cohorts.simulated.long_axis import draw_long_axis
from benchmark.cohorts.simulated.population import draw_block
from benchmark.cohorts.simulated.presets import PRESETS
from benchmark.cohorts.ukb import cardiosoft, dicom, labels
from benchmark.cohorts.ukb.crop import heart_centre
from benchmark.cohorts.ukb.tables import GRAMMARS, read_tables, read_withdrawn
from benchmark.cohorts.ukb.write import Simulation, imaging_visits, write_ukb
from benchmark.cohorts.ukb.write_dicom import GREY_STEP
from benchmark.cohorts.ukb.write_tables import participant_cells, write_tables

FIRST = 9_000_000
SMALL = {"frames": 10, "rows": 80, "columns": 72}
DRAWN = {"frames": 10, "size": 80, "spacing": 1.8}
PEOPLE = Simulation(people=8, **SMALL)
PRESET = PRESETS["default"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_ukb(tmp_path_factory.mktemp("raw") / "ukb", PEOPLE)


@pytest.fixture(scope="module")
def block():
    return draw_block(0, 0, PRESET)


@pytest.fixture(scope="module")
def ecg(block):
    return draw_ecg(block, 0, 0, PRESET)[0]


def bulk(written, number, field, instance=None):
    visit = imaging_visits(number)[0] if instance is None else instance
    ending = "xml" if field == labels.ECG else "zip"
    return written.raw / f"{FIRST + number}_{field}_{visit}_0.{ending}"


def window(pictures):
    """The 80 x 72 pixels in the middle of 80 x 80, in the scanner's units."""
    return pictures[..., 4:76].astype(np.uint16) * GREY_STEP


def datasets(path):
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".dcm"):
                yield pydicom.dcmread(io.BytesIO(archive.read(name)))


def test_everybody_has_the_files_of_their_visits(written):
    expected = {
        bulk(written, number, field, instance)
        for number in range(1, 9)
        for instance in imaging_visits(number)
        for field in (labels.ECG, labels.SHORT_AXIS, labels.LONG_AXIS)
    }
    assert set(written.raw.iterdir()) == expected
    assert {imaging_visits(number) for number in range(1, 9)} == {(2,), (3,), (2, 3)}


@pytest.mark.parametrize("number", [1, 3, 6])
def test_the_first_visit_has_the_cohorts_ecg(written, ecg, number):
    found = cardiosoft.read_ecg(bulk(written, number, labels.ECG).read_bytes())
    np.testing.assert_array_equal(found.ecg, ecg[number - 1])
    assert not found.flags


def test_the_device_measures_what_was_simulated(written, block):
    found = cardiosoft.read_ecg(bulk(written, 1, labels.ECG).read_bytes()).measurements
    assert set(found) == set(cardiosoft.MEASUREMENTS)
    rate = block.recorded.heart_rate[0]
    assert found["ventricular_rate"] == round(rate)
    assert found["rr_interval"] == round(60_000 / rate)
    assert -180 <= found["r_axis"] <= 180


@pytest.mark.parametrize("number", [1, 3])
def test_the_first_visit_has_the_cohorts_stack(written, block, number):
    row = number - 1
    stack, _ = draw_stack(block, 0, 0, row, PRESET, **DRAWN)
    found = dicom.read_short_axis(bulk(written, number, labels.SHORT_AXIS))
    np.testing.assert_array_equal(found.frames, window(stack))
    assert found.spacing == 1.8
    assert found.gap == pytest.approx(10)
    rr = 60_000 / block.imaged.heart_rate[row]
    assert found.rr == pytest.approx(rr, abs=0.5)
    assert found.trigger_times[0] == pytest.approx(rr * np.arange(10) / 10, abs=0.06)
    assert not found.flags


def test_the_first_visit_has_the_cohorts_four_chamber_view(written, block):
    (frames,) = draw_long_axis(block, 0, 0, PRESET, **DRAWN, rows=[2])
    found = dicom.read_long_axis(bulk(written, 3, labels.LONG_AXIS))
    np.testing.assert_array_equal(found.frames[0], window(frames))
    assert not found.flags


def test_the_repeat_visit_shows_the_same_heart_anew(written):
    def read(instance):
        ecg = cardiosoft.read_ecg(bulk(written, 6, labels.ECG, instance).read_bytes())
        cine = dicom.read_short_axis(bulk(written, 6, labels.SHORT_AXIS, instance))
        return ecg, cine

    (ecg, cine), (ecg_again, cine_again) = read(2), read(3)
    assert ecg.measurements["rr_interval"] == ecg_again.measurements["rr_interval"]
    assert (ecg.ecg != ecg_again.ecg).mean() > 0.5
    assert cine.frames.shape == cine_again.frames.shape
    assert (cine.frames != cine_again.frames).mean() > 0.5


def test_the_ecg_file_has_what_makes_reading_it_hard(written):
    content = bulk(written, 1, labels.ECG).read_bytes()
    assert content.startswith(b"<?xml version='1.0' encoding='ISO-8859-1'?>")
    with pytest.raises(UnicodeDecodeError):
        content.decode("utf-8")
    root = ElementTree.fromstring(content)
    assert len(root.findall(".//WaveformData")) == 24
    strip = root.findall("StripData/WaveformData")
    assert [wave.get("lead") for wave in strip] == list(LEADS)
    assert "\n\t" in strip[0].text
    median = root.findall("RestingECGMeasurements/MedianSamples/WaveformData")
    beat = np.array([[int(value) for value in wave.text.split(",")] for wave in median])
    assert beat.shape == (12, 600)
    # Of all deflections of the beat the QRS is the largest; its R peak is at sample 225.
    assert abs(np.abs(beat).sum(0).argmax() - 225) < 25
    total = root.find("FullDisclosure/FullDisclosureData/SampleCountTotal")
    assert len(total.tail.split(",")) == int(total.text) == 60_000
    assert root.findtext("PatientInfo/PID") == str(FIRST + 1)


def test_the_zip_is_as_the_scanner_and_the_archive_leave_it(written):
    path = bulk(written, 1, labels.SHORT_AXIS)
    files = list(datasets(path))
    series = pd.Series([one.SeriesDescription for one in files]).value_counts()
    slices = [f"CINE_segmented_SAX_b{k}" for k in range(1, len(series))]
    assert set(series.index) == {*slices, "CINE_segmented_SAX_InlineVF"}
    assert (series[slices] == 10).all()
    assert len({one.SOPInstanceUID for one in files}) == len(files)
    assert len({one.SeriesInstanceUID for one in files}) == 2 * len(slices)
    assert all(one.BitsStored == 12 and one.pixel_array.max() < 4096 for one in files)
    names = {1: "manifest.cvs", 2: "manifest.csv"}
    for number, name in names.items():
        with zipfile.ZipFile(bulk(written, number, labels.SHORT_AXIS)) as archive:
            header, *lines = archive.read(name).decode().splitlines()
            assert len(lines) == len(archive.namelist()) - 1
        assert "series discription" in header
        # The comma of the date is not quoted: one cell more than the header has names.
        assert {line.count(",") for line in lines} == {header.count(",") + 1}


def test_slices_lie_where_their_tags_say(written):
    files = [
        one for one in datasets(bulk(written, 1, labels.SHORT_AXIS)) if one.InstanceNumber == 1
    ]
    stack = [one for one in files if one.SeriesDescription != "CINE_segmented_SAX_InlineVF"]
    columns, rows = np.reshape(np.array(stack[0].ImageOrientationPatient, float), (2, 3))
    assert columns @ rows == pytest.approx(0, abs=1e-8)
    normal = np.cross(columns, rows)
    places = np.array([one.ImagePositionPatient for one in stack], float)
    np.testing.assert_allclose(np.diff(places @ normal), -10)  # seen from the apex
    np.testing.assert_allclose(np.diff(places @ columns), 0, atol=1e-8)
    np.testing.assert_allclose([float(one.SliceLocation) for one in stack], places @ normal)
    # To the left, the front and the feet lies the apex; to the feet count the rows.
    assert (np.sign(places[-1] - places[0]) == [1, -1, -1]).all()
    assert rows[2] < -0.5


def test_result_images_outline_the_ventricle(written, block):
    _, masks = draw_stack(block, 0, 0, 0, PRESET, **DRAWN)
    results = [
        one
        for one in datasets(bulk(written, 1, labels.SHORT_AXIS))
        if one.SeriesDescription.endswith("InlineVF")
    ]
    assert len(results) == 2 * len(masks)
    middle = len(masks) // 2
    overlay = results[2 * middle].overlay_array(0x6000).astype(bool)
    cavity = masks[middle, 0, :, 4:76] == 1
    assert overlay.any()
    assert cavity[overlay].all()
    assert overlay.sum() < cavity.sum() / 2

    read = dicom.read_short_axis(bulk(written, 1, labels.SHORT_AXIS))
    outlined = (masks[..., 4:76] == 1).any(axis=(0, 1))
    centre = np.argwhere(outlined).mean(axis=0)
    np.testing.assert_allclose(read.contour_centre, centre, atol=2)
    assert heart_centre(read, "inlinevf") == (read.contour_centre, "inlinevf")


def read_labels(tables, visits):
    table = read_tables(tables, labels.FIELDS)
    return (
        labels.phenotypes(table, visits),
        labels.diagnoses(table, visits),
        labels.covariates(table, visits),
    )


def first_visits(numbers):
    return pd.Series(
        [imaging_visits(number)[0] for number in numbers],
        index=pd.Index([FIRST + number for number in numbers], name="eid"),
    )


def test_the_tables_hold_the_cohorts_labels(written, block):
    phenotypes, diagnoses, covariates = read_labels(written.tables, first_visits(range(1, 9)))
    np.testing.assert_array_equal(phenotypes, block.measured[:8])
    np.testing.assert_array_equal(diagnoses, block.person.diagnoses[:8])
    person = block.person
    np.testing.assert_array_equal(covariates["age"], np.floor(person.age[:8]))
    np.testing.assert_array_equal(covariates["sex"], person.male[:8])
    np.testing.assert_allclose(covariates["height"], person.height[:8], atol=0.051)
    np.testing.assert_allclose(covariates["weight"], person.weight[:8], atol=0.051)
    assert read_tables(written.tables, [31]).dropped == 2  # one row in each, with a negative id


def test_other_visits_have_other_values(written):
    table = read_tables(written.tables, labels.FIELDS)
    both, baseline = FIRST + 6, FIRST + 1
    assert table.numbers(24100, 2)[both] != table.numbers(24100, 3)[both]
    assert table.numbers(21003, 3)[both] == table.numbers(21003, 2)[both] + 3
    assert table.numbers(21003, 0)[baseline] == table.numbers(21003, 2)[baseline] - 8
    assert np.isnan(table.numbers(24100, 0)[baseline])


@pytest.fixture(scope="module")
def cells(block):
    """What the tables say of a whole block of people, without their files."""
    from benchmark.cohorts.ukb.write import _chance, _participant, _Session

    simulation = Simulation(people=100)
    sessions = [_Session(simulation, PRESET, block, 0, repeat) for repeat in (False, True)]
    people = [_participant(simulation, k, k - 1, sessions) for k in range(1, 101)]
    return {
        person.eid: participant_cells(person, _chance(simulation, k, "diagnoses"))
        for k, person in enumerate(people, 1)
    }


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_every_grammar_says_the_same(tmp_path, block, cells, grammar):
    tables = write_tables(tmp_path, grammar, cells)
    visits = first_visits(range(1, 101))
    phenotypes, diagnoses, covariates = read_labels(tables, visits)
    np.testing.assert_array_equal(phenotypes, block.measured)
    np.testing.assert_array_equal(diagnoses, block.person.diagnoses)
    np.testing.assert_array_equal(covariates["age"], np.floor(block.person.age))
    table = read_tables(tables, labels.FIELDS)

    def said(field):
        return {
            (eid, cell.array): value
            for eid, known in cells.items()
            for cell, value in known.items()
            if cell.field == field
        }

    assert table.listed(labels.CODES).to_dict() == said(labels.CODES)
    days = table.listed_dates(labels.CODE_DATES).to_dict()
    assert {place: day.date() for place, day in days.items()} == said(labels.CODE_DATES)


def test_as_coded_and_time_rules_differ_from_clean_and_ever(tmp_path, cells):
    """The files exercise what the definitions differ in."""
    table = read_tables(write_tables(tmp_path, "r", cells), labels.FIELDS)
    visits = first_visits(range(1, 101))
    clean = labels.diagnoses(table, visits)
    coded = labels.diagnoses(table, visits, "as-coded")
    prevalent = labels.diagnoses(table, visits, when="prevalent")
    incident = labels.diagnoses(table, visits, when="incident")
    assert (coded["MI"] > clean["MI"]).any()
    assert (prevalent.fillna(0) < clean).any(axis=None)
    assert (incident == 1).any(axis=None)
    known = prevalent.notna() & incident.notna()
    assert (prevalent + incident)[known].equals(clean[known])


def test_the_withdrawn_are_the_last(written, tmp_path):
    assert read_withdrawn([written.withdrawn]) == {FIRST + 8}
    nobody = write_ukb(tmp_path / "a", Simulation(people=1, withdrawn=0, **SMALL))
    assert read_withdrawn([nobody.withdrawn]) == set()


def digests(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_person_is_the_same_whoever_else_is_written(written, tmp_path):
    again = write_ukb(tmp_path / "again", Simulation(people=1, first=3, **SMALL))
    alone, together = digests(again.raw), digests(written.raw)
    assert alone
    assert alone.items() <= together.items()


def test_ids_layout_and_progress_are_the_callers(tmp_path, ecg):
    seen = []
    files = write_ukb(
        tmp_path,
        Simulation(people=2, eid=lambda number: 10 * FIRST + number, withdrawn=2, **SMALL),
        "dx",
        "rap",
        lambda done, total: seen.append((done, total)),
    )
    eid = 10 * FIRST + 1
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert read_withdrawn([files.withdrawn]) == {eid, eid + 1}
    assert read_tables(files.tables, [31]).people.tolist() == [eid, eid + 1]
    xml = files.raw / f"Bulk/Electrocardiogram/Resting/90/{eid}_20205_2_0.xml"
    np.testing.assert_array_equal(cardiosoft.read_ecg(xml.read_bytes()).ecg, ecg[0])
    stack = files.raw / f"Bulk/Heart MRI/Short axis/90/{eid}_20209_2_0.zip"
    for one in datasets(stack):
        assert one.PatientID == str(eid)
        assert str(eid) not in one.SOPInstanceUID


@pytest.mark.parametrize("preset", ["null", "permuted-pairs"])
def test_a_strangers_heart_is_shown_where_the_preset_says_so(tmp_path, preset):
    block = draw_block(0, 0, PRESETS[preset])
    files = write_ukb(tmp_path, Simulation(people=1, preset=preset, withdrawn=0, **SMALL))
    recorded = cardiosoft.read_ecg((files.raw / f"{FIRST + 1}_20205_2_0.xml").read_bytes())
    imaged = dicom.read_short_axis(files.raw / f"{FIRST + 1}_20209_2_0.zip")
    assert recorded.measurements["ventricular_rate"] == round(block.recorded.heart_rate[0])
    assert imaged.rr == pytest.approx(60_000 / block.imaged.heart_rate[0], abs=0.5)
    assert block.recorded.heart_rate[0] != block.imaged.heart_rate[0]
    phenotypes, diagnoses, _ = read_labels(files.tables, first_visits([1]))
    np.testing.assert_array_equal(phenotypes.iloc[0], block.measured[0])
    assert diagnoses.columns.tolist() == list(DIAGNOSES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": 0}, "at least one person"),
        ({"people": 1, "first": 0}, "number 1"),
        ({"people": 2, "first": 999_999}, "numbers up to 999,999"),
        ({"people": 1, "withdrawn": 2}, "cannot withdraw"),
        ({"people": 1, "preset": "gentle"}, "known: easy, default"),
    ],
)
def test_simulations_that_cannot_be_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        Simulation(**change)


def test_nothing_is_written_over(written):
    before = digests(written.raw)
    for place in (written.raw, written.withdrawn):
        with pytest.raises(UserError, match="is not an empty folder"):
            write_ukb(place, PEOPLE)
    assert digests(written.raw) == before


def test_unknown_grammars_and_layouts_are_refused(tmp_path):
    with pytest.raises(UserError, match="known: ukbconv, r, field-name, dx, stata"):
        write_ukb(tmp_path, PEOPLE, "spss")
    with pytest.raises(UserError, match="known: flat, rap"):
        write_ukb(tmp_path, PEOPLE, layout="deep")
    assert not list(tmp_path.iterdir())


def test_the_command_line_prints_what_to_run_next(tmp_path, monkeypatch, capsys):
    small = functools.partial(Simulation, **SMALL)
    monkeypatch.setattr("benchmark.cohorts.ukb.write.Simulation", small)
    folder = tmp_path / "raw files"
    assert main(["simulate", "--as-ukb", str(folder), "--people", "1", "--first", "3"]) == 0
    printed = capsys.readouterr()
    assert f"--raw '{folder}/bulk' --table '{folder}/main.csv'" in printed.out
    assert "writing 1 simulated people" in printed.err
    assert (folder / "bulk" / f"{FIRST + 3}_20209_3_0.zip").exists()
    assert main(["simulate", "--as-ukb", str(folder)]) == 2
    assert capsys.readouterr().err == f"ecgcmr: {folder} is not an empty folder\n"


def test_one_person_alone_does_not_withdraw(tmp_path, monkeypatch, capsys):
    small = functools.partial(Simulation, **SMALL)
    monkeypatch.setattr("benchmark.cohorts.ukb.write.Simulation", small)
    for people, gone in ((1, set()), (2, {FIRST + 2})):
        folder = tmp_path / str(people)
        assert main(["simulate", "--as-ukb", str(folder), "--people", str(people)]) == 0
        assert read_withdrawn([folder / "withdrawn.csv"]) == gone
    said = capsys.readouterr().out
    assert "1 person, none of them withdrawn" in said
    assert "2 people, 1 of them withdrawn" in said


def test_pictures_are_as_large_as_uk_biobanks_unless_said_otherwise():
    simulation = Simulation(people=1)
    assert (simulation.rows, simulation.columns, simulation.frames) == (208, 192, 50)


def test_the_choices_of_the_command_line_are_the_grammars(ecgcmr, tmp_path):
    text = ecgcmr("simulate", "--help", store=tmp_path).stdout
    assert "{" + ",".join(GRAMMARS) + "}" in text
