from __future__ import annotations

import io
import logging
import random

import numpy as np
import pydicom
import pytest
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from ukb_files import (
    APEX_AXIS,
    DATA,
    FRAMES,
    SLICES,
    dicom,
    heart,
    long_axis_members,
    members,
    plain_members,
    tags,
    write_zip,
)

from benchmark.cohorts.ukb.cine import apex_comes_last
from benchmark.cohorts.ukb.dicom import read_long_axis, read_short_axis
from benchmark.cohorts.ukb.reasons import Flag


@pytest.fixture
def short_axis(tmp_path):
    """Read the short axis from a zip of these members."""
    return lambda files: read_short_axis(write_zip(tmp_path / "sa.zip", files))


@pytest.fixture
def long_axis(tmp_path):
    return lambda files: read_long_axis(write_zip(tmp_path / "la.zip", files))


def test_reads_a_stack(short_axis):
    cine = short_axis(plain_members())
    assert cine.frames.dtype == np.uint16
    np.testing.assert_array_equal(cine.frames, heart())
    assert cine.spacing == 1.8269
    assert cine.gap == pytest.approx(10, abs=1e-4)
    assert cine.rr == 966
    np.testing.assert_allclose(cine.trigger_times, np.tile(96.6 * np.arange(FRAMES), (SLICES, 1)))
    assert cine.segmentation is None
    assert cine.flags == frozenset()


def test_order_of_members_names_and_numbers_does_not_matter(short_axis):
    def renumber(slice_, _frame, values):
        return values | {
            "SeriesDescription": f"cine_segmented_sax_B{SLICES - slice_}",
            "InstanceNumber": 7,
        }

    files = list(members(renumber).values())
    random.Random(5).shuffle(files)
    cine = short_axis({f"{number}.DCM": content for number, content in enumerate(files)})
    np.testing.assert_array_equal(cine.frames, heart())
    assert cine.flags == frozenset()


def test_images_decide_which_end_is_the_base(short_axis):
    def upside_down(slice_, _frame, values):
        position = [float(x) for x in 40 - 10.0 * slice_ * APEX_AXIS]
        return values | {"ImagePositionPatient": position}

    cine = short_axis(members(upside_down))
    np.testing.assert_array_equal(cine.frames, heart())
    assert cine.flags == {Flag.ORDER_DISPUTED}


def test_geometry_decides_where_images_do_not():
    alike = np.repeat(heart(1), 8, axis=0)
    assert apex_comes_last(alike, 70 * APEX_AXIS) == (True, True)
    assert apex_comes_last(alike, -70 * APEX_AXIS) == (False, True)
    assert apex_comes_last(heart(), 70 * APEX_AXIS) == (True, True)
    assert apex_comes_last(heart(), -70 * APEX_AXIS) == (True, False)
    assert apex_comes_last(heart()[::-1], 70 * APEX_AXIS) == (False, False)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
def test_transfer_syntaxes_that_need_no_codec(short_axis, syntax):
    def compress(slice_, frame, values):
        if syntax == RLELossless:
            pixels = np.frombuffer(values["PixelData"], "<u2").reshape(heart().shape[2:])
            values["PixelData"] = RLELosslessEncoder.encode(
                pixels,
                rows=pixels.shape[0],
                columns=pixels.shape[1],
                samples_per_pixel=1,
                bits_allocated=16,
                bits_stored=16,
                pixel_representation=0,
                photometric_interpretation="MONOCHROME2",
                number_of_frames=1,
            )
        return values

    np.testing.assert_array_equal(short_axis(members(compress, syntax=syntax)).frames, heart())


@pytest.mark.parametrize(
    "name", ["MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_implicit"]
)
def test_a_scanners_own_files(short_axis, name):
    """The same picture in four transfer syntaxes, as other software wrote it."""
    scanned = pydicom.dcmread(DATA / f"pydicom/{name}.dcm")
    expected = scanned.pixel_array
    files = {}
    for slice_ in range(6):
        for frame in range(FRAMES):
            for keyword, value in tags(expected, slice_, frame).items():
                if keyword not in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
                    setattr(scanned, keyword, value)
            buffer = io.BytesIO()
            pydicom.dcmwrite(buffer, scanned)
            files[f"{slice_}.{frame}.dcm"] = buffer.getvalue()
    assert (short_axis(files).frames == expected.astype(np.uint16)).all()


def test_graphics_above_the_stored_bits_are_dropped(short_axis):
    def draw(_slice, _frame, values):
        pixels = np.frombuffer(values["PixelData"], "<u2") | 0x8000
        return values | {"PixelData": pixels.tobytes()}

    np.testing.assert_array_equal(short_axis(members(draw)).frames, heart())


