"""From short-axis stacks to a cohort's images: finding the heart, resampling, phases, slices."""

import functools

import numpy as np
import pytest

from benchmark.api import UserError
from benchmark.cohorts.simulated.cine import draw_stack
from benchmark.cohorts.simulated.long_axis import draw_long_axis
from benchmark.cohorts.simulated.population import draw_block
from benchmark.cohorts.simulated.presets import PRESETS
from benchmark.cohorts.ukb.cine import Cine
from benchmark.cohorts.ukb.crop import heart_centre
from benchmark.cohorts.ukb.images import (
    SLICES,
    ImageOptions,
    assemble_images,
    assemble_long_axis,
    resample,
)
from benchmark.cohorts.ukb.reasons import Reason, Refused

FRAMES, SIZE, SPACING = 12, 96, 2.0
PERSONS = range(6)


@functools.cache
def block():
    return draw_block(0, 0, PRESETS["default"])


@functools.cache
def drawn(row):
    return draw_stack(
        block(), 0, 0, row, PRESETS["default"], frames=FRAMES, size=SIZE, spacing=SPACING
    )


def stack(row=0, *, segmented=False, by=(0, 0), around=0, times=1):
    """Return a simulated person's stack, shifted inside a larger picture."""
    frames, masks = drawn(row)
    width = [(0, 0), (0, 0), *((around + shift, around - shift) for shift in by)]
    frames = np.pad(frames, width).astype(np.uint16) * times
    masks = np.pad(masks, width) if segmented else None
    return Cine(
        frames=frames,
        spacing=SPACING,
        gap=10.0,
        segmentation=masks,
        segmented_frames=tuple(range(FRAMES)) if segmented else (),
    )


def truth(row, by=(0, 0), around=0):
    heart = np.argwhere(drawn(row)[1].any(axis=(0, 1)))
    return heart.mean(axis=0) + around + np.array(by)


# ----------------------------------------------------------------------------- the heart's place


@pytest.mark.parametrize("row", PERSONS)
def test_motion_finds_the_heart_and_the_crop_holds_all_of_it(row):
    centre, how = heart_centre(stack(row))
    assert how == "motion"
    # The thin right ventricle moves more than the left one, hence not the middle exactly.
    assert np.hypot(*(centre - truth(row))) * SPACING < 15
    where = np.argwhere(drawn(row)[1].any(axis=(0, 1)))
    assert (np.abs(where - centre) * SPACING).max() < 144 / 2


@pytest.mark.parametrize("how", ["motion", "segmentation"])
@pytest.mark.parametrize("by", [(30, -25), (-40, 40)])
def test_the_centre_follows_the_heart(how, by):
    at_rest, _ = heart_centre(stack(segmented=True, around=40), how)
    shifted, used = heart_centre(stack(segmented=True, around=40, by=by), how)
    assert used == how
    np.testing.assert_allclose(np.subtract(shifted, at_rest), by, atol=0.3)


def test_segmentation_is_taken_where_there_is_one():
    (row, column), how = heart_centre(stack(segmented=True), "auto")
    assert how == "segmentation"
    labelled = np.argwhere(drawn(0)[1] > 0)[:, 2:]
    np.testing.assert_allclose((row, column), labelled.mean(axis=0))
    assert heart_centre(stack(), "auto")[1] == "motion"


def test_motion_elsewhere_does_not_draw_the_crop_away():
    moving = stack(around=30)
    quiet, _ = heart_centre(moving)
    vessel = np.zeros_like(moving.frames[0, 0])
    vessel[10:20, 10:20] = 1  # an aorta of 20 mm that appears and vanishes with every beat
    pulse = (120 * (1 + np.cos(2 * np.pi * np.arange(FRAMES) / FRAMES))).astype(np.uint16)
    disturbed = moving.frames + pulse[:, None, None] * vessel
    centre, _ = heart_centre(Cine(frames=disturbed, spacing=SPACING, gap=10.0))
    np.testing.assert_allclose(centre, quiet, atol=2)


def test_fixed_crop_is_mmcl_s():
    # Their crop: rows 44 to 122 and columns 68 to 146 of 210 x 210 pixels.
    cine = Cine(frames=np.ones((1, 2, 210, 210), np.uint16), spacing=1.0)
    (row, column), how = heart_centre(cine, "fixed")
    assert how == "fixed"
    assert abs(row - (44 + 122 - 1) / 2) < 1
    assert abs(column - (68 + 146 - 1) / 2) < 1


