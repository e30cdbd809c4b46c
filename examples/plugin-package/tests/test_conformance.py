"""The harness's conformance kit on everything that this package adds."""

from pathlib import Path

import pytest

from benchmark.testing import check_cohort, method_checks, task_checks
from ecgcmr_example.cohort import CODE15, EchoNext

FINGERPRINTS = Path(__file__).with_name("fingerprints.json")


@pytest.mark.parametrize("check", method_checks("mmcl-sigmoid", fingerprints=FINGERPRINTS), ids=str)
def test_method(check):
    check()


@pytest.mark.parametrize("check", task_checks("findings", fingerprints=FINGERPRINTS), ids=str)
def test_task(check):
    check()


@pytest.mark.parametrize("cohort", [CODE15, EchoNext])
def test_cohort(cohort, request):
    cohort.prepare(request.getfixturevalue(cohort.name))
    check_cohort(cohort.at("smoke"))
