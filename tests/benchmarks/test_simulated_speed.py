from __future__ import annotations

import pytest

from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.cohorts.simulated.cohort import simulate_block
from benchmark.cohorts.simulated.latent import BLOCK

pytest.importorskip("pytest_benchmark")


def test_one_block_of_people(benchmark) -> None:
    cohort = SimulatedCohort(people=BLOCK)
    block = benchmark.pedantic(simulate_block, (cohort, 0), rounds=3, warmup_rounds=1)
    assert block["ecg"].shape == (BLOCK, 12, 5000)
    assert block["cine"].shape == (BLOCK, 1, 16, 48, 48)