@pytest.mark.parametrize(
    "frames",
    [
        np.full((7, FRAMES, 80, 80), 50, np.uint16),
        np.random.default_rng(0).normal(200, 20, (7, FRAMES, 80, 80)).astype(np.uint16),
        np.repeat(np.random.default_rng(0).integers(0, 99, (7, 1, 80, 80)), FRAMES, 1),
    ],
    ids=["nothing at all", "noise", "a picture that stands still"],
)
def test_where_nothing_beats_there_is_no_heart(frames):
    with pytest.raises(Refused) as refused:
        heart_centre(Cine(frames=frames, spacing=SPACING, gap=10.0), "motion")
    assert refused.value.reason is Reason.NO_HEART


def test_a_segmentation_is_needed_where_one_is_asked_for():
    with pytest.raises(Refused) as refused:
        heart_centre(stack(), "segmentation")
    assert refused.value.reason is Reason.NO_SEGMENTATION
    empty = stack(segmented=True)
    empty.segmentation[:] = 0
    with pytest.raises(Refused) as refused:
        heart_centre(empty, "segmentation")
    assert refused.value.reason is Reason.NO_HEART


def test_contours_are_needed_where_they_are_asked_for():
    with pytest.raises(Refused) as refused:
        heart_centre(stack(), "inlinevf")
    assert refused.value.reason is Reason.NO_CONTOURS


# ----------------------------------------------------------------------------- resampling


def test_pixels_of_equal_size_are_copied():
    pixels = np.arange(40 * 30, dtype=np.uint16).reshape(1, 40, 30)
    cut = resample(pixels, 2.0, (20.0, 14.0), ImageOptions(size=8, spacing=2.0))
    np.testing.assert_array_equal(cut[0], pixels[0, 16:24, 10:18])


@pytest.mark.parametrize("spacing", [1.0, 1.8, 2.3, 4.0])
def test_other_sizes_keep_place_and_brightness(spacing):
    rows, columns = np.indices((120, 100)) * 2.0  # mm
    pixels = (3 * rows + 5 * columns)[None]
    options = ImageOptions(size=20, spacing=spacing)
    cut = resample(pixels, 2.0, (60.0, 50.0), options)[0]
    np.testing.assert_allclose(np.diff(cut, axis=0), 3 * spacing, atol=0.02)
    np.testing.assert_allclose(np.diff(cut, axis=1), 5 * spacing, atol=0.02)
    # The centre is met within a pixel of the picture it is cut from.
    assert abs(cut.mean() - (3 * 120 + 5 * 100)) < (3 + 5) * 2.0


def test_detail_that_is_too_fine_is_averaged():
    stripes = np.zeros((1, 120, 120), np.uint16)
    stripes[:, ::2] = 200
    cut = resample(stripes, 1.0, (60.0, 60.0), ImageOptions(size=20, spacing=4.0))
    np.testing.assert_allclose(cut, 100, atol=1)


def test_outside_of_the_picture_it_is_black():
    bright = np.full((1, 20, 20), 7, np.uint16)
    cut = resample(bright, 1.0, (0.0, 0.0), ImageOptions(size=8, spacing=1.0))[0]
    assert cut[4:, 4:].min() == 7
    assert cut[:3].max() == 0
    assert cut[:, :3].max() == 0
    assert not resample(bright, 1.0, (-90.0, 0.0), ImageOptions(size=8, spacing=1.0)).any()


# ----------------------------------------------------------------------------- a person's images


OPTIONS = ImageOptions(frames=FRAMES, size=60, spacing=SPACING)


