"""A batch on two devices trains what it trains on one: every kind of loss, and the loop around it.

In float64, where what is the same is the same to the twelfth digit.
"""

import copy
import dataclasses
import itertools
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import mixing
import psutil
import pytest
import torch
import torch.distributed as dist
import toy
from safetensors.torch import load_file

from benchmark.api import Batch, UserError
from benchmark.cli import main
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.engine import ranks
from benchmark.engine.executors import local
from benchmark.engine.split import Split, disagreement
from benchmark.engine.store import Store
from benchmark.engine.training import NonFiniteLossError, train
from benchmark.registry import registry
from benchmark.runner import bring
from benchmark.stage import UNSET, bind

PEOPLE = 7  # four and three
DEVICES = 2
STEPS = 2
LOSSES = {
    "masked reconstruction": ("mae", "harmonised"),
    "two towers": ("mmcl", "harmonised"),
    "heart phases": ("ptacl", "harmonised"),
    "batch norm and momentum": ("byol", "harmonised"),
    "cross-correlation": ("barlowtwins", "harmonised"),
    "labels, dropout, frozen guide": ("eccl", "paper"),
}

REFUSED = {"mixing": mixing.Mixing, "separate": toy.ToyLabelled}


def make(name, track):
    unbound = registry().method(name).on_track(track, "smoke")
    bound = {"cohort": SimulatedCohort(people=300), "seed": 0}
    return bind(unbound, task=registry().task("phenotype"), fraction=1.0, **bound)


def others():
    """Every other method that is trained, in either track."""
    for track in ("harmonised", "paper"):
        for name, entry in registry().methods.items():
            new = track in entry.variant.tracks and (name, track) not in LOSSES.values()
            if new and make(name, track).trained:
                yield f"{name} ({track})", (name, track)


def batch_of(method, training):
    torch.manual_seed(1)
    views = {}
    for name, view in method.views().items():
        views[name] = torch.rand(PEOPLE, *view.shape, dtype=torch.float64)
        if name == "r_peaks":  # in seconds, one after another
            views[name] = torch.arange(view.shape[0]).double() * 0.8 + views[name][:, :1]
    labels = None
    if method.uses_labels and hasattr(method, "task"):
        labels = torch.randn(PEOPLE, len(method.task.names), dtype=torch.float64)
        labels[0] = torch.nan
    return Batch(views, training=training, progress=0.5, labels=labels)


def step(method, parts, encoders, optimiser, training, rank=None):
    encoders.train(training)
    for module in method.frozen(encoders):
        module.eval()
    batch = batch_of(method, training)
    torch.manual_seed(2)
    terms = method.loss(parts, batch)
    if training:
        optimiser.zero_grad()
        sum(terms.values()).backward()
        if rank is not None:
            for parameter in encoders.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= DEVICES
        optimiser.step()
        method.after_step(encoders, 0.5)
    return torch.stack([term.detach() for term in terms.values()])


