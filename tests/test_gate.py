"""What the regression gate decides, on numbers made up for the purpose."""

import copy
import functools
import math

import numpy as np
import pytest
from scipy import stats

from benchmark.evaluation.statistics import compare
from benchmark.reports import gate, gate_recorded
from benchmark.reports.gate import INCONCLUSIVE, PASS, REGRESSION, Verdict


def held(stored, measured, close):
    verdict = Verdict("A")
    gate.frozen(stored, measured, close, verdict)
    return verdict


# ------------------------------------------------------------------------------ frozen values


def test_equal_values_pass():
    stored = {"a": {"value": 0.5, "n": 3, "letters": "ab", "none": None, "list": [1.0, None]}}
    verdict = held(stored, copy.deepcopy(stored), gate.within(1e-12))
    assert (verdict.outcome, verdict.compared) == (PASS, 5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": 0.5 + 2e-12}, "a, value"),
        ({"value": None}, "a, value"),
        ({"n": 4}, "a, n: 3 became 4"),
        ({"n": 3.0}, "a, n"),
        ({"letters": "b"}, "letters: ab became b"),
        ({"more": 1}, "more: has no reference"),
    ],
)
def test_a_difference_is_named(change, said):
    stored = {"a": {"value": 0.5, "n": 3, "letters": "ab"}}
    measured = {"a": stored["a"] | change}
    verdict = held(stored, measured, gate.within(1e-12))
    assert verdict.outcome == REGRESSION
    assert len(verdict.wrong) == 1
    assert said in verdict.wrong[0]


def test_a_value_that_is_gone_is_named():
    verdict = held({"a": 1.0, "b": 2.0}, {"a": 1.0}, gate.within(1e-12))
    assert verdict.wrong == ["b: missing"]


def test_vectors_are_held_against_their_largest_entry():
    stored = {"projections": [10.0, 0.001]}
    assert held(stored, {"projections": [10.0005, 0.0015]}, gate.relative(1e-4)).outcome == PASS
    assert held(stored, {"projections": [10.0, 0.003]}, gate.relative(1e-4)).outcome == REGRESSION
    assert held(stored, {"projections": [10.0]}, gate.relative(1e-4)).outcome == REGRESSION


def test_nothing_compared_is_no_pass():
    assert held({}, {}, gate.within(1e-12)).outcome == REGRESSION
    assert gate.overall([]) == REGRESSION
    assert "nothing was compared" in gate.summary([Verdict("A")])


def test_the_worst_layer_decides():
    fine, unsure = Verdict("A", compared=1), Verdict("D", compared=1, unsure=["few seeds"])
    wrong = Verdict("B", compared=1, wrong=["loss"])
    assert gate.overall([fine]) == PASS
    assert gate.overall([fine, unsure]) == INCONCLUSIVE
    assert gate.overall([unsure, wrong, fine]) == REGRESSION
    assert sorted(gate.EXIT_CODES.values()) == [0, 1, 3]


def test_a_summary_stays_short():
    text = gate.summary([Verdict("B", compared=9, wrong=[f"reason {i}" for i in range(500)])])
    assert text.count("\n") < 40
    assert "and 480 more" in text


# ------------------------------------------------------------------------------ seeds


def test_same_recipe_is_a_pooled_one_sided_t_test():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=20), rng.normal(size=5) - 0.5
    (drop,) = gate.same_recipe({"x": old}, {"x": new})
    expected = stats.ttest_ind(new, old, alternative="less")
    assert drop.t == pytest.approx(expected.statistic)
    assert drop.p == pytest.approx(expected.pvalue)


def test_a_drop_must_be_larger_than_chance_and_than_the_tolerance():
    old = np.linspace(0.69, 0.71, 20)
    assert not gate.same_recipe({"x": old}, {"x": old[8:13]})[0].red
    assert gate.same_recipe({"x": old}, {"x": old[8:13] - 0.05})[0].red
    tight = np.linspace(0.6999, 0.7001, 20)
    small = gate.same_recipe({"x": tight}, {"x": tight[8:13] - 0.004})[0]
    assert small.p < 1e-10
    assert not small.red
    assert not gate.same_recipe({"x": old}, {"x": old[8:13] + 0.05})[0].red


def test_what_does_not_depend_on_the_seed_may_not_drop():
    assert not gate.same_recipe({"x": [0.7] * 20}, {"x": [0.7] * 5})[0].red
    assert gate.same_recipe({"x": [0.7] * 20}, {"x": [0.6] * 5})[0].red


