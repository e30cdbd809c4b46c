"""Training in samples per second, against what matrix products reach on the same device.

``pytest -s tests/benchmarks/test_training_speed.py`` runs the product's own loop, loading included,
on memory-mapped people of the papers' sizes: on the GPU where there is one, otherwise on all cores.
It tells the samples per second, the matrix rate of the device in that precision, the share of it
that the matrix products of a step make use of, and the share of a step that reading its batch would
take by itself. A plain autoencoder of timm's blocks is measured beside ours.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.engine import training
from benchmark.engine.batches import People
from benchmark.registry import registry
from benchmark.stage import bind

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
PEOPLE, STEPS, WARM = (1024, 60, 20) if GPU else (160, 5, 1)
PRECISIONS = ["32-true", "bf16-mixed"]


@pytest.fixture(autouse=True)
def all_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rates():
    """Matrix products of 2048 x 2048 in GFLOP/s, by precision: the best of several."""
    found = {}
    for precision, dtype in zip(PRECISIONS, (torch.float32, torch.bfloat16), strict=True):
        a = torch.rand(2048, 2048, device=DEVICE).to(dtype)
        best = min(_seconds(lambda a=a: a @ a) for _ in range(20))
        found[precision] = 2 * 2048**3 / best / 1e9
    return found


def _seconds(function):
    _wait()
    start = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start


def _wait():
    if GPU:
        torch.cuda.synchronize()


class Clock:
    """A training's context that notes when each update was told."""

    device: ClassVar[str] = DEVICE
    workers: ClassVar[int] = 1

    def __init__(self, folder: Path) -> None:
        self.out = self.resume = folder
        self.times: list[float] = []

    def progress(self, done, total, unit="", note=""):
        self.times.append(time.perf_counter())

    def seconds(self) -> float:
        """Return how long an update takes: the median of those after the first ones."""
        return statistics.median(np.diff(self.times)[WARM - 1 :])


def prepared(name, batch_size, precision, folder):
    """Return a method at its paper's size, and people who have its views on disk."""
    cohort = registry().cohort("simulated").at("full")
    own = {"cohort": cohort, "seed": 0, "task": registry().task("phenotype"), "fraction": 1.0}
    method = bind(registry().method(name).on_track("paper", "full"), **own)
    plan = {"updates": STEPS + WARM, "epochs": 0, "rounds": 1, "precision": precision}
    recipe = method.recipe.replace(batch_size=batch_size or method.recipe.batch_size, **plan)
    rng, views = np.random.default_rng(0), {}
    people = max(PEOPLE, recipe.batch_size)
    for key, view in method.views().items():
        if key == "r_peaks":
            beats = np.arange(view.shape[0]) * rng.uniform(0.8, 1.2, (people, 1))
            array = beats.astype(view.dtype)
        elif view.dtype == "uint8":
            array = rng.integers(0, 256, (people, *view.shape), dtype=np.uint8)
        else:
            array = rng.normal(size=(people, *view.shape)).astype(view.dtype)
        np.save(folder / f"{key}.npy", array)
        views[key] = np.load(folder / f"{key}.npy", mmap_mode="r")
    return method.replace(recipe=recipe), views, people


def measure(benchmark, rates, tmp_path, monkeypatch, name, batch_size, precision):
    method, views, people = prepared(name, batch_size, precision, tmp_path)
    training_people = People(views, np.arange(people), None)
    watched = People(views, np.arange(4), None)
    monkeypatch.setattr(training, "people_of", lambda *_: (training_people, watched, {}))
    # Weights of earlier stages cost nothing per step.
    monkeypatch.setattr(training, "untrained_encoders", lambda stage, _: training.build(stage))
    clock = Clock(tmp_path)
    benchmark.pedantic(training.train, (method, clock), rounds=1)
    size, seconds = method.recipe.batch_size, clock.seconds()
    reading = statistics.median(
        _seconds(lambda: training_people.batch(np.arange(size), DEVICE, training=True, progress=0))
        for _ in range(5)
    )
    benchmark.extra_info["share of a step that reading takes"] = round(float(reading / seconds), 4)
    told(benchmark, rates, precision, size, seconds, flops(method, training_people, size))


