from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.interpolate import CubicSpline

from benchmark.cohorts.simulated.atria import atria_at
from benchmark.cohorts.simulated.cine import (
    GAP,
    ShortAxis,
    beat,
    draw_short_axis,
    draw_stack,
)
from benchmark.cohorts.simulated.geometry import APEX_WALL, Contours, activation, contours_at
from benchmark.cohorts.simulated.latent import BLOCK
from benchmark.cohorts.simulated.long_axis import draw_long_axis, label_long_axis
from benchmark.cohorts.simulated.population import Block, draw_block
from benchmark.cohorts.simulated.presets import PRESETS, Preset

TINY = {"frames": 16, "size": 48, "spacing": 2.74}
NOISELESS = Preset("no noise in the images", image_noise=0.0)
DEFAULT = PRESETS["default"]
DENSITY = 1.05  # g/mL
ROWS = np.arange(BLOCK)


@pytest.fixture(scope="module")
def block() -> Block:
    return draw_block(0, 0, DEFAULT)


@pytest.fixture(scope="module")
def short_axis(block: Block) -> ShortAxis:
    return draw_short_axis(block, 0, 0, DEFAULT, **TINY)


def with_imaged(block: Block, **changes: np.ndarray) -> Block:
    return dataclasses.replace(block, imaged=dataclasses.replace(block.imaged, **changes))


def area(radius: np.ndarray) -> np.ndarray:
    """mm2 of the regions within radii given at equal angles."""
    return np.pi * (radius.astype(float) ** 2).mean(-1)


@pytest.mark.parametrize("preset", ["default", "permuted-pairs"])
def test_pictures_show_the_imaged_heart_alone(preset: str) -> None:
    """Nothing of the person, when the heart is a stranger's: the control would be none."""
    own, other = draw_block(0, 0, PRESETS[preset]), draw_block(0, 1, PRESETS[preset])
    names = ("person", "recorded", "truth", "measured")
    changed = dataclasses.replace(own, **{name: getattr(other, name) for name in names})
    pictures, expected = [
        [
            draw_short_axis(block, 0, 0, PRESETS[preset], **TINY).volumes,
            draw_stack(block, 0, 0, 5, PRESETS[preset], **TINY)[0],
            draw_long_axis(block, 0, 0, PRESETS[preset], **TINY),
        ]
        for block in (changed, own)
    ]
    for found, same in zip(pictures, expected, strict=True):
        assert np.array_equal(found, same)


# ------------------------------------------------------------------------------- geometry


def cut(block: Block, s: np.ndarray, heights: np.ndarray) -> Contours:
    return contours_at(block.imaged, block.shape, s, heights)


def test_volumes_of_the_drawn_shapes_are_the_phenotypes(block: Block) -> None:
    step = 0.005
    heights = np.arange(-0.1, 1.0, step) + step / 2
    contours = cut(block, np.tile([0.0, 1.0], (BLOCK, 1)), heights)
    heart = block.imaged

    def volume(areas: np.ndarray) -> np.ndarray:
        return areas.sum(1) * step * block.shape.length[:, None] / 1000

    cavity = volume(area(contours.endocardium))
    whole = volume(area(contours.epicardium))
    right = volume(area(contours.right)) - whole
    for drawn, expected in (
        (cavity, np.stack([heart.lvedv, heart.lvesv], 1)),
        (DENSITY * (whole - cavity), np.stack([heart.lvm] * 2, 1)),
        (right, np.stack([heart.rvedv, heart.rvesv], 1)),
    ):
        np.testing.assert_allclose(drawn, expected, rtol=0.01)
    assert (contours.epicardium >= contours.endocardium).all()
    assert (contours.right >= contours.epicardium).all()


def test_planes_of_one_person_do_not_depend_on_others(block: Block) -> None:
    s = np.tile([0.0, 0.7], (BLOCK, 1))
    shared = cut(block, s, np.array([0.3, 0.6]))
    own = cut(block, s, np.linspace(0.3, 0.6, BLOCK)[:, None] + [0.0, 0.1])
    assert np.array_equal(own.right[0, 0], shared.right[0, 0])
    assert np.array_equal(own.endocardium[-1, 0], shared.endocardium[-1, 1])


