"""The conformance kit over everything in the registry."""

import pytest

from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.registry import TRACKS, registry
from benchmark.testing import check_cohort, check_method, check_task
from benchmark.testing.methods import MethodSubject

METHODS = {
    track: [n for n, entry in registry().methods.items() if track in entry.variant.tracks]
    for track in TRACKS
}
NEVER = {"fingerprint"}
"""Checks that have nothing to compare with here: the regression gate holds our fingerprints."""
UNTRAINED = {"resume", "views", "gradient", "frozen"}


def skipped(report):
    return {finding.check for finding in report.findings if finding.outcome == "skipped"}


def check(name, track):
    report = check_method(name, track=track)
    trained = any(tried.stage.trained for tried in MethodSubject.of(name, track=track).stages)
    assert skipped(report) == NEVER | (set() if trained else UNTRAINED)


@pytest.mark.parametrize("name", METHODS["harmonised"])
def test_methods_conform(name):
    check(name, "harmonised")


@pytest.mark.nightly
@pytest.mark.parametrize("name", METHODS["paper"])
def test_methods_conform_with_the_recipes_of_their_papers(name):
    check(name, "paper")


@pytest.mark.parametrize("name", registry().tasks)
def test_tasks_conform(name):
    report = check_task(name)
    task = registry().task(name)
    seen = {"predict"} if task.predict is not None else {"targets", "eligible", "alone", "chance"}
    if set(task.needs) <= set(SimulatedCohort(people=1).modalities):
        assert not skipped(report) & seen


def test_the_simulated_cohort_conforms():
    report = check_cohort(SimulatedCohort(people=70, frames=4, size=16))
    assert skipped(report) == NEVER
