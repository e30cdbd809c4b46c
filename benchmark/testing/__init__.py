"""The conformance kit: what a plugin's author runs on a method, a task or a cohort.

In a test, where every check is a case of its own::

    import pytest
    from benchmark.testing import method_checks

    @pytest.mark.parametrize("check", method_checks("my-method"), ids=str)
    def test_my_method(check):
        check()

or in one call, ``check_method("my-method")``, and on the shell, ``python -m benchmark.testing
my-method``. Plugins are tried on a few simulated people, after two updates at scale ``smoke``: what
is checked is that a comparison can rely on them, not that they learn anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.testing.report import Check, ConformanceError, Finding, Report, Skipped, run

if TYPE_CHECKING:
    from benchmark.api import Cohort, Method, Task

__all__ = [
    "Check",
    "ConformanceError",
    "Finding",
    "Report",
    "Skipped",
    "check_cohort",
    "check_method",
    "check_task",
    "cohort_checks",
    "method_checks",
    "task_checks",
]


def method_checks(
    method: str | type[Method],
    *,
    track: str | None = None,
    cohort: Cohort | None = None,
    fingerprints: Path | str | None = None,
    skip: Mapping[str, str] | None = None,
) -> list[Check]:
    """Return the checks of a method; calling one runs it.

    Parameters
    ----------
    method
        Name in the registry, or a class, which is checked in the first of its variants.
    track
        Whose settings apply; by default the first that the variant is part of.
    cohort
        People to try it on, for a method that reads what simulated people do not have.
    fingerprints
        File in which ``python -m benchmark.testing NAME --write-fingerprint FILE`` has recorded
        what the method computes; with it, changed results under an unchanged version are found.
    skip
        Names of checks that do not hold for this method, with the reason. Those that the fairness
        of the comparison rests on cannot be left out.

    Raises
    ------
    UserError
        For an unknown name or check.
    """
    from benchmark.testing.methods import MethodSubject

    subject = MethodSubject.of(method, track=track, cohort=cohort)
    return subject.checks(fingerprints, skip)


def task_checks(
    task: str | type[Task],
    *,
    cohort: Cohort | None = None,
    fingerprints: Path | str | None = None,
    skip: Mapping[str, str] | None = None,
) -> list[Check]:
    """Return the checks of a task, given by name or as a class; see `method_checks`."""
    from benchmark.testing.tasks import TaskSubject

    return TaskSubject.of(task, cohort=cohort).checks(fingerprints, skip)


def cohort_checks(
    cohort: str | type[Cohort] | Cohort,
    *,
    fingerprints: Path | str | None = None,
    skip: Mapping[str, str] | None = None,
) -> list[Check]:
    """Return the checks of a cohort; see `method_checks`.

    By name or as a class it is checked at scale ``smoke``, which for a prepared cohort is the
    prepared one; a specimen, such as one prepared from a test's files, is checked as it is.
    """
    from benchmark.testing.cohorts import CohortSubject

    return CohortSubject.of(cohort).checks(fingerprints, skip)


def check_method(
    method: str | type[Method],
    *,
    track: str | None = None,
    cohort: Cohort | None = None,
    fingerprints: Path | str | None = None,
    skip: Mapping[str, str] | None = None,
) -> Report:
    """Run all checks of a method; the parameters are those of `method_checks`.

    Returns
    -------
    Report
        What was passed, and what was skipped and why.

    Raises
    ------
    ConformanceError
        Listing every failed check, each with what to do about it.
    """
    return run(
        method_checks(method, track=track, cohort=cohort, fingerprints=fingerprints, skip=skip)
    )


def check_task(
    task: str | type[Task],
    *,
    cohort: Cohort | None = None,
    fingerprints: Path | str | None = None,
    skip: Mapping[str, str] | None = None,
) -> Report:
    """Run all checks of a task; see `task_checks` and, for what comes back, `check_method`."""
    return run(task_checks(task, cohort=cohort, fingerprints=fingerprints, skip=skip))


def check_cohort(
    cohort: str | type[Cohort] | Cohort,
    *,
    fingerprints: Path | str | None = None,
    skip: Mapping[str, str] | None = None,
) -> Report:
    """Run all checks of a cohort; see `cohort_checks` and, for what comes back, `check_method`."""
    return run(cohort_checks(cohort, fingerprints=fingerprints, skip=skip))
