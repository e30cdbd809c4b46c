"""The ``kernel`` head: kernel regression on frozen codes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from benchmark.api import Context
from benchmark.evaluation.heads import Head, patterns

ROWS_AT_ONCE = 256
PENALTIES = 10.0 ** np.arange(-3.0, 2.01, 0.5)


@dataclass(frozen=True, kw_only=True)
class KernelHead(Head):
    """Kernel ridge regression of all targets; a disease is regressed on as 0 or 1.

    Radhakrishnan et al., Nature Communications 14 (2023) 2436, predict phenotypes from codes of
    unit length by the neural tangent kernel of a wide network with one hidden layer of rectifiers
    (github.com/uhlerlab/cma_phenotype_prediction). The kernel has no width to choose.

    Departures: a ridge penalty, chosen on validation per target, stands for their descent that
    validation stops early; the split is the harness's, there five folds; people miss single
    targets, there everyone who misses one is left out.
    """

    threads: ClassVar[int] = 2

    def prepare(self, x: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Scale every code to unit length."""
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)

    def fit(self, context: Context, x, y, x_validation, y_validation) -> Any:
        """Fit the targets that the same people have together; see ``penalties.json``."""
        from sklearn.kernel_ridge import KernelRidge

        weights = np.zeros((len(x), y.shape[1]))
        level = np.zeros(y.shape[1])
        kernel, seen = tangent_kernel(x, x), tangent_kernel(x_validation, x)
        chosen: dict[str, float] = {}
        for people, columns in patterns(y):
            mean = y[np.ix_(people, columns)].mean(0)
            ys, yv = y[np.ix_(people, columns)] - mean, y_validation[:, columns] - mean
            level[columns] = mean
            own = kernel[np.ix_(people, people)]
            least = np.full(len(columns), np.inf)
            # From the strongest on: it stays where validation has nothing to choose by.
            for penalty in PENALTIES[::-1]:
                model = KernelRidge(alpha=penalty, kernel="precomputed")
                dual = model.fit(own, ys).dual_coef_
                error = np.square(seen[:, people] @ dual - yv)
                error = np.where(np.isnan(error), 0.0, error).sum(0)
                for place in np.flatnonzero(error < least):
                    least[place] = error[place]
                    weights[people, columns[place]] = dual[:, place]
                    chosen[self.task.names[columns[place]]] = float(penalty)
            context.progress(int(np.max(columns)) + 1, y.shape[1], "targets")
        (context.out / "penalties.json").write_text(json.dumps(chosen, indent=1))
        return lambda codes: tangent_kernel(codes, x) @ weights + level


def tangent_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the neural tangent kernel of codes (n, width) and (m, width), up to a factor.

    Of a network with one hidden layer of rectifiers, on codes with a one appended (the bias): with
    c the cosine of two of them, |a| |b| (2 c (pi - arccos c) + sqrt(1 - c^2)) / pi, the sum of the
    arc-cosine kernels of the outer and of the inner weights (Cho and Saul, NIPS 2009; Jacot et al.,
    NeurIPS 2018).
    """
    kernel = np.empty((len(a), len(b)))
    # Row by row in blocks: at once, the steps between would hold six kernels of tens of thousands
    # of people in memory.
    for start in range(0, len(a), ROWS_AT_ONCE):
        rows = a[start : start + ROWS_AT_ONCE]
        norms = np.sqrt(np.outer(np.square(rows).sum(1) + 1, np.square(b).sum(1) + 1))
        cosine = np.clip((rows @ b.T + 1) / norms, -1, 1)
        turned = cosine * (np.pi - np.arccos(cosine))
        kernel[start : start + ROWS_AT_ONCE] = norms * (2 * turned + np.sqrt(1 - cosine**2)) / np.pi
    return kernel
