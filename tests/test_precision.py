"""Reduced precision against the float32 reference: the same weights, people and random draws."""

import io

import numpy as np
import pytest
import torch

from benchmark.api import Batch
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.engine.batches import as_input, reseed
from benchmark.engine.executors.inline import execute
from benchmark.engine.progress import Reporter
from benchmark.engine.store import Store
from benchmark.engine.training import build
from benchmark.registry import registry
from benchmark.stage import bind

COHORT = SimulatedCohort(people=300)
PEOPLE = 32
METHODS = (
    *("mae", "cmr-mae", "simclr", "byol", "clocs", "barlowtwins", "cmae", "cmae-vit", "mmcl"),
    *("eccl", "eccl-triplet", "ptacl", "ptacl-cossim", "dual-phase"),
)


def make(name):
    track = "paper" if name == "cmae" else "harmonised"
    unbound = registry().method(name).on_track(track, "smoke")
    return bind(unbound, cohort=COHORT, seed=0, task=registry().task("phenotype"), fraction=1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = Store(tmp_path_factory.mktemp("precision") / "store")
    views = [view for name in METHODS for view in make(name).views().values()]
    assert execute([COHORT, *views], made, train=None, reporter=Reporter(io.StringIO())).ok
    return made


def batch_of(method, store):
    views = {
        name: as_input(np.load(store.path(view.digest) / "array.npy", mmap_mode="r")[:PEOPLE])
        for name, view in method.views().items()
    }
    table = method.labels(CohortData(store.path(COHORT.digest)))
    labels = None
    if table is not None:
        values = table.to_numpy()[:PEOPLE]
        labels = torch.from_numpy((values - np.nanmean(values, 0)) / np.nanstd(values, 0)).float()
    return Batch(views, labels=labels, training=True, progress=0.5)


def result(method, batch, reduced):
    """Return the loss, and the gradient of everything that is trained."""
    encoders = build(method)
    for module in method.frozen(encoders):
        module.requires_grad_(False)
    reseed("precision")
    with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        loss = sum(method.loss(encoders, batch).values())
    loss.backward()
    parts = [p.grad.flatten() for p in encoders.parameters() if p.grad is not None]
    return loss, torch.cat(parts)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_learns_what_float32_learns(name, store):
    method = make(name)
    batch = batch_of(method, store)
    (exact, direction), (loss, gradient) = (result(method, batch, how) for how in (False, True))
    assert loss.dtype == gradient.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    assert torch.cosine_similarity(gradient, direction, dim=0) > 0.99
