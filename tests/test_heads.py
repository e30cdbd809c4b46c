"""Heads against scikit-learn, and what they do with few or missing labels."""

import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
import xgboost
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from toy import COHORT, ToyMethod, bring
from toy import data as data_of

from benchmark.engine.store import Store
from benchmark.engine.training import NonFiniteLossError
from benchmark.evaluation.boosted import XGBoostHead
from benchmark.evaluation.embed import Embed
from benchmark.evaluation.heads import (
    LOGISTIC_STRENGTHS,
    RIDGE_PENALTIES,
    LinearHead,
    least_squares,
    logistic,
    ridge,
)
from benchmark.evaluation.kernel import (
    PENALTIES,
    KernelHead,
    kernel_times,
    solutions,
    tangent_kernel,
)
from benchmark.evaluation.mlp import MLPHead, train_each
from tasks.cvd import CVD
from tasks.phenotype import Phenotype


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 12))
    y = x @ rng.normal(size=(12, 3)) + 2 * rng.normal(size=(160, 3)) + 5
    return x[:100], y[:100], x[100:], y[100:]


def test_ridge_is_scikit_learns_at_the_best_penalty(data):
    x, y, xv, yv = data
    weights, intercept, penalties = ridge(x, y, xv, yv)
    for t in range(3):
        errors = {
            a: np.square(Ridge(alpha=a).fit(x, y[:, t]).predict(xv) - yv[:, t]).mean()
            for a in RIDGE_PENALTIES
        }
        assert penalties[t] == min(errors, key=errors.get)
        model = Ridge(alpha=penalties[t]).fit(x, y[:, t])
        np.testing.assert_allclose(weights[:, t], model.coef_, rtol=1e-6, atol=1e-9)
        assert intercept[t] == pytest.approx(model.intercept_)


def test_ridge_with_targets_missing_for_different_people(data):
    x, y, xv, yv = data
    y = y.copy()
    y[:30, 0] = np.nan
    y[50:, 2] = np.nan
    yv = yv.copy()
    yv[::3, 1] = np.nan
    weights, _, penalties = ridge(x, y, xv, yv)
    for t in range(3):
        known = np.isfinite(y[:, t])
        model = Ridge(alpha=penalties[t]).fit(x[known], y[known, t])
        np.testing.assert_allclose(weights[:, t], model.coef_, rtol=1e-6, atol=1e-9)


def test_ridge_factorises_once_for_all_penalties_and_targets_of_the_same_people(data, monkeypatch):
    x, y, xv, yv = data
    y = np.column_stack([y, 2 * y, y])
    y[:30, [0, 4]] = np.nan
    y[50:, 7] = np.nan
    factorised, eigh = [], np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda a: factorised.append(a.shape) or eigh(a))
    *_, penalties = ridge(x, y, xv, np.column_stack([yv, 2 * yv, yv]))
    assert np.isfinite(penalties).all()
    assert factorised == [(12, 12)] * 3


def test_ridge_with_fewer_people_than_features_and_with_none(data):
    x, y, xv, yv = data
    weights, _, _ = ridge(x[:5], y[:5], xv, yv)
    assert np.isfinite(weights).all()
    nobody = np.full_like(y[:5], np.nan)
    weights, _, penalties = ridge(x[:5], nobody, xv, yv)
    assert not weights.any()
    assert np.isnan(penalties).all()


def test_logistic_picks_the_penalty_with_the_best_validation_auroc(data):
    x, y, xv, yv = data
    y, yv = (y > 7).astype(float), (yv > 7).astype(float)
    weights, intercept, penalties = logistic(x, y, xv, yv)
    for t in range(3):
        quality = []
        for c in LOGISTIC_STRENGTHS:
            model = LogisticRegression(C=c, class_weight="balanced", max_iter=2000)
            quality.append(roc_auc_score(yv[:, t], model.fit(x, y[:, t]).decision_function(xv)))
        assert penalties[t] == pytest.approx(1 / LOGISTIC_STRENGTHS[np.argmax(quality)])
        found = roc_auc_score(yv[:, t], xv @ weights[:, t] + intercept[t])
        assert found == pytest.approx(max(quality))


def test_logistic_without_both_classes(data):
    x, y, xv, yv = data
    y, yv = (y > 7).astype(float), (yv > 7).astype(float)
    y[:, 0] = 0
    yv[:, 1] = 0
    weights, _, penalties = logistic(x, y, xv, yv)
    assert not weights[:, 0].any(), "no positive to learn from"
    assert penalties[1] == 1 / LOGISTIC_STRENGTHS[0], "nothing to choose by: strongest penalty"
    assert weights[:, 1].any()


