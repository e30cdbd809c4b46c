"""Heads against scikit-learn, and what they do with few or missing labels."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from benchmark.evaluation.heads import LOGISTIC_STRENGTHS, RIDGE_PENALTIES, logistic, ridge


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