def test_the_middle_slice_and_the_slices_around_it():
    person = stack(row=1)
    images = assemble_images(person, OPTIONS)
    assert images.cine.shape == (1, FRAMES, 60, 60)
    assert images.volumes.shape == (2, SLICES, 60, 60)
    assert images.cine.dtype == images.volumes.dtype == np.uint8
    np.testing.assert_array_equal(images.volumes[0, SLICES // 2], images.cine[0, 0])
    np.testing.assert_array_equal(images.volumes[1, SLICES // 2], images.cine[0, images.systole])
    # The brightest thousandth is white, not a handful of pixels.
    assert 1e-4 < np.mean(images.cine == 255) < 0.01


def test_slices_that_the_stack_does_not_have_are_black():
    whole = stack(row=1)
    middle = len(whole.frames) // 2
    short = Cine(frames=whole.frames[middle - 3 : middle + 3], spacing=SPACING, gap=10.0)
    images = assemble_images(short, OPTIONS)
    black = ~images.volumes.any(axis=(0, 2, 3))
    assert black.tolist() == [True, False, False, False, False, False, False, True]


def test_slices_at_another_distance_are_taken_ten_millimetres_apart():
    thin = Cine(frames=np.repeat(stack(row=1).frames, 2, axis=0), spacing=SPACING, gap=5.0)
    options = ImageOptions(frames=FRAMES, size=60, spacing=SPACING, crop="fixed")
    apart = assemble_images(thin, options).volumes
    usual = assemble_images(stack(row=1), options).volumes
    assert np.mean(apart == usual) > 0.99


def test_the_scale_of_the_scanner_does_not_matter():
    grey, twelve_bit = (assemble_images(stack(times=times), OPTIONS) for times in (1, 8))
    np.testing.assert_array_equal(grey.cine, twelve_bit.cine)
    np.testing.assert_array_equal(grey.volumes, twelve_bit.volumes)


def test_end_systole_is_where_the_cavity_is_smallest():
    for row in PERSONS:
        smallest = (drawn(row)[1] == 1).sum(axis=(0, 2, 3)).argmin()
        assert assemble_images(stack(row, segmented=True), OPTIONS).systole == smallest
        assert abs(assemble_images(stack(row), OPTIONS).systole - smallest) <= 1


def test_a_segmentation_of_two_phases_names_end_systole():
    whole = stack(segmented=True)
    phases = Cine(
        frames=whole.frames,
        spacing=SPACING,
        gap=10.0,
        segmentation=whole.segmentation[:, [0, 5]],
        segmented_frames=(0, 5),
    )
    images = assemble_images(phases, OPTIONS)
    assert (images.systole, images.crop) == (5, "segmentation")


def test_a_segmentation_of_end_diastole_alone_leaves_systole_to_the_images():
    whole = stack(segmented=True)
    diastole = Cine(
        frames=whole.frames,
        spacing=SPACING,
        gap=10.0,
        segmentation=whole.segmentation[:, :1],
        segmented_frames=(0,),
    )
    assert assemble_images(diastole, OPTIONS).systole == assemble_images(stack(), OPTIONS).systole


def test_the_middle_is_that_of_the_ventricle_where_a_segmentation_tells():
    whole = stack(segmented=True)
    still = np.repeat(whole.frames[:1, :1], FRAMES, axis=1)
    above = Cine(
        frames=np.concatenate([still, still, still, still, whole.frames]),
        spacing=SPACING,
        gap=10.0,
        segmentation=np.pad(whole.segmentation, ((4, 0), (0, 0), (0, 0), (0, 0))),
        segmented_frames=whole.segmented_frames,
    )
    np.testing.assert_array_equal(
        assemble_images(above, OPTIONS).cine, assemble_images(whole, OPTIONS).cine
    )


def test_another_number_of_frames_is_resampled_over_the_beat():
    images = assemble_images(stack(), ImageOptions(frames=2 * FRAMES, size=60, spacing=SPACING))
    assert images.resampled
    usual = assemble_images(stack(), OPTIONS)
    assert not usual.resampled
    assert images.systole == usual.systole
    assert np.mean(np.abs(images.cine[:, ::2].astype(int) - usual.cine)) < 1.0


def test_images_without_signal_are_refused():
    dark = Cine(frames=np.zeros((7, FRAMES, 80, 80), np.uint16), spacing=SPACING, gap=10.0)
    with pytest.raises(Refused) as refused:
        assemble_images(dark, ImageOptions(crop="fixed"))
    assert refused.value.reason is Reason.NO_SIGNAL


def test_the_long_axis_is_cropped_around_what_moves():
    frames = draw_long_axis(
        *(block(), 0, 0, PRESETS["default"]),
        **{"frames": FRAMES, "size": SIZE, "spacing": SPACING, "rows": [0]},
    )
    cine = Cine(frames=frames, spacing=SPACING)
    shifted = Cine(
        frames=np.pad(frames, ((0, 0), (0, 0), (50, 10), (20, 40))),
        spacing=SPACING,
    )
    np.testing.assert_allclose(
        np.subtract(heart_centre(shifted)[0], heart_centre(cine)[0]), (50, 20), atol=0.6
    )
    images = assemble_long_axis(shifted, OPTIONS)
    assert images.shape == (FRAMES, 60, 60)
    first = np.round(np.array(heart_centre(shifted)[0]) - 59 / 2).astype(int)
    window = shifted.frames[0, :, first[0] : first[0] + 60, first[1] : first[1] + 60]
    assert np.corrcoef(window.ravel(), images.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    "fields", [{"crop": "auot"}, {"size": 4}, {"frames": 1}, {"spacing": float("nan")}]
)
def test_options_that_give_no_image_are_refused(fields):
    with pytest.raises(UserError, match=f"--{next(iter(fields))}"):
        ImageOptions(**fields)