TOY = {
    "embedding": Embed(method=ToyMethod(cohort=COHORT, seed=0)),
    "modality": "ecg",
    "fraction": 1.0,
    "seed": 0,
}


class Folder:
    """The part of a context that fitting a head uses."""

    device = "cpu"

    def __init__(self, out):
        self.out = out

    def progress(self, *counts):
        pass


# ------------------------------------------------------------------------------ least squares


def test_least_squares_is_scikit_learns(data):
    x, y, _, _ = data
    y = y.copy()
    y[:30, 1] = np.nan
    weights, intercept = least_squares(x, y)
    for t in range(3):
        known = np.isfinite(y[:, t])
        model = LinearRegression().fit(x[known], y[known, t])
        np.testing.assert_allclose(weights[:, t], model.coef_, rtol=1e-9)
        assert intercept[t] == pytest.approx(model.intercept_)


def test_least_squares_with_dependent_features_and_few_people(data):
    x, y, xv, _ = data
    twice = np.column_stack([x, x[:, :4], np.zeros(len(x))])
    weights, intercept = least_squares(twice, y)
    once, level = least_squares(x, y)
    seen = np.column_stack([xv, xv[:, :4], np.zeros(len(xv))])
    np.testing.assert_allclose(seen @ weights + intercept, xv @ once + level, rtol=1e-9)
    few, level = least_squares(x[:5], y[:5])
    np.testing.assert_allclose(x[:5] @ few + level, y[:5], rtol=1e-9)
    assert np.abs(few).max() < 10


def test_a_probe_without_penalty_still_shrinks_diseases(data, tmp_path):
    x, y, xv, yv = data
    head = LinearHead(penalised=False, task=Phenotype(only=("LVEDV", "LVESV", "LVSV")))
    fitted = head.fit(Folder(tmp_path), x, y, xv, yv)
    weights, intercept = least_squares(x, y)
    np.testing.assert_allclose(fitted(xv), xv @ weights + intercept)
    sick = [(values > 7).astype(float) for values in (y, yv)]
    head = head.replace(task=CVD(only=("CAD", "AF", "DM")))
    fitted = head.fit(Folder(tmp_path), x, sick[0], xv, sick[1])
    weights, intercept, penalties = logistic(x, sick[0], xv, sick[1])
    np.testing.assert_allclose(fitted(xv), xv @ weights + intercept)
    assert json.loads((tmp_path / "penalties.json").read_text()) == pytest.approx(
        dict(zip(head.task.names, penalties, strict=True))
    )


# ------------------------------------------------------------------------------ kernel


