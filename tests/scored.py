"""Made-up scores of methods as cells and rows files, for tests of what is made of them."""

import hashlib

import numpy as np

from benchmark.api import Predictions
from benchmark.evaluation.metrics import AUROC
from benchmark.reports.rows import Cell, gap_of, row_of, versus_of

N, TARGETS = 600, ("CAD", "AF")
RUN = {
    "pretraining_seconds": 60.0,
    "embedding_seconds": 2.0,
    "head_seconds": 0.5,
    "peak_memory_bytes": 2**30,
    "device": "cpu",
    "git_sha": "f" * 40,
}
SKILL = {
    "mae": 0.8,
    "mmcl": 0.85,
    "ptacl": 2.0,
    "eccl": 1.5,
    "dual-phase": 1.4,
    "supervised": 1.0,
    "tabular": 0.6,
    "permuted": 0.3,
    "cmr-mae": 2.5,
    "cmr-supervised": 3.0,
    "newcomer": 1.0,
}


def hexdigest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def cells(
    method,
    replicates=3,
    fraction=1.0,
    head="linear",
    modality="ecg",
    recipe="a",
    targets=TARGETS,
    skill=None,
    **change,
):
    """One cell per target and their mean, of made-up scores of a method."""
    people = np.random.default_rng(0)
    y = (people.random((N, len(targets))) < 0.3).astype(float)
    own = np.random.default_rng(int(hexdigest(method)[:8], 16))
    common = people.standard_normal((N, len(targets)))
    skill = SKILL[method] if skill is None else skill
    found = []
    for _ in range(replicates):
        noise = common + 0.5 * own.standard_normal(y.shape) + own.normal(0, 0.02) * y
        found.append(
            AUROC().influence(Predictions(targets, {"target": y, "prediction": skill * y + noise}))
        )
    theta, psi = np.stack([t for t, _ in found]), np.stack([p for _, p in found], 2)
    shared = {
        "method": method,
        "head": head,
        "modality": modality,
        "metric": "AUROC",
        "fraction": fraction,
        "task_version": 1,
        "cohort_fingerprint": hexdigest("cohort"),
        "recipe_digest": hexdigest(recipe),
        "replicates": tuple(range(replicates)),
        "score_digests": tuple(
            hexdigest(f"{method}{head}{fraction}{recipe}{r}") for r in range(replicates)
        ),
        "scale": "logit",
        "n": N,
        "chance": 0.5,
    } | change
    positives = y.sum(axis=0).astype(int)
    single = [
        Cell(target=t, theta=theta[:, i], psi=psi[:, i], positives=int(positives[i]), **shared)
        for i, t in enumerate(targets)
    ]
    mean = Cell(
        target="mean",
        theta=theta.mean(1),
        psi=psi.mean(1),
        n_min=int(positives.min()),
        targets=targets,
        **shared,
    )
    return [*single, mean]


def file_of(method, own, *others, reference=None, goal=None, **change):
    versus = [
        versus_of(a, b)
        for other in others
        for a in own
        for b in other
        if (a.target, a.metric, a.fraction) == (b.target, b.metric, b.fraction)
    ]
    gaps = [gap_of(own[-1], reference[-1], goal[-1])] if goal else []
    header = {
        "method": method,
        "task": "cvd",
        "cohort": "simulated",
        "preset": None,
        "scale": "smoke",
        "track": "harmonised",
        "role": "ranked",
        "uses_labels": False,
    }
    rows = [row_of(cell, RUN) for cell in own]
    lists = {"versus": versus, "gaps": gaps}
    return {**header, "rows": rows, **{n: [x for x in v if x] for n, v in lists.items()}} | change
