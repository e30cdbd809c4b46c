"""Standard errors of the papers' numbers, against those that are known of their test sets."""

import dataclasses

import pytest

from benchmark.reports.published import tables

LINES = [line for table in tables().values() for line in table.lines]


def printed(source, **wanted):
    return next(
        line
        for line in LINES
        if line.printed["source"].startswith(source)
        and all(line.printed[name] == value for name, value in wanted.items())
    )


def error(line, value, **change):
    """Standard error as if another value had been printed, without a spread over runs."""
    text = {**line.printed, "mean": f"{value * line.factor}", "std": ""}
    return dataclasses.replace(line, printed=text, **change).se


@pytest.mark.parametrize(
    ("source", "target", "value", "expected"),
    [
        ("MMCL", "CAD", 0.73, 0.014),
        ("MMCL", "AF", 0.74, 0.022),
        ("MMCL", "DM", 0.75, 0.017),
        ("ECCL", "CM", 0.826, 0.044),
    ],
)
def test_an_auroc_has_the_error_of_its_positives(source, target, value, expected):
    """Hanley and McNeil at the papers' own numbers of people."""
    assert error(printed(source, target=target), value) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("positives", "expected"), [(24, 0.058), (132, 0.025), (420, 0.014)])
def test_fewer_positives_leave_more_doubt(positives, expected):
    line = printed("MMCL", target="AF")
    found = error(line, 0.75, people=6_000, positives=positives)
    assert found == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(("value", "expected"), [(0.10, 0.007), (0.25, 0.010), (0.50, 0.009)])
def test_r2_has_the_error_of_normal_variables(value, expected):
    line = printed("PTACL", metric="R2")
    assert error(line, value, people=6_000) == pytest.approx(expected, abs=5e-4)


def test_a_share_of_matches_has_that_of_a_share():
    line = printed("PTACL", metric="P@1")
    assert error(line, 0.5, people=6_000) == pytest.approx(0.0065, abs=1e-4)


def test_the_spread_over_runs_is_added_to_that_over_people():
    line = printed("MMCL", target="CAD", metric="ROC AUC [%]")
    assert line.seeds == 5
    people = error(line, float(line.printed["mean"]) / 100)
    runs = float(line.printed["std"]) / 100
    assert line.se == pytest.approx((people**2 + runs**2 / 5) ** 0.5)


def test_what_a_paper_leaves_open_has_no_error():
    assert printed("DualPhase", target="AF", metric="AUROC [%]").se is None
    assert printed("PTACL", metric="MnR").se is None
    assert printed("PTACL", metric="R2").se > 0