def compare(name, track, rank):
    """Train both ways and return how far losses and weights are apart, relatively."""
    method = make(name, track)
    torch.manual_seed(0)
    shapes = {name: view.shape for name, view in method.views().items()}
    whole = method.build(shapes).double()
    for module in method.frozen(whole):
        module.requires_grad_(False)
    parted = copy.deepcopy(whole)
    split = Split(parted, rank, DEVICES)
    ways = []
    for encoders, parts, own in ((whole, whole, None), (parted, split.parts(), rank)):
        trained = [p for p in encoders.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(trained, lr=0.01, momentum=0.9)
        losses = []
        for number in range(STEPS + 1):
            split.learning = number == 0
            losses.append(step(method, parts, encoders, optimiser, number < STEPS, own))
        ways.append(torch.stack(losses))
    apart = ((ways[0] - ways[1]).abs().max() / ways[0].abs().max()).item()
    weights = max(
        ((a - b).abs().max() / a.abs().max().clamp(min=1e-3)).item()
        for a, b in zip(whole.state_dict().values(), parted.state_dict().values(), strict=True)
        if a.is_floating_point()
    )
    return apart, weights


def refusal(cls, rank):
    """Return what keeps a method from being split."""
    method = labelled(cls)
    encoders = method.build({"ecg": (12, 40)}).double()
    x, y = torch.randn(PEOPLE, 12, 40), torch.randn(PEOPLE, len(method.task.names))

    def loss(parts, training, progress):
        encoders.train(training)
        return method.loss(parts, Batch({"ecg": x}, training, progress, y))

    before = copy.deepcopy(encoders.state_dict())
    found = disagreement(Split(encoders, rank, DEVICES), loss, 1e-6)
    changed = any(not torch.equal(v, before[k]) for k, v in encoders.state_dict().items())
    return "something was changed" if changed else found


def device(rank, meeting, cases, said):
    """Be one of the processes: do all cases, one after another."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    where = {"rank": rank, "world_size": DEVICES, "timeout": timedelta(seconds=60)}
    dist.init_process_group("gloo", init_method=f"file://{meeting}", **where)
    for case, what in cases.items():
        try:
            found = compare(*what, rank) if isinstance(what, tuple) else refusal(what, rank)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if rank == 0:
            said.send((case, found))
        if isinstance(what, tuple) and isinstance(found, str):
            break
    dist.destroy_process_group()


def on_two_devices(cases, folder):
    context = multiprocessing.get_context("fork")
    ear, mouth = context.Pipe(duplex=False)
    processes = [
        context.Process(target=device, args=(rank, folder / "meeting", cases, mouth))
        for rank in range(DEVICES)
    ]
    for process in processes:
        process.start()
    mouth.close()
    found = {}
    try:
        while True:
            case, result = ear.recv()
            found[case] = result
    except EOFError:
        pass
    for process in processes:
        process.join()
    return found


def is_same(found):
    losses, weights = found
    print(f"losses {losses:.1e}, weights {weights:.1e}")
    return losses < 1e-9 and weights < 1e-8


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return on_two_devices(LOSSES | REFUSED, tmp_path_factory.mktemp("ddp"))


@pytest.mark.parametrize("case", LOSSES)
def test_two_devices_train_the_same_weights(measured, case):
    assert is_same(measured[case])


def test_a_rehearsal_notices_what_cannot_be_split_and_changes_nothing(measured):
    assert measured["mixing"].startswith("the loss {'task': ")
    assert measured["separate"] == ""


@pytest.mark.nightly
@pytest.mark.parametrize(("case", "which"), list(others()))
def test_two_devices_train_the_same_weights_of_every_method(tmp_path, case, which):
    assert is_same(on_two_devices({case: which}, tmp_path)[case])


# ------------------------------------------------------------------------------ the whole loop


class Folders:
    """A context over plain folders, with something done at every update."""

    device, workers = "cpu", 1

    def __init__(self, folder, store, at_update=lambda done: None):
        self.out, self.resume, self.store = folder / "out", folder / "resume", store
        self.out.mkdir(parents=True, exist_ok=True)
        self.resume.mkdir(exist_ok=True)
        self.at_update = at_update

    def open(self, stage):
        return self.store.path(stage.digest)

    def progress(self, done, total, unit="", note=""):
        self.at_update(done)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("inputs") / "store")
    toy.bring(store, *labelled(toy.ToyLabelled).inputs)
    return store


def labelled(cls):
    return cls(cohort=toy.COHORT, seed=0, fraction=1.0, task=registry().task("phenotype"))


def trained(method, folder, store, devices, at_update=lambda done: None):
    context = Folders(folder, store, at_update)
    train(method, context, devices)
    history = json.loads((context.out / "history.json").read_text())
    return load_file(context.out / "weights.safetensors"), history


def test_a_whole_training_on_two_devices(tmp_path, inputs):
    method = labelled(toy.ToyLabelled)
    one, two = (trained(method, tmp_path / f"{n}", inputs, n) for n in (1, 2))
    assert (one[1].get("devices"), two[1]["devices"]) == (None, 2)
    assert one[1]["mean"] == two[1]["mean"]
    for a, b in zip(one[1]["history"], two[1]["history"], strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    apart = max((one[0][name] - two[0][name]).abs().max().item() for name in one[0])
    print(f"weights {apart:.1e}")
    assert apart < 1e-4
    assert not dist.is_initialized()
    assert not multiprocessing.active_children()


@pytest.mark.nightly
def test_what_cannot_be_split_says_so_and_trains_on_one(tmp_path, inputs):
    one = trained(labelled(mixing.Mixing), tmp_path / "1", inputs, 1)
    with pytest.warns(UserWarning, match="cannot be split and trains on one device: the loss"):
        two = trained(labelled(mixing.Mixing), tmp_path / "2", inputs, 2)
    assert all(torch.equal(one[0][name], two[0][name]) for name in one[0])
    assert one[1] == two[1]


@pytest.mark.nightly
def test_a_resumed_training_on_two_devices_equals_an_undisturbed_one(tmp_path, inputs):
    def stop(done):
        if done == 5:
            raise KeyboardInterrupt

    method = labelled(toy.ToyLabelled)
    whole = trained(method, tmp_path / "whole", inputs, 2)
    with pytest.raises(KeyboardInterrupt):
        trained(method, tmp_path / "cut", inputs, 2, stop)
    assert not multiprocessing.active_children()
    resumed = trained(method, tmp_path / "cut", inputs, 2)
    assert all(torch.equal(whole[0][name], resumed[0][name]) for name in whole[0])
    assert whole[1] == resumed[1]


def family():
    """Return the processes that this one has started, but for Python's own."""
    children = psutil.Process().children(recursive=True)
    return {c.pid for c in children if "resource_tracker" not in " ".join(c.cmdline())}


def test_the_death_of_another_process_is_told(tmp_path, inputs):
    killed = []

    def kill(done):
        if done == 3:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
                killed.append(time.monotonic())

    before = family()
    text = "on 2 devices: the process of device 1 was killed by SIGKILL; is there enough memory"
    with pytest.raises(UserError, match=text):
        trained(labelled(toy.ToyLabelled), tmp_path, inputs, 2, kill)
    (when,) = killed
    assert time.monotonic() - when < 15
    assert not dist.is_initialized()
    assert family() == before


@pytest.mark.nightly
def test_the_death_of_another_process_ends_a_wait_that_would_go_on(tmp_path, inputs, monkeypatch):
    """As between GPUs, where a loss that comes of an abort may be anything."""
    aborted = threading.Event()
    monkeypatch.setattr(dist.ProcessGroup, "abort", lambda group: aborted.set())

    def wait(done):
        if done == 3:
            (child,) = multiprocessing.active_children()
            os.kill(child.pid, signal.SIGKILL)
            assert aborted.wait(15)
            raise NonFiniteLossError("the training loss is nan")

    with pytest.raises(UserError, match="the process of device 1 was killed") as found:
        trained(labelled(toy.ToyLabelled), tmp_path, inputs, 2, wait)
    assert isinstance(found.value.__cause__, NonFiniteLossError)


@pytest.mark.parametrize(("end", "after", "aborts"), [(-9, 60, 1), (1, 0.2, 0), (0, 1, 0)])
def test_only_who_has_died_ends_what_goes_on_without_them(monkeypatch, end, after, aborts):
    aborted = []
    monkeypatch.setattr(ranks, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.5)
    world = SimpleNamespace(abort=lambda: (aborted.append(True), over.set()))
    monkeypatch.setattr(ranks.dist, "group", SimpleNamespace(WORLD=world))
    over, lost = threading.Event(), threading.Event()
    timer = threading.Timer(after, over.set)  # what this process itself comes to
    timer.start()
    try:
        ranks._watch([SimpleNamespace(exitcode=None), SimpleNamespace(exitcode=end)], over, lost)
    finally:
        timer.cancel()
    assert (len(aborted), lost.is_set()) == (aborts, bool(aborts))


@pytest.mark.nightly
def test_a_process_that_cannot_begin_is_not_waited_for(tmp_path, inputs):
    """A class that only this process knows."""
    here = dataclasses.make_dataclass("Here", [], bases=(toy.ToyLabelled,), frozen=True)
    here.__module__ = "mixing"
    mixing.Here = here
    with pytest.raises(RuntimeError, match="the process of device 1 ended with 1"):
        trained(labelled(here), tmp_path, inputs, 2)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what is blocked is in /proc")
def test_a_process_that_is_only_starting_is_not_reached_by_ctrl_c():
    """Or it would print where it was interrupted, in the middle of its imports."""
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    with ranks._uninterrupted():
        process.start()
    try:
        for pid, blocked in ((process.pid, True), (os.getpid(), False)):
            status = Path(f"/proc/{pid}/status").read_text()
            mask = int(re.search(r"^SigBlk:\s*(\w+)", status, re.MULTILINE)[1], 16)
            assert bool(mask >> (signal.SIGINT - 1) & 1) is blocked
    finally:
        process.kill()
        process.join()


def test_what_is_not_set_is_the_same_object_in_every_process():
    assert multiprocessing.reduction.ForkingPickler.loads(
        multiprocessing.reduction.ForkingPickler.dumps(UNSET)
    ) is UNSET  # fmt: skip


# ------------------------------------------------------------------------------ asking for it


def gpus(number):
    return lambda device: [{"CUDA_VISIBLE_DEVICES": str(n)} for n in range(number)]


def test_workers_get_as_many_gpus_as_share_a_training(monkeypatch):
    monkeypatch.setattr(local, "accelerators", gpus(5))
    seats = [seat for seat in local._seats("auto", 1, 2) if seat.kind == "device"]
    assert [seat.environment["CUDA_VISIBLE_DEVICES"] for seat in seats] == ["0,1", "2,3"]
    assert {seat.devices for seat in seats} == {2}


def test_more_devices_than_there_are_is_said_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "accelerators", gpus(2))
    with pytest.raises(UserError, match="--devices is 3, and there are 2 GPUs here"):
        bring([toy.COHORT], Store(tmp_path), devices=3)