def test_activation_runs_from_diastole_to_systole_and_back() -> None:
    rr = np.array([0.5, 1.0, 1.4, 1.0])
    s = activation(rr, np.array([0.0, 0.0, 0.0, 1.0]), np.linspace(0, 1, 1001))
    assert s.min() >= 0
    np.testing.assert_allclose(s[:, 0], 0)
    np.testing.assert_allclose(s[:, -1], 0, atol=1e-9)
    np.testing.assert_allclose(s.max(1), 1, atol=1e-3)
    np.testing.assert_allclose(s.argmax(1) / 1000 * rr, 0.29 + 0.07 * rr, atol=0.002)
    late = slice(-200, -150)  # before the atrial kick
    assert (s[1, late] > 0.15).all()
    assert (s[3, late] < 0.01).all()


# ------------------------------------------------------------------------------- stack


def volumes_of(masks: np.ndarray, spacing: float) -> np.ndarray:
    """mL of cavity, muscle and right ventricle, (3, slices), of (slices, size, size)."""
    pixels = np.stack([(masks == label).sum((1, 2)) for label in (1, 2, 3)])
    return pixels * spacing**2 * GAP / 1000


def integral(heights: np.ndarray, areas: np.ndarray, apex: float, valves: float) -> float:
    """mL under the areas in mm2 of slices (base to apex) between the apex and the valves.

    Between slices a spline; at the valves the area of the left ventricle no longer grows.
    """
    inside = (heights < valves) & (heights > apex)
    z, known = heights[inside], areas[inside]
    near, far = (valves - z[:2]) ** 2
    base = known[0] + (known[0] - known[1]) * near / (far - near)
    spline = CubicSpline([apex, *z[::-1], valves], [0, *known[::-1], base])
    return float(spline.integrate(apex, valves)) / 1000