def simulate(drop, runs=500, endpoints=20, correlation=0.3, seed=0):
    """Shares of runs that are red at first, and that more seeds confirm."""
    rng = np.random.default_rng(seed)
    first = confirmed = 0

    def draw(seeds):
        shared = rng.normal(size=(1, seeds)) * np.sqrt(correlation)
        own = rng.normal(size=(endpoints, seeds)) * np.sqrt(1 - correlation)
        return dict(enumerate(shared + own))

    for _ in range(runs):
        old = draw(20)
        new, more = ({k: v - drop for k, v in draw(n).items()} for n in (5, 10))
        red = {d.endpoint for d in gate.same_recipe(old, new) if d.red}
        first += bool(red)
        if red:
            again = gate.same_recipe({e: old[e] for e in red}, {e: more[e] for e in red})
            confirmed += any(d.red for d in again)
    return first / runs, confirmed / runs


def test_false_alarms_are_as_rare_as_promised():
    first, confirmed = simulate(0)
    assert first < 0.03  # 1% within what 500 runs can tell
    assert confirmed <= 0.004


def test_a_true_drop_is_found():
    first, confirmed = simulate(2, runs=50)
    assert first > 0.9
    assert confirmed > 0.9


# ------------------------------------------------------------------------------ rows


@pytest.mark.parametrize(
    ("difference", "lo", "hi", "expected"),
    [
        (0.001, -0.004, 0.006, PASS),
        (-0.004, -0.008, -0.001, PASS),  # worse, but by less than the margin
        (-0.020, -0.030, -0.010, REGRESSION),
        (-0.006, -0.013, 0.001, INCONCLUSIVE),
        (-0.004, -0.012, -0.001, INCONCLUSIVE),
        (0.010, -0.050, 0.070, INCONCLUSIVE),
    ],
)
def test_noninferiority(difference, lo, hi, expected):
    assert gate_recorded.noninferior(difference, lo, hi) == expected


def row(target="mean", metric="R2", values=(0.5, 0.51, 0.52), **changes):
    result = {
        "status": "ok",
        "value": float(np.mean(values)) if values else None,
        "values": list(values),
        "seeds": list(range(len(values))),
        "v": 1e-4,
        "nu": 40.0,
        "n": 900,
        "positives": None,
        "chance": 0.27,
        "higher_is_better": True,
        "digest": "made",
        "recipe_digest": "recipe",
        "cohort_fingerprint": "people",
        "task_version": 1,
    }
    key = {"head": "linear", "modality": "ecg", "target": target, "metric": metric}
    return {**key, "fraction": 1.0, "result": result | changes, "run": {}}


def rows_file(*rows, method="mae"):
    place = {"cohort": "simulated", "preset": None, "scale": "tiny", "track": "harmonised"}
    return {**place, "task": "phenotype", "method": method, "rows": list(rows)}


def nobody(row, other):
    return None


ENDPOINTS = {"phenotype": frozenset({"R2"})}
judge = functools.partial(gate_recorded.recorded, endpoints=ENDPOINTS, paired=nobody, most=20)
BEFORE = [rows_file(row(), row("LVEF"))]


def test_unchanged_rows_pass():
    verdict = judge(BEFORE, copy.deepcopy(BEFORE))
    assert (verdict.outcome, verdict.compared) == (PASS, 2)
    assert "2 of 2 cells are equal" in verdict.notes[0]


def test_equal_rows_that_hold_no_number_do_not_pass():
    empty = [rows_file(row(value=math.nan, values=(math.nan,) * 3))]
    verdict = judge(empty, copy.deepcopy(empty))
    assert verdict.outcome == REGRESSION
    assert "no number to be held against" in verdict.wrong[0]


def test_new_rows_and_more_replicates_are_welcome():
    more = rows_file(row(values=(0.5, 0.51, 0.52, 0.53)), row("LVEF"), row("LVM"))
    assert judge(BEFORE, [more, rows_file(row(), method="ptacl")]).outcome == PASS


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ([], "mae: all rows are missing"),
        ([rows_file(row())], "LVEF R2 1.0: the row is missing"),
        ([rows_file(row(cohort_fingerprint="others"), row("LVEF"))], "fingerprint of the people"),
        ([rows_file(row(n=899), row("LVEF"))], "n was 900, is 899"),
        ([rows_file(row(positives=3), row("LVEF"))], "positives was None, is 3"),
        ([rows_file(row(task_version=2), row("LVEF"))], "version of the task was 1, is 2"),
        ([rows_file(row(values=(0.5, 0.51)), row("LVEF"))], "replicates 2 are missing"),
        ([rows_file(row(value=None), row("LVEF"))], "no number any more"),
        ([rows_file(row(value=math.nan), row("LVEF"))], "no number any more"),
        ([rows_file(row(values=(0.5, math.nan, 0.52)), row("LVEF"))], "no number any more"),
        ([rows_file(row(status="not estimable"), row("LVEF"))], "(not estimable)"),
        ([rows_file(row(chance=0.28), row("LVEF"))], "score of chance was 0.27, is 0.28"),
    ],
)
def test_what_always_fails(after, said):
    verdict = judge(BEFORE, after)
    assert verdict.outcome == REGRESSION
    assert any(said in text for text in verdict.wrong)