def test_processes_share_a_training_only_where_the_cpu_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "accelerators", gpus(0))
    with pytest.raises(UserError, match=r"there are 0 GPUs here; .* --device cpu"):
        bring([toy.COHORT], Store(tmp_path / "a"), devices=2)
    assert bring([toy.COHORT], Store(tmp_path / "b"), devices=2, device="cpu").ok
    report = bring([toy.COHORT], Store(tmp_path / "a"), devices=2, executor="none")
    assert not report.ran, "what is only read from the store needs no device"


def test_no_devices_are_asked_wrongly(capsys):
    asked = ("--method", "random-init", "--task", "cvd", "--scale", "smoke", "--dry-run")
    assert main(["run", *asked, "--devices", "0"]) == 2
    assert "at least 1 is needed" in capsys.readouterr().err


def test_shell_lines_ask_for_as_many_devices_where_one_is_used(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path))
    asked = ("--method", "mae", "--task", "cvd", "--scale", "smoke", "--fractions", "1.0")
    assert main(["run", *asked, "--commands", "--devices", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    jobs = [pair for pair in itertools.pairwise(lines) if pair[0].startswith("# job ")]
    assert {("2 GPUs" in about, line.endswith("--devices 2")) for about, line in jobs} == {
        (True, True), (False, False)
    }  # fmt: skip