@pytest.mark.parametrize("row", range(0, 40, 5))
def test_every_stack_holds_the_volumes_of_its_person(block: Block, row: int) -> None:
    spacing = 1.5
    _, masks = draw_stack(block, 0, 0, row, DEFAULT, frames=50, size=120, spacing=spacing)
    length, heart = block.shape.length[row], block.imaged
    heights = length / 2 + GAP * (len(masks) // 2 - np.arange(len(masks)))
    s = beat(heart, 50)[row]
    for frame, lv, rv in (
        (0, heart.lvedv[row], heart.rvedv[row]),
        (s.argmax(), heart.lvesv[row], heart.rvesv[row]),
    ):
        valves = length * (1 - block.shape.shortening[row] * s[frame])
        assert not masks[heights > valves, frame].any()
        areas = np.stack([(masks[:, frame] == k).sum((1, 2)) for k in (1, 2, 3)]) * spacing**2
        cavity = integral(heights, areas[0], 0, valves)
        whole = integral(heights, areas[0] + areas[1], -APEX_WALL, valves)
        assert cavity == pytest.approx(lv, rel=0.02)
        assert DENSITY * (whole - cavity) == pytest.approx(heart.lvm[row], rel=0.02)
        assert integral(heights, areas[2], 0, valves) == pytest.approx(rv, rel=0.03)


def test_area_times_gap_gives_the_volumes_on_average(block: Block) -> None:
    heart, s = block.imaged, beat(block.imaged, TINY["frames"])
    ratios = []
    for row in ROWS:
        _, masks = draw_stack(block, 0, 0, row, DEFAULT, **TINY)
        es = s[row].argmax()
        for frame, systole in ((0, 0.0), (es, s[row, es])):
            cavity, muscle, right = volumes_of(masks[:, frame], TINY["spacing"]).sum(1)
            lv = heart.lvedv[row] - heart.lvsv[row] * systole
            rv = heart.rvedv[row] - heart.rvsv[row] * systole
            ratios.append([cavity / lv, DENSITY * muscle / heart.lvm[row], right / rv])
    ratios = np.reshape(ratios, (BLOCK, 2, 3))
    np.testing.assert_allclose(ratios.mean(0)[:, :2], 1, atol=0.02)
    np.testing.assert_allclose(ratios.mean(0)[:, 2], 1, atol=0.03)
    # A slice more or less at the base, where the ventricle is widest.
    assert ratios.std(0).max() < 0.08


def test_stack_covers_the_heart_and_holds_the_cohort_s_pictures(
    block: Block, short_axis: ShortAxis
) -> None:
    for row in (0, 7, int(block.shape.length.argmin()), int(block.shape.length.argmax())):
        stack, masks = draw_stack(block, 0, 0, row, DEFAULT, **TINY)
        phases = [0, short_axis.es_frame[row]]
        middle = len(stack) // 2
        assert np.array_equal(stack[middle], short_axis.cine[row, 0])
        assert np.array_equal(masks[middle, phases], short_axis.masks[row])
        first, last = max(middle - 4, 0), min(middle + 4, len(stack))
        shown = slice(first - middle + 4, last - middle + 4)
        volumes = short_axis.volumes[row][:, shown]
        assert np.array_equal(stack[first:last, phases].swapaxes(0, 1), volumes)
        # The first slice lies above the valves, among the atria; all others show the ventricles.
        assert not masks[0].any()
        assert (stack[0, 0] > 100).sum() > 80
        assert (masks[1:, 0] > 0).any((1, 2)).all()


def test_slices_too_close_are_refused(block: Block) -> None:
    with pytest.raises(ValueError, match="too many"):
        draw_stack(block, 0, 0, 0, DEFAULT, **TINY, gap=0.2)


# ------------------------------------------------------------------------------- short axis


def test_masks_are_of_what_is_drawn(block: Block) -> None:
    drawn = draw_short_axis(block, 0, 0, NOISELESS, frames=16, size=96, spacing=1.4)
    systole = drawn.es_frame
    pictures = np.stack([drawn.cine[:, 0, 0], drawn.cine[ROWS, 0, systole]], 1)
    bright = pictures > 0.68 * np.percentile(pictures, 97, axis=(2, 3), keepdims=True)
    for label, expected in ((1, True), (2, False), (3, True)):
        agree = [
            (b[m == label] == expected).mean() for b, m in zip(bright, drawn.masks, strict=True)
        ]
        assert np.median(agree) > 0.85, label
    # Papillary muscles are dark, stand free in the cavity and belong to it.
    inner = np.stack([ndimage.binary_erosion(m[0] == 1, iterations=3) for m in drawn.masks])
    dark = (inner & ~bright[:, 0]).sum((1, 2)) * 1.4**2
    assert 20 < np.median(dark) < 120  # mm2


def test_end_systole_is_the_smallest_cavity(short_axis: ShortAxis) -> None:
    cavity = (short_axis.masks == 1).sum((2, 3))
    assert (cavity[:, 1] < cavity[:, 0]).all()
    muscle = (short_axis.masks == 2).sum((2, 3))
    assert (muscle[:, 1] > 0.9 * muscle[:, 0]).all()  # it thickens, but what is seen shortens
    assert set(np.unique(short_axis.masks)) == {0, 1, 2, 3}
    assert (
        short_axis.volumes[:, :, 4]
        == short_axis.cine[
            ROWS[:, None], 0, np.stack([np.zeros(BLOCK, int), short_axis.es_frame], 1)
        ]
    ).all()


def left_cavity(picture: np.ndarray) -> int:
    """Count the pixels of the bright region in which the left ventricle's centre lies."""
    row, column = 23, 29
    around = picture[row - 4 : row + 5, column - 4 : column + 5]
    bright = picture > 0.68 * np.percentile(around, 80)
    labels, _ = ndimage.label(bright)
    here = labels[row - 4 : row + 5, column - 4 : column + 5]
    region = labels == np.bincount(here[here > 0]).argmax()
    return int(ndimage.binary_fill_holes(region).sum())


def test_picture_shows_the_geometry_and_the_volume(block: Block, short_axis: ShortAxis) -> None:
    es = short_axis.es_frame
    drawn = np.array([[left_cavity(short_axis.cine[r, 0, f]) for f in (0, es[r])] for r in ROWS])
    s = beat(block.imaged, TINY["frames"])
    areas = area(cut(block, s, np.array([0.5])).endocardium[:, 0])
    assert np.array_equal(areas.argmin(1), es)
    expected = np.stack([areas[:, 0], areas[ROWS, es]], 1)
    ratio = drawn * TINY["spacing"] ** 2 / expected
    assert np.median(ratio[:, 0]) == pytest.approx(1, abs=0.05)
    assert (np.abs(ratio[:, 0] - 1) < 0.15).mean() > 0.9
    assert np.corrcoef(drawn[:, 0], expected[:, 0])[0, 1] > 0.9
    assert np.corrcoef(drawn[:, 0], block.imaged.lvedv)[0, 1] > 0.75
    # By ranks: in a few, the bright region of the small cavity runs into the right ventricle.
    assert stats.spearmanr(drawn[:, 1], block.imaged.lvesv).statistic > 0.75
    assert (drawn[:, 1] < drawn[:, 0]).mean() > 0.98


def test_grey_levels_use_the_range_of_a_byte(short_axis: ShortAxis) -> None:
    assert (short_axis.cine == 255).mean() < 0.001
    assert 120 < np.median(short_axis.cine[:, 0, 0, 20:26, 26:32]) < 180  # blood is 150
    assert np.median(short_axis.cine) < 60


def test_heart_lies_within_the_picture(block: Block, short_axis: ShortAxis) -> None:
    edge = np.ones((48, 48), bool)
    edge[1:-1, 1:-1] = False
    assert (short_axis.masks[:, 0][:, edge] > 0).any(1).mean() < 0.05
    centre = [ndimage.center_of_mass(m[0] > 0) for m in short_axis.masks]
    assert np.abs(np.mean(centre, 0) - 23.5).max() < 2.5


def test_noise_follows_the_preset_and_nothing_else_does(block: Block) -> None:
    clean = draw_short_axis(block, 0, 0, NOISELESS, **TINY)
    heart = clean.masks[:, 0] > 0

    def noise(name: str) -> tuple[float, np.ndarray]:
        drawn = draw_short_axis(block, 0, 0, PRESETS[name], **TINY)
        error = drawn.cine[:, 0, 0].astype(float) - clean.cine[:, 0, 0]
        return np.std(error[heart]), drawn.masks

    easy, default, hard = (noise(name) for name in ("easy", "default", "hard"))
    assert easy[0] == pytest.approx(default[0] / 2, rel=0.1)
    assert hard[0] == pytest.approx(default[0] * 1.5, rel=0.1)
    assert default[0] == pytest.approx(0.04 * 150, rel=0.15)
    assert np.array_equal(easy[1], hard[1])


def test_no_two_pictures_share_their_noise(block: Block, short_axis: ShortAxis) -> None:
    clean = draw_short_axis(block, 0, 0, NOISELESS, **TINY)
    noise = (short_axis.cine.astype(float) - clean.cine)[:10, 0, :4].reshape(40, -1)
    others = (short_axis.volumes.astype(float) - clean.volumes)[:10, :, :3].reshape(60, -1)
    alike = np.corrcoef(np.concatenate([noise, others]))
    assert np.abs(alike - np.eye(100)).max() < 0.15


# ------------------------------------------------------------------------------- long axis

WIDE = {"frames": 16, "size": 90, "spacing": 2.2}  # nothing is cut off


@pytest.fixture(scope="module")
def chambers(block: Block) -> np.ndarray:
    return label_long_axis(block, 0, 0, DEFAULT, **WIDE)


def areas_of(labels: np.ndarray, label: int) -> np.ndarray:
    """mm2 of a chamber over time, (people, frames)."""
    return (labels == label).sum((2, 3)) * WIDE["spacing"] ** 2


def test_atria_have_the_volumes_of_the_latents(block: Block) -> None:
    heart = block.imaged
    s = np.tile([0.0, 1.0], (BLOCK, 1))
    step = 0.5
    planes = np.tile(np.arange(20, 250, step), (BLOCK, 1))
    for atrium, smallest, largest in zip(
        atria_at(heart, block.shape, s),
        (heart.la_min, heart.ra_min),
        (heart.la_max, heart.ra_max),
        strict=True,
    ):
        volume = (np.pi * atrium.radius_at(planes) ** 2).sum(1) * step / 1000
        np.testing.assert_allclose(volume, np.stack([smallest, largest], 1), rtol=0.02)


def test_chambers_of_the_long_axis_follow_their_volumes(block: Block, chambers: np.ndarray) -> None:
    heart = block.imaged
    es = beat(heart, WIDE["frames"]).argmax(1)
    lv, la, ra = (areas_of(chambers, label) for label in (1, 4, 5))
    for seen, volume, least in (
        (lv[:, 0], heart.lvedv, 0.95),
        (lv[ROWS, es], heart.lvesv, 0.95),
        (areas_of(chambers, 3)[:, 0], heart.rvedv, 0.8),
        (areas_of(chambers, 2)[:, 0], heart.lvm, 0.8),
        (la[ROWS, es], heart.la_max, 0.95),
        (la[:, 0], heart.la_min, 0.95),
        (ra[ROWS, es], heart.ra_max, 0.95),
    ):
        assert np.corrcoef(np.log(seen), np.log(volume))[0, 1] > least
    # By the area-length formula: 8 area^2 / (3 pi length).
    length = block.shape.length
    by_area = 8 * lv[:, 0] ** 2 / (3 * np.pi * length) / 1000
    assert np.median(by_area / heart.lvedv) == pytest.approx(1, abs=0.15)


def test_larger_atrium_is_drawn_larger_and_nothing_else_moves(
    block: Block, chambers: np.ndarray
) -> None:
    es = beat(block.imaged, WIDE["frames"]).argmax(1)
    larger = with_imaged(block, la_max=1.2 * block.imaged.la_max)
    other = label_long_axis(larger, 0, 0, DEFAULT, **WIDE)
    assert (areas_of(other, 4)[ROWS, es] > areas_of(chambers, 4)[ROWS, es]).all()
    for label in (1, 2, 3):
        assert np.array_equal(other == label, chambers == label)


def test_atria_fill_while_ventricles_contract(block: Block, chambers: np.ndarray) -> None:
    lv, la = areas_of(chambers, 1), areas_of(chambers, 4)
    alike = [np.corrcoef(v, a)[0, 1] for v, a in zip(lv, la, strict=True)]
    assert np.max(alike) < -0.9


def test_atrial_fibrillation_has_no_kick(block: Block) -> None:
    def late_emptying(af: float) -> np.ndarray:
        rhythm = with_imaged(block, af_rhythm=np.full(BLOCK, af), heart_rate=np.full(BLOCK, 60.0))
        la = areas_of(label_long_axis(rhythm, 0, 0, DEFAULT, **WIDE), 4)
        return (la[:, 13] - la[:, 0]) / la.max(1)

    assert np.median(late_emptying(0.0)) > 0.08
    assert np.median(late_emptying(1.0)) < 0.02


def test_labels_of_the_long_axis_are_of_what_is_drawn(block: Block, chambers: np.ndarray) -> None:
    pictures = draw_long_axis(block, 0, 0, NOISELESS, **WIDE)[:, 4:6]  # valves closed
    bright = pictures > 0.68 * np.percentile(pictures, 97, axis=(2, 3), keepdims=True)
    for label, expected in ((1, True), (2, False), (3, True), (4, True), (5, True)):
        where = chambers[:, 4:6] == label
        agree = [(b[w] == expected).mean() for b, w in zip(bright, where, strict=True)]
        assert np.median(agree) > 0.85, label


def test_long_axis_of_some_people_is_theirs(block: Block) -> None:
    everybody = draw_long_axis(block, 0, 0, DEFAULT, **TINY)
    some = draw_long_axis(block, 0, 0, DEFAULT, **TINY, rows=[41, 7])
    assert np.array_equal(some, everybody[[41, 7]])


def test_long_axis_fits_the_picture_for_most(block: Block) -> None:
    labels = label_long_axis(block, 0, 0, DEFAULT, frames=2, size=80, spacing=1.8)
    edge = np.ones((80, 80), bool)
    edge[1:-1, 1:-1] = False
    cut_off = {k: (labels[:, :, edge] == k).any((1, 2)).mean() for k in range(1, 6)}
    assert max(cut_off[k] for k in (1, 2, 3)) <= 0.1
    assert max(cut_off.values()) < 0.3


def test_short_axis_above_the_valves_shows_the_atria(block: Block) -> None:
    small, large = (
        draw_stack(
            with_imaged(block, la_max=scale * block.imaged.la_max), 0, 0, 3, NOISELESS, **TINY
        )[0][0]
        for scale in (1.0, 1.5)
    )
    es = beat(block.imaged, TINY["frames"])[3].argmax()
    assert (large[es] > 100).sum() > (small[es] > 100).sum() > 100
