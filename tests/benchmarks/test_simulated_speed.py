from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.cohorts.arrays import create_array
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.simulated import SimulatedCohort, cine
from benchmark.cohorts.simulated.cohort import simulate_block
from benchmark.cohorts.simulated.ecg import draw_ecg
from benchmark.cohorts.simulated.latent import BLOCK
from benchmark.cohorts.simulated.long_axis import draw_long_axis
from benchmark.cohorts.simulated.population import Block, draw_block
from benchmark.cohorts.simulated.presets import PRESETS
from benchmark.cohorts.simulated.scanner import Scanner

pytest.importorskip("pytest_benchmark")

DEFAULT = PRESETS["default"]


@pytest.fixture(scope="module")
def block() -> Block:
    return draw_block(0, 0, DEFAULT)


@pytest.mark.parametrize("scale", ["tiny", "small", "full"])
def test_one_block_of_a_cohort(benchmark, scale: str) -> None:
    cohort = SimulatedCohort.at(scale)
    arrays = benchmark.pedantic(simulate_block, (cohort, 0), rounds=3, warmup_rounds=1)
    benchmark.extra_info["ms_per_person"] = 1e3 * benchmark.stats["median"] / BLOCK
    assert arrays["cine"].shape == (BLOCK, 1, cohort.frames, cohort.size, cohort.size)


def three_slices() -> np.ndarray:
    """People, ECG and three short-axis slices of 50 frames of 64 x 64 pixels, for a block."""
    block = draw_block(0, 0, DEFAULT)
    draw_ecg(block, 0, 0, DEFAULT)
    scanner = Scanner(block.imaged, 0, 0, DEFAULT, 64, 2.2)
    slots = np.array([1, 0, -1])
    sections = cine._Sections(block.imaged, block.shape, cine.beat(block.imaged, 50), 10.0 * slots)
    pictures = np.empty((BLOCK, 3, 50, 64, 64), np.uint8)
    for row in range(BLOCK):
        camera = cine._Camera(scanner, row)
        for k, slot in enumerate(slots):
            camera.aim(sections, row, k, slot).expose(np.arange(50), pictures[row, k])
    return pictures


def test_ecg_and_three_slices(benchmark) -> None:
    pictures = benchmark.pedantic(three_slices, rounds=3, warmup_rounds=1)
    benchmark.extra_info["ms_per_person"] = 1e3 * benchmark.stats["median"] / BLOCK
    assert pictures.mean() > 20


def test_long_axis(benchmark, block: Block) -> None:
    pixels = {"frames": 50, "size": 64, "spacing": 2.2}
    drawn = benchmark.pedantic(
        draw_long_axis, (block, 0, 0, DEFAULT), pixels, rounds=3, warmup_rounds=1
    )
    benchmark.extra_info["ms_per_person"] = 1e3 * benchmark.stats["median"] / BLOCK
    assert drawn.mean() > 20


def test_stack_of_one_person(benchmark, block: Block) -> None:
    pixels = {"frames": 50, "size": 208, "spacing": 1.8}
    stack, _ = benchmark(cine.draw_stack, block, 0, 0, 3, DEFAULT, **pixels)
    assert stack.shape[1:] == (50, 208, 208)


def test_pairs_read_from_a_warm_cohort(benchmark, tmp_path: Path) -> None:
    """Random batches of 64 people: a 10 s ECG and a cine of 50 frames of 80 x 80 pixels."""
    people, batch = 1_500, 64
    for name, shape, kind in (
        ("ecg", (people, 12, 5000), np.int16),
        ("cine", (people, 1, 50, 80, 80), np.uint8),
    ):
        array = create_array(tmp_path / f"{name}.npy", shape, kind)
        array[:] = 1
        array.flush()
    data = CohortData(tmp_path)
    order = np.random.default_rng(0).permutation(people)

    def epoch() -> int:
        total = 0
        for start in range(0, people, batch):
            rows = order[start : start + batch]
            total += int(data.ecg[rows][:, 0, 0].sum()) + int(data.cine[rows][:, 0, 0, 0, 0].sum())
        return total

    assert benchmark.pedantic(epoch, rounds=3, warmup_rounds=1) == 2 * people
    benchmark.extra_info["pairs_per_second"] = people / benchmark.stats["median"]
