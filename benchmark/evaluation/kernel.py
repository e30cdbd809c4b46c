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
        weights = np.zeros((len(x), y.shape[1]))
        level = np.zeros(y.shape[1])
        chosen: dict[str, float] = {}
        for people, columns in patterns(y):
            known, ys = x[people], y[np.ix_(people, columns)]
            mean = ys.mean(0)
            level[columns] = mean
            duals = solutions(known, ys - mean, PENALTIES)
            flat = duals.transpose(1, 0, 2).reshape(len(known), -1)
            found = kernel_times(x_validation, known, flat).reshape(-1, *duals.shape[::2])
            error = np.square(found + mean - y_validation[:, None, columns])
            error = np.where(np.isnan(error), 0.0, error).sum(0)
            # The strongest of equals: it stays where validation has nothing to choose by.
            best = len(PENALTIES) - 1 - error[::-1].argmin(0)
            for place, column in enumerate(columns):
                weights[people, column] = duals[best[place], :, place]
                chosen[self.task.names[column]] = float(PENALTIES[best[place]])
            context.progress(int(np.max(columns)) + 1, y.shape[1], "targets")
        (context.out / "penalties.json").write_text(json.dumps(chosen, indent=1))
        return lambda codes: kernel_times(codes, x, weights) + level


def solutions(x: np.ndarray, y: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """Return the dual weights (penalties, n, targets) of codes (n, width), values (n, targets).

    All in the memory of a single kernel: a Cholesky factor takes one triangle, from the other the
    kernel is restored for the next penalty. An eigendecomposition would serve all penalties, but
    takes four kernels and longer than the eleven factors.
    """
    from scipy.linalg import cho_factor, cho_solve

    kernel = tangent_kernel(x, x)
    diagonal = kernel.diagonal().copy()
    found = np.empty((len(penalties), *y.shape))
    for place, penalty in enumerate(penalties):
        if place:
            _mirror(kernel)
        np.fill_diagonal(kernel, diagonal + penalty)
        # Transposed, it is in the order of LAPACK, which else works on a copy.
        factor = cho_factor(kernel.T, lower=False, overwrite_a=True, check_finite=False)
        found[place] = cho_solve(factor, y, check_finite=False)
    return found


def _mirror(kernel: np.ndarray) -> None:
    """Copy what is above the diagonal to below it."""
    for start in range(0, len(kernel), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        kernel[rows, :start] = kernel[:start, rows].T
        corner = kernel[rows, rows]
        below = np.tril_indices(len(corner), -1)
        corner[below] = corner.T[below]


def kernel_times(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the kernel of codes (n, width) and (m, width) times weights (m, targets)."""
    starts = range(0, len(a), ROWS_AT_ONCE)
    blocks = [tangent_kernel(a[start : start + ROWS_AT_ONCE], b) @ weights for start in starts]
    return np.concatenate(blocks) if blocks else np.zeros((0, weights.shape[1]))


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