@pytest.mark.parametrize("missing", [(0,), (5,), (FRAMES - 1,), (4, 5), (0, 6), (8, 9)])
def test_up_to_two_missing_frames_are_filled(short_axis, missing):
    cine = short_axis(
        members(lambda slice_, frame, values: None if slice_ == 2 and frame in missing else values)
    )
    expected = heart()
    for frame in missing:
        before = max(frame - 1, 0)
        while before in missing and before:
            before -= 1
        expected[2, frame] = heart()[2, before if before not in missing else 1]
    np.testing.assert_array_equal(cine.frames, expected)
    assert cine.flags == {Flag.FILLED_FRAME}
    np.testing.assert_allclose(cine.trigger_times[2], 96.6 * np.arange(FRAMES), atol=1e-3)


def test_repeated_series_the_last_with_all_frames_is_taken(short_axis):
    def again(addition, time, keep=FRAMES, number=None):
        def change(slice_, frame, values):
            if slice_ != 3 or frame >= keep:
                return None
            pixels = np.frombuffer(values["PixelData"], "<u2") + addition
            return values | {
                "SeriesInstanceUID": f"1.2.9.{addition}",
                "SOPInstanceUID": f"1.2.9.{addition}.{frame}",
                "AcquisitionTime": time,
                "SeriesDescription": number or values["SeriesDescription"],
                "PixelData": pixels.astype("<u2").tobytes(),
            }

        return {f"{addition}.{name}": content for name, content in members(change).items()}

    expected = heart()
    expected[3] += 20
    last = again(30, "103000", keep=FRAMES - 1)  # broken off
    cine = short_axis(again(20, "102500") | last | again(10, "102000") | plain_members())
    np.testing.assert_array_equal(cine.frames, expected)
    assert cine.flags == {Flag.REPEATED_SERIES}
    # The same place under a number of its own.
    cine = short_axis(plain_members() | again(20, "102500", number="CINE_segmented_SAX_b9"))
    np.testing.assert_array_equal(cine.frames, expected)
    assert cine.flags == {Flag.REPEATED_SERIES, Flag.SERIES_NUMBER_GAP}


def test_a_file_stored_twice_is_one_frame(short_axis):
    files = plain_members()
    cine = short_axis(files | {"copy.dcm": files["1.3.12.2.4.dcm"]})
    np.testing.assert_array_equal(cine.frames, heart())
    assert cine.flags == frozenset()


def test_merged_series_is_split_by_position(short_axis):
    def merge(slice_, frame, values):
        return values | {
            "SeriesDescription": "CINE_segmented_SAX",
            "SeriesInstanceUID": "1.2.3",
            "InstanceNumber": slice_ * FRAMES + frame + 1,
        }

    cine = short_axis(members(merge))
    np.testing.assert_array_equal(cine.frames, heart())
    assert cine.flags == {Flag.MERGED_SERIES}


def test_result_images_other_series_and_members_are_left_out(short_axis):
    stack = heart()
    extra = {
        "v.dcm": dicom(
            tags(stack[0, 0] + 1, 0, 0) | {"SeriesDescription": "CINE_segmented_SAX_InlineVF"}
        ),
        "w.dcm": dicom(
            tags(stack[0, 0], 0, 0) | {"SeriesDescription": "Inline_VF_Results", "PixelData": None}
        ),
        "x.dcm": dicom(tags(stack[0, 0], 0, 0) | {"SeriesDescription": "SCOUT"}),
        "manifest.cvs": b"filename,patientid\n",
    }
    cine = short_axis(plain_members() | extra)
    np.testing.assert_array_equal(cine.frames, stack)
    assert cine.flags == frozenset()
    assert short_axis(plain_members() | {"notes.txt": b"."}).flags == {Flag.UNKNOWN_MEMBER}


def with_contour(values, rows, columns, plane):
    """A result image over which the scanner has drawn."""
    image = pydicom.dcmread(io.BytesIO(dicom(values)))
    group = {
        0x0010: ("US", rows),
        0x0011: ("US", columns),
        0x0040: ("CS", "G"),
        0x0050: ("SS", [1, 1]),
        0x0100: ("US", 1),
        0x0102: ("US", 0),
        0x3000: ("OW", plane),
    }
    for element, (kind, value) in group.items():
        image.add_new((0x6000, element), kind, value)
    buffer = io.BytesIO()
    image.save_as(buffer)
    return buffer.getvalue()


