"""The ``xgboost`` head: gradient-boosted trees."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from benchmark.api import Context
from benchmark.evaluation.heads import Head

MOST_ROUNDS = 300
PATIENCE = 25
BLIND_ROUNDS = 30
"""Rounds where validation has nothing to choose by."""


@dataclass(frozen=True, kw_only=True)
class XGBoostHead(Head):
    """Gradient-boosted trees, one booster per target, its settings chosen on validation.

    Every combination of ``depths``, ``rates`` and ``subsamples`` is grown, and its number of trees
    chosen among ``rounds`` or, where there are none, by early stopping; AUROC or root mean squared
    error decides. Also leaves ``settings.json``.

    MMCL (Turgut et al. 2025, Table I) searches rounds, depth, rate and subsampling over 270 points;
    the defaults stand for that grid.
    """

    threads: ClassVar[int] = 2

    depths: tuple[int, ...] = (1, 2, 3, 4)
    rates: tuple[float, ...] = (0.1,)
    subsamples: tuple[float, ...] = (1.0,)
    rounds: tuple[int, ...] = ()

    def rehearsal(self) -> dict[str, Any]:
        """Keep two depths and two numbers of trees."""
        return {
            "depths": self.depths[:2],
            "rates": self.rates[:1],
            "subsamples": self.subsamples[:1],
            "rounds": self.rounds[:2],
        }

    def fit(self, context: Context, x, y, x_validation, y_validation) -> Any:
        """Fit one booster per target."""
        import xgboost

        classify = self.task.kind == "classification"
        boosters: list[tuple[Any, int] | None] = []
        chosen: dict[str, Any] = {}
        for column, name in enumerate(self.task.names):
            known, seen = np.isfinite(y[:, column]), np.isfinite(y_validation[:, column])
            ys, yv = y[known, column], y_validation[seen, column]
            boosters.append(None)
            if known.sum() < 2 or (classify and len(np.unique(ys)) < 2):
                continue
            train = xgboost.DMatrix(x[known], ys)
            watch = xgboost.DMatrix(x_validation[seen], yv)
            choosable = len(np.unique(yv)) == 2 if classify else seen.any()
            best_loss = float("inf")
            grid = itertools.product(self.depths, self.rates, self.subsamples)
            for depth, rate, subsample in grid if choosable else [next(grid)]:
                options = {
                    "max_depth": depth,
                    "eta": rate,
                    "subsample": subsample,
                    "nthread": self.threads,
                    "seed": self.seed,
                    "objective": "binary:logistic" if classify else "reg:squarederror",
                    "eval_metric": "auc" if classify else "rmse",
                }
                if classify:
                    options["scale_pos_weight"] = float((ys == 0).sum() / (ys == 1).sum())
                curve: dict[str, dict[str, list[float]]] = {}
                model = xgboost.train(
                    options,
                    train,
                    num_boost_round=self._most_rounds(choosable),
                    evals=[(watch, "validation")] if choosable else [],
                    early_stopping_rounds=PATIENCE if choosable and not self.rounds else None,
                    evals_result=curve,
                    verbose_eval=False,
                )
                trees, loss = model.num_boosted_rounds(), 0.0
                if choosable:
                    quality = np.array(curve["validation"][options["eval_metric"]])
                    losses = -quality if classify else quality
                    offered = self.rounds or range(1, len(losses) + 1)
                    trees = min(offered, key=lambda count: losses[count - 1])
                    loss = losses[trees - 1]
                if loss < best_loss:
                    best_loss, boosters[-1] = loss, (model, trees)
                    chosen[name] = {
                        "depth": depth,
                        "rate": rate,
                        "subsample": subsample,
                        "trees": trees,
                    }
            context.progress(column + 1, y.shape[1], "targets")
        (context.out / "settings.json").write_text(json.dumps(chosen, indent=1))

        def predict(features: np.ndarray) -> np.ndarray:
            matrix = xgboost.DMatrix(features)
            out = np.zeros((len(features), len(boosters)))
            for column, booster in enumerate(boosters):
                if booster is not None:
                    model, trees = booster
                    out[:, column] = model.predict(matrix, iteration_range=(0, trees))
            return out

        return predict

    def _most_rounds(self, choosable: bool) -> int:
        if not choosable:
            return min(self.rounds, default=BLIND_ROUNDS)
        return max(self.rounds, default=MOST_ROUNDS)
