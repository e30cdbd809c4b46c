"""The rows of all methods, from scores in the store: `pytest tests/benchmarks -k boards`."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from benchmark.api import Predictions
from benchmark.cohorts.cohort import CohortData
from benchmark.engine.executors.inline import execute
from benchmark.engine.progress import Reporter
from benchmark.engine.store import Store
from benchmark.evaluation.score import endpoint_targets, means, measured
from benchmark.planning import Request, expand, plan
from benchmark.recording import own_files
from benchmark.registry import registry
from benchmark.reports import cells

REPLICATES = 3


@pytest.fixture(scope="module", params=["phenotype", "phenotype-all82"])
def request_and_store(request, tmp_path_factory):
    """Made-up scores of every method on a task at every fraction, in three replicates."""
    store = Store(tmp_path_factory.mktemp("boards") / "store")
    wanted = Request(expand("all", "method"), (request.param,), REPLICATES, scale="smoke")
    task, cohort = registry().task(request.param), wanted.make_cohort()
    execute([cohort], store, train=None, reporter=Reporter(io.StringIO()))
    people = CohortData(store.path(cohort.digest))
    truth = task.targets(people).iloc[people.rows("test")].to_numpy(float)
    rng = np.random.default_rng(0)
    for job in plan(wanted).jobs:
        averaged = means(task, endpoint_targets(task, people, job.fraction))
        guess = truth + rng.normal(size=truth.shape)
        predictions = Predictions(task.names, {"target": truth, "prediction": guess})
        found = [measured(metric, predictions, task, averaged, {}) for metric in task.metrics]
        claim = store.claim(job.score)
        columns = [column for _, block in found for column in block]
        np.save(claim.out / "influence.npy", np.stack(columns, axis=1))
        record = {"cells": [cell for block, _ in found for cell in block], "people": len(truth)}
        (claim.out / "score.json").write_text(json.dumps(record))
        claim.commit(1.0)
        claim.close()
    return wanted, store


def test_rows_of_all_methods(benchmark, request_and_store):
    wanted, store = request_and_store
    task = registry().task(wanted.tasks[0])

    def rows():
        cells._load.cache_clear()
        return own_files(wanted, task, Store(store.root), None)

    files = benchmark.pedantic(rows, rounds=2)
    jobs = plan(wanted).jobs
    assert len(files) == len({job.method.name for job in jobs})
    assert cells._load.cache_info().misses == len({job.score.digest for job in jobs})
    assert all(row["result"]["replicates"] == REPLICATES for row in files[0]["rows"])