def test_contours_of_result_images_tell_where_the_heart_is(short_axis):
    values = tags(heart()[0, 0], 0, 0) | {"SeriesDescription": "CINE_segmented_SAX_InlineVF"}
    rows, columns = heart().shape[-2:]
    drawn = np.zeros((rows, columns), np.uint8)
    drawn[10:14, 8:12] = 1
    plane = np.packbits(drawn, bitorder="little").tobytes()
    plane += b"\0" * (len(plane) % 2)
    assert short_axis(plain_members()).contour_centre is None
    for content, expected in (
        (with_contour(values, rows, columns, plane), (11.5, 9.5)),
        (with_contour(values, rows, columns, bytes(len(plane))), None),  # nothing drawn
        (with_contour(values, rows, columns, plane[:8]), None),  # cut short
        (with_contour(values, rows // 2, columns, plane), None),  # of another picture
        (with_contour(values, 60_000, 60_000, plane), None),
    ):
        cine = short_axis(plain_members() | {"v.dcm": content})
        assert cine.contour_centre == expected
        np.testing.assert_array_equal(cine.frames, heart())


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.cvs"])
def test_manifest_names_series_that_have_no_description(short_axis, name):
    files = members(lambda _slice, _frame, values: values | {"SeriesDescription": None})
    rows = [
        f"{member},P,1.2.3,Aug 30, 2015,CINE_segmented_SAX_b{int(member.split('.')[3]) + 1}"
        for member in files
    ]
    manifest = "filename,patientid,seriesid,date,series discription\n" + "\n".join(rows)
    cine = short_axis(files | {name: manifest.encode()})
    np.testing.assert_array_equal(cine.frames, heart())
    assert cine.flags == {Flag.NAMED_BY_MANIFEST}


def test_numbers_and_distances_that_are_odd_but_complete(short_axis):
    def change(slice_, _frame, values):
        if slice_ == SLICES - 1:
            values["SeriesDescription"] = "CINE_segmented_SAX_b12"
            position = -50 + (10.0 * SLICES - 8) * APEX_AXIS
            values["ImagePositionPatient"] = [round(float(x), 5) for x in position]
        return values

    cine = short_axis(members(change))
    np.testing.assert_array_equal(cine.frames, heart())
    assert cine.flags == {Flag.SERIES_NUMBER_GAP, Flag.UNEVEN_SLICES}


@pytest.mark.parametrize("over_all_slices", [False, True])
def test_instance_numbers_order_frames_of_equal_trigger_times(short_axis, over_all_slices):
    def change(slice_, frame, values):
        number = frame + 1 + slice_ * FRAMES * over_all_slices
        return values | {"TriggerTime": 0, "InstanceNumber": number}

    cine = short_axis(members(change))
    np.testing.assert_array_equal(cine.frames, heart())
    expected = np.tile(966 / FRAMES * np.arange(FRAMES), (SLICES, 1))
    np.testing.assert_allclose(cine.trigger_times, expected, rtol=1e-5)


def test_heart_beat_without_its_tag(short_axis):
    cine = short_axis(
        members(
            lambda _slice, _frame, values: (
                values | {"NominalInterval": None, "CardiacNumberOfImages": None}
            )
        )
    )
    np.testing.assert_array_equal(cine.frames, heart())
    assert cine.rr == pytest.approx(96.6 * FRAMES)


def test_long_axis_is_the_four_chamber_view(long_axis):
    names = {view: f"CINE_segmented_LAX_{view}" for view in ("2Ch", "3Ch", "4Ch")}
    cine = long_axis(long_axis_members(names))
    np.testing.assert_array_equal(cine.frames, heart()[2:3])
    assert (cine.gap, cine.spacing, cine.flags) == (None, 1.8269, frozenset())


def test_merged_long_axis_the_most_horizontal_view_is_taken(long_axis):
    cine = long_axis(long_axis_members(dict.fromkeys(("4Ch", "2Ch", "3Ch"), "CINE_segmented_LAX")))
    np.testing.assert_array_equal(cine.frames, heart()[0:1])
    assert cine.flags == {Flag.MERGED_SERIES}


def test_pydicom_prints_nothing_of_a_person(short_axis, caplog, capsys, recwarn):
    def spoil(content):
        return content.replace(b"20150830", b"Mueller ")

    files = {name: spoil(content) for name, content in plain_members().items()}
    caplog.set_level(logging.DEBUG)
    short_axis(files)
    assert "ller" not in caplog.text + "".join(capsys.readouterr())
    assert not recwarn.list