def test_a_change_of_many_cells_is_one_line():
    many = [rows_file(*(row(f"target {i}") for i in range(50)))]
    other = [rows_file(*(row(f"target {i}", n=1) for i in range(50)))]
    (text,) = judge(many, other).wrong
    assert "and 49 more" in text


FELL = (0.4, 0.41, 0.42)
AGAIN = (0.41, 0.4, 0.42, 0.4, 0.41, 0.4)


def test_a_drop_under_the_same_recipe_asks_for_fresh_seeds():
    verdict = judge(BEFORE, [rows_file(row(values=FELL), row("LVEF"))])
    assert verdict.outcome == INCONCLUSIVE
    (text,) = verdict.unsure
    assert "0.5100 became 0.4100" in text
    ask = "ecgcmr run --method mae --task phenotype --seeds 9 --cohort simulated --scale tiny"
    assert text.endswith(ask)
    few = [rows_file(row(values=(*FELL, *AGAIN[:5])), row("LVEF"))]
    assert judge(BEFORE, few).outcome == INCONCLUSIVE


def test_fresh_seeds_confirm_a_drop_or_clear_it():
    verdict = judge(BEFORE, [rows_file(row(values=(*FELL, *AGAIN)), row("LVEF"))])
    assert verdict.outcome == REGRESSION
    assert "and with 6 fresh seeds 0.4067" in verdict.wrong[0]
    lucky = [value + 0.1 for value in AGAIN]
    verdict = judge(BEFORE, [rows_file(row(values=(*FELL, *lucky)), row("LVEF"))])
    assert verdict.outcome == PASS
    assert any("with 6 fresh seeds no more: 0.5067" in note for note in verdict.notes)


def test_a_drop_that_no_further_seed_can_confirm_fails():
    after = [rows_file(row(values=FELL), row("LVEF"))]
    assert judge(BEFORE, after, most=4).outcome == REGRESSION
    assert judge(BEFORE, after, most=5).unsure[0].count("--seeds 5 ")


def test_one_seed_is_no_test():
    before, after = [rows_file(row(values=(0.5,)))], [rows_file(row(values=(0.4,)))]
    assert judge(before, after).outcome == INCONCLUSIVE
    assert judge(after, before).outcome == PASS


def test_a_metric_that_falls_when_things_get_better():
    after = [rows_file(row(values=(0.6, 0.61, 0.62), higher_is_better=False))]
    before = [rows_file(row(higher_is_better=False))]
    assert judge(before, after).outcome == INCONCLUSIVE
    assert judge(after, before).outcome == PASS


def changed(*values):
    return [rows_file(row(values=values, recipe_digest="another", digest="other"), row("LVEF"))]


def test_a_changed_recipe_without_predictions_is_said_to_be_unpaired():
    verdict = judge(BEFORE, changed(0.49, 0.5, 0.51))
    assert verdict.outcome == INCONCLUSIVE  # half width 2.02 sqrt(2e-4) = .029
    assert "unpaired" in verdict.unsure[0]
    assert judge(BEFORE, changed(0.53, 0.54, 0.55)).outcome == PASS
    assert judge(BEFORE, changed(0.4, 0.41, 0.42)).outcome == REGRESSION


@pytest.mark.parametrize(("shift", "expected"), [(0.0, PASS), (-0.05, REGRESSION)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_changed_recipe_is_judged_over_the_same_people(shift, expected, sign):
    rng = np.random.default_rng(1)
    theta, psi = rng.normal(0.5, 0.001, 3), rng.normal(size=(900, 3))
    close = psi + 0.01 * rng.normal(size=psi.shape)

    def paired(row, other):
        return compare(theta + sign * shift, close, theta, psi, 900)

    before = [rows_file(row(higher_is_better=sign > 0), row("LVEF"))]
    after = changed(0.51, 0.52, 0.53)
    after[0]["rows"][0]["result"]["higher_is_better"] = sign > 0
    verdict = judge(before, after, paired=paired)
    assert verdict.outcome == expected
    assert any("paired over people" in text for text in verdict.notes + verdict.wrong)


def test_only_endpoints_decide_about_values():
    after = [rows_file(row(), row("LVEF", values=(0.1, 0.1, 0.1)))]
    verdict = judge(BEFORE, after)
    assert verdict.outcome == PASS
    assert any("1 cells that are no endpoint differ, first" in text for text in verdict.notes)


def test_a_changed_recipe_that_scores_the_same_is_equal():
    assert "2 of 2 cells are equal" in judge(BEFORE, changed(0.5, 0.51, 0.52)).notes[0]