def flops(method, people, size):
    """Count the matrix products of one update, forward and backward."""
    encoders = training.build(method).to(DEVICE)
    for module in method.frozen(encoders):
        module.requires_grad_(False)
    batch = people.batch(np.arange(size), DEVICE, training=True, progress=0.5)
    with FlopCounterMode(display=False) as counter:
        sum(method.loss(encoders, batch).values()).backward()
    return counter.get_total_flops()


def told(benchmark, rates, precision, size, seconds, count):
    rate = rates[precision]
    benchmark.extra_info |= {
        "samples per second": round(float(size / seconds), 1),
        "matrix rate, GFLOP/s": round(rate),
        "share of the matrix rate": round(float(count / seconds / 1e9 / rate), 3),
    }
    print("", benchmark.name, dict(benchmark.extra_info), sep="\n")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_masked_autoencoder(benchmark, rates, tmp_path, monkeypatch, precision):
    """MMCL's: 12 x 2,500, encoder 384/3/6 on a fifth of the patches, decoder 256/2/8."""
    measure(benchmark, rates, tmp_path, monkeypatch, "mae@mmcl", 32, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_alignment(benchmark, rates, tmp_path, monkeypatch, precision):
    """MMCL's: that encoder and a ResNet-50 of three phases."""
    measure(benchmark, rates, tmp_path, monkeypatch, "mmcl", 64, precision)


@pytest.mark.skipif(not GPU, reason="a minute and more per step on a CPU")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["ptacl", "eccl"])
def test_larger_alignments(benchmark, rates, tmp_path, monkeypatch, name, precision):
    """PTACL's and ECCL's, with the papers' batches."""
    measure(benchmark, rates, tmp_path, monkeypatch, name, None, precision)


class Plain(nn.Module):
    """A masked autoencoder as one writes it down: timm's blocks, squared error, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.decoder_into = nn.Linear(100, 384), nn.Linear(384, 256)
        self.blocks = nn.Sequential(*(Block(384, 6, qkv_bias=True) for _ in range(3)))
        self.decoder = nn.Sequential(*(Block(256, 8, qkv_bias=True) for _ in range(2)))
        self.norm, self.decoder_norm = nn.LayerNorm(384), nn.LayerNorm(256)
        self.mask, self.head = nn.Parameter(torch.zeros(1, 1, 256)), nn.Linear(256, 100)
        self.positions = nn.Parameter(torch.randn(300, 384), requires_grad=False)
        self.decoder_positions = nn.Parameter(torch.randn(300, 256), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = x.reshape(len(x), 300, 100)
        order = torch.rand(len(x), 300, device=x.device).argsort(1)
        keep, restore = order[:, :60], order.argsort(1)
        seen = patches.gather(1, keep[..., None].expand(-1, -1, 100))
        z = self.norm(self.blocks(self.into(seen) + self.positions[keep]))
        z = self.decoder_into(z)
        filled = torch.cat([z, self.mask.to(z.dtype).expand(len(x), 240, -1)], 1)
        filled = filled.gather(1, restore[..., None].expand(-1, -1, 256)) + self.decoder_positions
        out = self.head(self.decoder_norm(self.decoder(filled)))
        return (out - patches).square().mean()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_plain_masked_autoencoder(benchmark, rates, precision):
    """The yardstick: the same size without augmentation, correlation, loading or checkpoints."""
    model = Plain().to(DEVICE)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.randn(32, 12, 2500, device=DEVICE)

    def step():
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = model(x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for _ in range(WARM):
        step()
    benchmark.pedantic(lambda: _seconds(step), rounds=STEPS)
    with FlopCounterMode(display=False) as counter:
        model(x).backward()
    seconds = benchmark.stats.stats.median
    told(benchmark, rates, precision, 32, seconds, counter.get_total_flops())
