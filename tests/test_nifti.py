from __future__ import annotations

import numpy as np
import pytest
from ukb_files import (
    FRAMES,
    as_nifti,
    heart,
    nifti_affine,
    plain_members,
    write_nifti,
    write_zip,
)

from benchmark.cohorts.ukb import dicom
from benchmark.cohorts.ukb.nifti import read_long_axis, read_short_axis
from benchmark.cohorts.ukb.reasons import Flag


def labels() -> np.ndarray:
    """(slices, frames, rows, columns) uint8, the cavity of `heart`."""
    return (heart() > 700).astype(np.uint8)


@pytest.mark.parametrize("name", ["sa.nii.gz", "sa.nii"])
def test_same_as_from_dicom(tmp_path, name):
    write_nifti(tmp_path / name, as_nifti(heart()))
    cine = read_short_axis(tmp_path)
    scanned = dicom.read_short_axis(write_zip(tmp_path / "sa.zip", plain_members()))
    assert cine.frames.dtype == np.uint16
    np.testing.assert_array_equal(cine.frames, scanned.frames)
    for attribute in ("spacing", "gap", "rr"):
        value = getattr(cine, attribute)
        assert value == pytest.approx(getattr(scanned, attribute), rel=1e-5)
    assert (cine.trigger_times, cine.segmentation, cine.segmented_frames) == (None, None, ())
    assert cine.flags == scanned.flags == frozenset()


def test_turned_images_are_turned_back(tmp_path):
    """As dcm2niix stores them, with apex first."""
    affine = nifti_affine()
    values = as_nifti(heart())
    for axis in range(3):
        values = np.flip(values, axis)
        affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
        affine[:3, axis] *= -1
    write_nifti(tmp_path / "sa.nii.gz", values, affine)
    write_nifti(tmp_path / "seg_sa.nii.gz", (values > 700).astype(np.uint8), affine)
    cine = read_short_axis(tmp_path)
    np.testing.assert_array_equal(cine.frames, heart())
    np.testing.assert_array_equal(cine.segmentation, labels())
    assert cine.flags == frozenset()


def test_images_decide_which_end_is_the_base(tmp_path):
    write_nifti(tmp_path / "sa.nii.gz", as_nifti(heart()[::-1]))
    cine = read_short_axis(tmp_path)
    np.testing.assert_array_equal(cine.frames, heart())
    assert cine.flags == {Flag.ORDER_DISPUTED}


def test_segmentation_of_all_frames(tmp_path):
    write_nifti(tmp_path / "sa.nii.gz", as_nifti(heart()))
    write_nifti(tmp_path / "seg_sa.nii.gz", as_nifti(labels()).astype(np.float64))
    cine = read_short_axis(tmp_path)
    assert cine.segmentation.dtype == np.uint8
    np.testing.assert_array_equal(cine.segmentation, labels())
    assert cine.segmented_frames == tuple(range(FRAMES))


def test_segmentation_of_two_frames(tmp_path):
    write_nifti(tmp_path / "sa.nii.gz", as_nifti(heart()))
    write_nifti(tmp_path / "seg_sa_ED.nii.gz", as_nifti(labels())[..., 0])
    cine = read_short_axis(tmp_path)
    assert cine.segmented_frames == (0,)
    write_nifti(tmp_path / "sa_ES.nii.gz", as_nifti(heart())[..., 5])
    write_nifti(tmp_path / "seg_sa_ES.nii.gz", as_nifti(labels())[..., 5])
    cine = read_short_axis(tmp_path)
    assert cine.segmented_frames == (0, 5)
    np.testing.assert_array_equal(cine.segmentation, labels()[:, [0, 5]])


def test_values_that_are_not_16_bit_keep_their_contrast(tmp_path):
    write_nifti(tmp_path / "sa.nii.gz", as_nifti(heart()) / 1300 - 0.25)
    frames = read_short_axis(tmp_path).frames.astype(float)
    assert (frames.min(), frames.max()) == (0, 65_535)
    assert np.corrcoef(frames.ravel(), heart().ravel())[0, 1] > 0.999_999
    write_nifti(tmp_path / "sa.nii.gz", as_nifti(heart()).astype(np.float32))
    np.testing.assert_array_equal(read_short_axis(tmp_path).frames, heart())


@pytest.mark.parametrize(
    ("interval", "unit", "rr"),
    [
        (0.1, None, 1000),
        (100, None, 1000),
        (0.1, "sec", 1000),
        (100, "msec", 1000),
        (0, None, None),
    ],
)
def test_heart_beat(tmp_path, interval, unit, rr):
    write_nifti(tmp_path / "sa.nii.gz", as_nifti(heart()), interval=interval, unit=unit)
    read = read_short_axis(tmp_path).rr
    assert read == (None if rr is None else pytest.approx(rr, rel=1e-5))


def test_long_axis(tmp_path):
    write_nifti(tmp_path / "la_4ch.nii.gz", as_nifti(heart()[:1]))
    cine = read_long_axis(tmp_path)
    np.testing.assert_array_equal(cine.frames, heart()[:1])
    assert cine.gap is None