def test_the_tangent_kernel_is_that_of_a_wide_network():
    """Gradients of a random network of 60,000 rectifiers, multiplied: the kernel within 2%."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(5, 7))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    inputs = np.column_stack([codes, np.ones(5)])
    units = 60_000
    inner, outer = rng.normal(size=(8, units)), rng.normal(size=units)
    hidden = inputs @ inner
    active = (hidden > 0).astype(float)
    by_outer = hidden.clip(0) @ hidden.clip(0).T
    by_inner = (inputs @ inputs.T) * ((active * outer) @ (active * outer).T)
    expected = 2 * (by_outer + by_inner) / units
    np.testing.assert_allclose(tangent_kernel(codes, codes), expected, rtol=0.03)


def test_the_kernel_of_many_is_made_in_little_more_memory_than_it_needs():
    codes = np.random.default_rng(0).normal(size=(1500, 4))
    tracemalloc.start()
    found = tangent_kernel(codes, codes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * found.nbytes
    np.testing.assert_allclose(found[700:703], tangent_kernel(codes[700:703], codes))


def test_all_penalties_are_solved_in_the_memory_of_one_kernel():
    rng = np.random.default_rng(0)
    codes, values = rng.normal(size=(1500, 4)), rng.normal(size=(1500, 2))
    tracemalloc.start()
    found = solutions(codes, values, PENALTIES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kernel = tangent_kernel(codes, codes)
    assert peak < 2.5 * kernel.nbytes, "one, and the blocks it is made from"
    for dual, penalty in zip(found, PENALTIES, strict=True):
        expected = KernelRidge(alpha=penalty, kernel="precomputed").fit(kernel, values).dual_coef_
        np.testing.assert_allclose(dual, expected, rtol=1e-6)


def test_a_kernel_is_multiplied_in_blocks_as_it_is_at_once():
    rng = np.random.default_rng(0)
    a, b, weights = rng.normal(size=(600, 4)), rng.normal(size=(9, 4)), rng.normal(size=(9, 2))
    np.testing.assert_allclose(kernel_times(a, b, weights), tangent_kernel(a, b) @ weights)
    assert kernel_times(a[:0], b, weights).shape == (0, 2)


def test_without_validation_the_kernel_head_penalises_most(data, tmp_path):
    x, y, xv, yv = data
    head = KernelHead(task=Phenotype(only=("LVEDV", "LVESV", "LVSV")))
    head.fit(Folder(tmp_path), x, y, xv, np.full_like(yv, np.nan))
    assert set(json.loads((tmp_path / "penalties.json").read_text()).values()) == {PENALTIES[-1]}


def alike(a, b):
    """Return the kernel of two codes."""
    return tangent_kernel(a[None], b[None]).item()


def test_kernel_regression_is_scikit_learns_at_the_best_penalty(data, tmp_path):
    x, y, xv, yv = (a.copy() for a in data)
    y[:20, 2] = np.nan
    x, xv = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, xv))
    head = KernelHead(task=Phenotype(only=("LVEDV", "LVESV", "LVSV")))
    found = head.fit(Folder(tmp_path), x, y, xv, yv)(xv)
    chosen = json.loads((tmp_path / "penalties.json").read_text())
    for t, name in enumerate(head.task.names):
        known = np.isfinite(y[:, t])
        mean = y[known, t].mean()
        predicted = {}
        for penalty in PENALTIES:
            model = KernelRidge(alpha=penalty, kernel=alike)
            model.fit(x[known], y[known, t] - mean)
            predicted[penalty] = model.predict(xv) + mean
        best = min(predicted, key=lambda p: np.square(predicted[p] - yv[:, t]).mean())
        assert chosen[name] == best
        np.testing.assert_allclose(found[:, t], predicted[best], rtol=1e-7)


def test_codes_are_compared_by_direction():
    codes = np.random.default_rng(0).normal(size=(6, 4))
    prepared = KernelHead().prepare(codes, np.arange(3))
    np.testing.assert_allclose(np.linalg.norm(prepared, axis=1), 1)
    np.testing.assert_allclose(KernelHead().prepare(7 * codes, np.arange(3)), prepared)


# ------------------------------------------------------------------------------ boosted trees


def test_the_grid_of_trees_is_searched_point_by_point(data, tmp_path):
    x, y, xv, yv = data
    settings = {
        "depths": (3, 4),
        "rates": (0.1, 0.3),
        "subsamples": (0.5, 1.0),
        "rounds": (5, 10, 20),
    }
    head = XGBoostHead(task=Phenotype(only=("LVEDV", "LVESV", "LVSV")), seed=0, **settings)
    found = head.fit(Folder(tmp_path), x, y, xv, yv)(xv)
    chosen = json.loads((tmp_path / "settings.json").read_text())
    for t, name in enumerate(head.task.names):
        best = (math.inf, None)
        for depth in settings["depths"]:
            for rate in settings["rates"]:
                for subsample in settings["subsamples"]:
                    for trees in settings["rounds"]:
                        options = {"max_depth": depth, "eta": rate, "subsample": subsample}
                        model = xgboost.train(
                            {**options, "seed": 0, "nthread": 2},
                            xgboost.DMatrix(x, y[:, t]),
                            num_boost_round=trees,
                        )
                        out = model.predict(xgboost.DMatrix(xv))
                        error = np.square(out - yv[:, t]).mean()
                        if error < best[0]:
                            best = error, out, (depth, rate, subsample, trees)
        assert tuple(chosen[name].values()) == best[2]
        np.testing.assert_allclose(found[:, t], best[1], rtol=1e-5)


def test_trees_without_anything_to_choose_by(data, tmp_path):
    x, y, xv, yv = data
    y, yv = (y > 7).astype(float), np.zeros_like(yv)
    y[:, 2] = 0
    head = XGBoostHead(task=CVD(only=("CAD", "AF", "DM")), seed=0, depths=(2, 3), rounds=(5, 10))
    found = head.fit(Folder(tmp_path), x, y, xv, yv)(xv)
    chosen = json.loads((tmp_path / "settings.json").read_text())
    assert chosen["CAD"] == {"depth": 2, "rate": 0.1, "subsample": 1.0, "trees": 5}
    assert roc_auc_score(data[3][:, 0] > 7, found[:, 0]) > 0.6
    assert not found[:, 2].any(), "no positive to learn from"


# ------------------------------------------------------------------------------ small networks


def one_by_one(settings, training, validation, key, classify):
    """Train one network with torch's own layers, as the paper does, from the same draws."""
    known, seen = (np.isfinite(labels) for _, labels in (training, validation))
    x, y = (torch.from_numpy(a[known]).float() for a in training)
    xv, yv = (torch.from_numpy(a[seen]).float() for a in validation)
    width, rng = x.shape[1], np.random.default_rng(list(f"{key}/weights".encode()))
    model = torch.nn.Sequential(
        torch.nn.Linear(width, width // 2),
        torch.nn.GELU(),
        torch.nn.Linear(width // 2, width // 4),
        torch.nn.GELU(),
        torch.nn.Linear(width // 4, 1),
    )
    for layer in model[::2]:
        bound = layer.in_features**-0.5
        shape = (layer.in_features, layer.out_features)
        layer.weight.data = torch.from_numpy(rng.uniform(-bound, bound, shape).T).float()
        layer.bias.data = torch.from_numpy(rng.uniform(-bound, bound, shape[1])).float()

    def loss(x, y, of):
        if not classify:
            return torch.nn.functional.mse_loss(model(x)[:, 0], y)
        weight = 1 + y * (((of == 0).sum() / (of == 1).sum()).clamp(1, 100) - 1)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            model(x)[:, 0], y, weight=weight, reduction="sum"
        ) / weight.sum().clamp(min=1)

    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=(0.9, 0.95),
    )
    size, best, rounds = min(settings.batch_size, len(x)), (math.inf, None, 0), 0
    people = np.flatnonzero(known)
    while rounds < settings.epochs and rounds - best[2] < settings.patience:
        order = np.random.default_rng(list(f"{key}/{rounds}".encode())).permutation(people)
        for start in range(0, len(order) - size + 1, size):
            rows = np.searchsorted(people, order[start : start + size])
            optimiser.zero_grad()
            loss(x[rows], y[rows], y).backward()
            optimiser.step()
        rounds += 1
        with torch.no_grad():
            value = loss(xv, yv, yv).item()
            if value < best[0]:
                best = value, model(torch.from_numpy(validation[0]).float())[:, 0].numpy(), rounds
    return best[1:]


@pytest.mark.parametrize("classify", [False, True])
def test_networks_trained_together_are_networks_trained_alone(classify):
    """Targets with different people, and so epochs of different length, and their own stops."""
    rng = np.random.default_rng(0)
    x, xv = rng.normal(size=(150, 16)), rng.normal(size=(60, 16))
    truth = rng.normal(size=(16, 4))
    y, yv = (a @ truth + 2 * rng.normal(size=(len(a), 4)) for a in (x, xv))
    if classify:
        y, yv = (y > 2).astype(float), (yv > 2).astype(float)
    else:
        y, yv = y / 5, yv / 5
    y[:100, 1] = np.nan
    y[5:, 2] = np.nan
    y[0, 2], y[1, 2] = 0, 1
    yv[::2, 3] = np.nan
    settings = MLPHead(epochs=12, batch_size=32, learning_rate=2e-2, patience=3)
    keys = ["a", "b", "c", "d"]
    options = {"classify": classify, "device": "cpu"}
    predict, epochs = train_each(settings, (x, y), (xv, yv), keys=keys, **options)
    found = predict(xv)
    for t, key in enumerate(keys):
        alone, best = one_by_one(settings, (x, y[:, t]), (xv, yv[:, t]), key, classify)
        assert epochs[t] == best
        np.testing.assert_allclose(found[:, t], alone, rtol=1e-3, atol=1e-4)
    assert len(set(epochs)) > 1


def test_a_network_is_the_same_in_any_company():
    rng = np.random.default_rng(0)
    x, y, xv, yv = (rng.normal(size=shape) for shape in ((90, 8), (90, 3), (30, 8), (30, 3)))
    settings = MLPHead(epochs=4, batch_size=16)
    options = {"classify": False, "device": "cpu"}
    predict, _ = train_each(settings, (x, y), (xv, yv), keys=["a", "b", "c"], **options)
    alone, _ = train_each(settings, (x, y[:, 1:2]), (xv, yv[:, 1:2]), keys=["b"], **options)
    np.testing.assert_allclose(predict(xv)[:, 1], alone(xv)[:, 0], rtol=1e-4, atol=1e-6)


def test_networks_of_several_embeddings_and_fractions_are_trained_together():
    """Seeds are stacked as people, fractions are columns: each network is the one trained alone."""
    rng = np.random.default_rng(0)
    x, xv = rng.normal(size=(2, 150, 16)), rng.normal(size=(2, 60, 16))
    y, yv = rng.normal(size=(2, 150, 4)), np.full((2, 60, 4), np.nan)
    y[:, 40:, 1::2] = np.nan
    y[0, :, 2:], y[1, :, :2] = np.nan, np.nan
    yv[0, :, :2], yv[1, :, 2:] = rng.normal(size=(2, 60, 2))
    settings = MLPHead(epochs=9, batch_size=32, learning_rate=1e-2, patience=2)
    keys, options = ["a", "b", "c", "d"], {"classify": False, "device": "cpu"}
    stacked = [np.concatenate(a) for a in (x, y, xv, yv)]
    predict, epochs = train_each(settings, stacked[:2], stacked[2:], keys=keys, **options)
    assert len(set(epochs)) > 1
    for t, key in enumerate(keys):
        own = t // 2
        sole = (x[own], y[own, :, t : t + 1]), (xv[own], yv[own, :, t : t + 1])
        alone, epoch = train_each(settings, *sole, keys=[key], **options)
        assert epoch == [epochs[t]]
        np.testing.assert_allclose(
            predict(xv[own])[:, t], alone(xv[own])[:, 0], rtol=1e-3, atol=1e-5
        )


def test_a_network_without_validation_keeps_its_first_epoch(data):
    x, y, xv, yv = data
    for blank in ([1], [0, 1, 2]):
        seen = yv.copy()
        seen[:, blank] = np.nan
        settings = MLPHead(epochs=4, patience=1)
        options = {"keys": ["a", "b", "c"], "classify": False, "device": "cpu"}
        predict, epochs = train_each(settings, (x, y), (xv, seen), **options)
        assert {epochs[t] for t in blank} == {1}
        assert np.isfinite(predict(xv)).all()


def test_a_network_that_explodes_stops_the_run(data):
    x, y, xv, yv = data
    settings = MLPHead(epochs=4, learning_rate=1e30)
    with pytest.raises(NonFiniteLossError, match="of b is"):
        train_each(
            settings, (x, y[:, :1]), (xv, yv[:, :1]), keys=["b"], classify=False, device="cpu"
        )


def test_networks_learn_and_answer_in_the_targets_unit(data, tmp_path):
    x, y, xv, yv = (a.copy() for a in data)
    y[:, 2] = np.nan
    task = Phenotype(only=("LVEDV", "LVESV", "LVSV"))
    head = MLPHead(**TOY, task=task, learning_rate=1e-2)
    found = head.fit(Folder(tmp_path), x, 100 + 10 * y, xv, 100 + 10 * yv)(xv)
    for t in range(2):
        assert np.corrcoef(found[:, t], yv[:, t])[0, 1] > 0.7
        assert found[:, t].mean() == pytest.approx(100 + 10 * yv[:, t].mean(), abs=10)
    assert not found[:, 2].any(), "nobody to learn from"
    assert json.loads((tmp_path / "epochs.json").read_text()).keys() == {"LVEDV", "LVESV"}


# ------------------------------------------------------------------------------ balance


def test_a_head_on_a_static_sample(tmp_path):
    store = Store(tmp_path / "store")
    head = LinearHead(**TOY, task=CVD(), balance="static")
    (folder,) = bring(store, head)
    counts = json.loads((folder / "fit.json").read_text())
    cohort = data_of(store)
    for name, count in counts.items():
        assert count["people"] == 2 * count["positives"], name
    train = cohort.rows("train")
    assert {n: c["positives"] for n, c in counts.items()} == dict(
        cohort.diagnoses.iloc[train].sum()
    )
    heads = [LinearHead(**TOY, task=Phenotype(), balance=balance) for balance in ("", "static")]
    values = bring(store, *heads)
    assert np.array_equal(*[np.load(f / "test.npy") for f in values]), "values are not balanced"
