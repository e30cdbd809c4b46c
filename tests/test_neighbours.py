"""Real people are described together only."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmark import neighbours
from benchmark.neighbours import Neighbours
from benchmark.registry import registry

TASK = registry().task("phenotype")
RNG = np.random.default_rng(0)


class People:
    """A cohort's tables and splits that exist only here; the last half is for validation."""

    def __init__(self, count):
        self.phenotypes = pd.DataFrame(
            RNG.normal(100, 10, (count, len(TASK.target_names))), columns=list(TASK.target_names)
        )

    def rows(self, split):
        half = len(self.phenotypes) // 2
        return np.arange(half) if split == "train" else np.arange(half, 2 * half)


def test_real_people_are_summarised():
    age = np.array([50.0, 60.0, 70.0, 55.0, 65.0, np.nan])
    [row] = neighbours._together({"age": age}, [TASK])
    assert row == {
        "name": "age",
        "unit": "y",
        "mean": 60.0,
        "sd": pytest.approx(np.std(age[:5], ddof=1)),
        "proportion": None,
        "people": 5,
    }
    [unknown] = neighbours._together({"LVEDV": age[1:]}, [TASK])
    assert unknown["unit"] == "mL"
    assert [unknown[name] for name in ("mean", "sd", "people")] == [None] * 3


@pytest.mark.parametrize(
    ("yes", "no", "shown"),
    [(5, 5, 0.5), (0, 5, 0.0), (5, 0, 1.0), (1, 9, None), (9, 1, None), (4, 0, None), (0, 0, None)],
)
def test_a_proportion_needs_five_people_on_either_side_or_none(yes, no, shown):
    values = np.array([1.0] * yes + [0.0] * no + [np.nan] * 3)
    for name, title in (("AF", "AF"), ("sex", "male")):
        [row] = neighbours._together({name: values}, [TASK])
        assert row["name"] == title
        assert row["proportion"] == shown
        assert row["people"] == (None if shown is None else yes + no)
        assert row["mean"] is None


def test_intervals_of_real_people_are_no_quantiles(tmp_path):
    data, targets = People(200), len(TASK.target_names)
    everyone = RNG.normal(size=(200, 3))
    data.phenotypes.iloc[104:, 1] = np.nan  # four validation people are left
    prediction = np.full((100, targets), 100.0)
    np.save(tmp_path / "validation.npy", prediction)
    np.save(tmp_path / "weights.npy", np.zeros((3, targets)))
    np.save(tmp_path / "intercept.npy", np.full(targets, 120.0))

    def predicted(simulated):
        rows = neighbours._predict(
            everyone[:1], everyone, data, TASK, tmp_path, simulated=simulated
        )
        return {row["target"]: row for row in rows}

    residual = data.phenotypes.to_numpy()[100:] - prediction
    real, simulated = predicted(False), predicted(True)
    assert set(simulated) - set(real) == {TASK.target_names[1]}
    name = TASK.target_names[0]
    half = 1.96 * np.sqrt((residual[:, 0] ** 2).mean())
    assert real[name]["value"] == simulated[name]["value"] == 120
    assert (real[name]["lo"], real[name]["hi"]) == pytest.approx((120 - half, 120 + half))
    low, high = np.quantile(residual[:, 0], [0.025, 0.975])
    assert (simulated[name]["lo"], simulated[name]["hi"]) == pytest.approx((120 + low, 120 + high))


def test_the_text_of_real_people_names_nobody():
    described = {
        "similarity": np.linspace(0.9, 0.5, 6),
        "age": np.array([50.0, 60, 70, 55, 65, 51]),
        "sex": np.array([1.0, 0, 0, 0, 0, 0]),
        "AF": np.zeros(6),
    }
    found = Neighbours(
        record="r",
        method="mae",
        simulated=False,
        k=6,
        people=[],
        summary=neighbours._together(described, [TASK]),
        predicted=[],
    )
    rows = [[c.strip() for c in line.split("|")] for line in found.text().splitlines()]
    table = {row[1]: row[2:-1] for row in rows if len(row) > 2}
    assert "the 6 most similar people" in found.text()
    assert table["age"] == ["y", "58.5", f"{np.std(described['age'], ddof=1):.4g}", "6"]
    assert table["male"] == ["", "fewer than 5 people", "", ""]
    assert table["AF"] == ["", "0%", "", "6"]
    assert "simulated" not in found.text()
    assert json.loads(neighbours.as_json(found))["people"] == []
