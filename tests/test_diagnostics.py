"""Looks into representations: each number is 1 for an oracle and chance for who knows nothing."""

import numpy as np
import pytest
import torch

from benchmark.api import Predictions
from benchmark.cohorts.cohort import CohortData
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.cohorts.views import LeftVentricle, MidSliceCine
from benchmark.encoders import Encoders, Features
from benchmark.engine.store import Store
from benchmark.engine.training import build
from benchmark.evaluation.diagnostics import (
    AlignPhases,
    Localise,
    NormalisedError,
    OwnPhase,
    Reconstruct,
    beat_weights,
    own_phase,
    share_inside,
    visible_patches,
)
from benchmark.planning import Request, expand, plan
from benchmark.registry import registry
from benchmark.runner import bring
from benchmark.stage import bind
from methods.blocks.beats import beat_tokens

COHORT = SimulatedCohort.at("smoke")
IDS = [str(9_000_001 + k) for k in range(6)]
TASKS = ("reconstruction", "temporal-alignment", "localisation")


def method(name, scale="smoke"):
    entry = registry().method(name)
    bound = {"cohort": COHORT, "seed": 0, "task": registry().task("phenotype"), "fraction": 1.0}
    return bind(entry.on_track("harmonised", scale), **bound)


# ------------------------------------------------------------------------------------- metric


def test_people_without_a_number_do_not_count():
    values = np.array([0.2, np.nan, 0.6, 0.7])
    predictions = Predictions((), {"own": values, "chance": np.array([0.1, 0.9, 0.1, 0.4])})
    theta, psi = OwnPhase().influence(predictions)
    assert OwnPhase().people(predictions) == 3
    assert theta == pytest.approx([0.5])
    assert OwnPhase().chance(predictions) == pytest.approx([0.2])
    assert psi[1] == 0
    # The variance of the mean of three is theirs, whatever the number of people.
    assert (psi**2).sum() / len(psi) ** 2 == pytest.approx(np.var([0.2, 0.6, 0.7]) / 3)


def test_a_number_of_nobody_is_not_estimable():
    nobody = Predictions((), {"error": np.full(4, np.nan), "chance": np.ones(4)})
    theta, psi = NormalisedError().influence(nobody)
    assert np.isnan(theta).all()
    assert np.isnan(psi).all()
    assert np.isnan(NormalisedError().chance(nobody)).all()


# ------------------------------------------------------------------------------------- hidden


class Filling(Reconstruct):
    """What is filled in is known."""

    def __init__(self, fill):
        super().__init__(method=method("mae"), task=registry().task("reconstruction"))
        seen = {}

        def reconstruct(encoders, x, keep):
            true = x.unfold(-1, 50, 50).flatten(1, 2)
            seen["keep"] = keep
            return fill(true, keep), true

        object.__setattr__(self.method, "reconstruct", reconstruct)


def fill_in(fill, ecg):
    views = {"ecg": ecg.astype(np.float32)}
    return Filling(fill).measure(Encoders(), views, IDS[: len(ecg)], "cpu")


@pytest.fixture
def ecg():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 12, 1000)) + 3 * rng.normal(size=(6, 12, 1))


def test_a_perfect_reconstruction_has_no_error(ecg):
    assert (fill_in(lambda true, keep: true, ecg)["error"] == 0).all()


def test_a_flat_line_at_the_mean_is_chance(ecg):
    def flat(true, keep):
        hidden = torch.ones(true.shape[:2]).scatter(1, keep, 0).unflatten(1, (12, -1))[..., None]
        leads = true.unflatten(1, (12, -1))
        level = (leads * hidden).sum((2, 3)) / (hidden.sum((2, 3)) * true.shape[-1])
        return level[:, :, None, None].expand_as(leads).flatten(1, 2)

    found = fill_in(flat, ecg)
    torch.testing.assert_close(found["error"], found["chance"])


def test_what_is_visible_does_not_count(ecg):
    def wrong_where_visible(true, keep):
        visible = torch.zeros(true.shape[:2]).scatter(1, keep, 1)[..., None]
        return true + 100 * visible

    assert (fill_in(wrong_where_visible, ecg)["error"] == 0).all()


def test_a_record_without_signal_has_no_number(ecg):
    ecg[2] = 1.5
    error = fill_in(lambda true, keep: torch.zeros_like(true), ecg)["error"]
    assert torch.isnan(error).tolist() == [k == 2 for k in range(6)]


def test_masks_are_public_and_a_persons_own():
    four = visible_patches(IDS[:4], (12, 20), 0, 0.8)
    assert four.shape == (4, 48)
    assert all(len(set(row)) == 48 for row in four)
    np.testing.assert_array_equal(visible_patches(IDS[2:4], (12, 20), 0, 0.8), four[2:])
    for other in (visible_patches(IDS[:4], (12, 20), 1, 0.8), four[::-1]):
        assert not np.array_equal(four, other)
    assert four[0, :5].tolist() == [40, 7, 167, 199, 108], "everybody's masks have changed"


# ------------------------------------------------------------------------------------- phases


def beats(people=4, seed=0):
    rng = np.random.default_rng(seed)
    peaks = np.full((people, 40), np.nan)
    for row in peaks:
        found = 0.2 + np.cumsum(rng.uniform(0.7, 1.1, 12))
        row[: len(found)] = found - rng.uniform(0, 3)
    return peaks


def test_segments_of_a_beat_are_those_that_methods_align():
    tokens = torch.randn(4, 20, 8, dtype=torch.float64)
    peaks = beats()
    expected, valid = beat_tokens(tokens, torch.from_numpy(peaks), 5.0, 8)
    weights, count = beat_weights(peaks, 5.0, 20, 8)
    assert valid.all()
    found = torch.from_numpy(weights / count[:, None, None]) @ tokens
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_missed_peaks_make_no_beat():
    _, count = beat_weights(np.array([[0.1, 2.4, 4.9], [1.0, 1.2, np.nan]]), 5.0, 20, 8)
    assert count.tolist() == [0, 0]


def test_own_phase_of_oracle_chance_and_shift():
    frames = torch.randn(5, 8, 16)
    assert own_phase(3 * frames, frames).tolist() == [1] * 5
    assert own_phase(frames.roll(1, 1), frames).tolist() == [0] * 5
    same = torch.ones(5, 8, 16)
    torch.testing.assert_close(own_phase(frames, same), torch.full((5,), 1 / 8))
    torch.testing.assert_close(own_phase(torch.zeros_like(same), frames), torch.full((5,), 1 / 8))
    segments, frames = torch.randn(2, 4000, 8, 16)
    assert own_phase(segments, frames).mean().item() == pytest.approx(1 / 8, abs=0.01)


class Clock(torch.nn.Module):
    """Tokens are the phases they stand for, as the hand of a clock."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def forward(self, x):
        turn = 2 * torch.pi * self.read(x)
        tokens = torch.stack([turn.cos(), turn.sin()], -1)
        return Features(tokens.mean(1), tokens)


def test_a_clock_in_both_modalities_is_aligned():
    """ECGs and cines that say nothing but the phase: all is aligned but what the grid blurs."""
    ptacl = method("ptacl")
    stage = AlignPhases(method=ptacl, task=registry().task("temporal-alignment"))
    (leads, steps), (times, rows, columns) = ptacl.grid("ecg"), ptacl.grid("cmr")
    rate = stage.views()["ecg"].rate
    second = np.arange(10 * rate) / rate
    ecg = np.tile((second / 1.6) % 1, (3, leads, 1)).astype(np.float32)
    peaks = np.full((3, 40), np.nan)
    peaks[:, :7] = 1.6 * np.arange(7)
    peaks[2] = np.nan

    def ecg_phase(x):
        return x.unflatten(-1, (steps, -1))[..., x.shape[-1] // steps // 2].flatten(1)

    def cine_phase(x):
        return ((torch.arange(times) + 0.5) / times).repeat_interleave(rows * columns).repeat(3, 1)

    encoders = Encoders(
        ecg=Clock(ecg_phase),
        cmr=Clock(cine_phase),
        project_ecg=torch.nn.Identity(),
        project_cmr=torch.nn.Identity(),
    )
    views = {"ecg": ecg, "cmr": np.zeros((3, 1), np.float32), "r_peaks": peaks}
    found = stage.measure(encoders, views, IDS[:3], "cpu")
    for name in ("own", "own_projected"):
        assert (found[name][:2] >= 0.7).all(), found[name]
        assert torch.isnan(found[name][2]), "nobody without a beat"
    assert found["chance"].tolist() == [1 / times] * 3
    late = {**views, "r_peaks": peaks + 0.8}
    assert (stage.measure(encoders, late, IDS[:3], "cpu")["own"][:2] == 0).all()


# ------------------------------------------------------------------------------------- places


def test_share_inside_of_oracle_opposite_and_chance():
    truth = torch.zeros(1, 9)
    truth[0, [4, 5]] = torch.tensor([1.0, 0.5])
    pointing = torch.zeros(1, 9)
    pointing[0, 4] = 1
    assert share_inside(pointing, truth).item() == pytest.approx(1)
    assert share_inside(-truth, truth).item() == 0
    area = truth.mean().item()
    assert share_inside(torch.full((1, 9), 0.7), truth).item() == pytest.approx(area)
    anywhere = share_inside(torch.randn(20_000, 9), truth.expand(20_000, 9))
    assert anywhere.mean().item() == pytest.approx(area, abs=0.01)
    broken = torch.tensor([[0.2, torch.nan, 0.1, *[0.0] * 6]])
    assert share_inside(torch.cat([broken, truth]), truth.expand(2, 9)).isnan().tolist() == [1, 0]
    # An offset that all places share says nothing.
    torch.testing.assert_close(share_inside(pointing + 5, truth), share_inside(pointing, truth))


@pytest.fixture(scope="module")
def store(shared_store):
    return Store(shared_store)


@pytest.fixture(scope="module")
def pictures(store):
    """The cine of a method and the truth in its pixels."""
    views = MidSliceCine(cohort=COHORT, size=56, frames=16, spacing=2.0)
    truth = LeftVentricle(cohort=COHORT, size=56, spacing=2.0)
    assert bring([views, truth], store).ok
    return [np.load(store.open(view) / "array.npy") for view in (views, truth)]


def test_the_truth_lies_where_the_view_shows_the_ventricle(pictures, store):
    cine, truth = pictures
    assert truth.shape == (300, 56, 56)
    masks = CohortData(store.open(COHORT)).masks[:, 0]
    ventricle = np.isin(masks, (1, 2)).sum((1, 2)) * COHORT.spacing**2
    area = (truth / 255).sum((1, 2)) * 2.0**2
    np.testing.assert_allclose(area, ventricle, rtol=0.1)
    # Its blood is brighter, and its wall moves more, than what surrounds it.
    change = cine[:, 0].astype(float).std(1)
    inside = truth > 127
    moving = [c[m].mean() / c[~m].mean() for c, m in zip(change, inside, strict=True)]
    assert np.mean(np.array(moving) > 1.5) > 0.95


def test_a_map_that_is_the_truth_lies_inside(store):
    mmcl = method("mmcl")
    stage = Localise(method=mmcl, task=registry().task("localisation"))
    assert bring([stage.views()["ventricle"]], store).ok
    truth = np.load(store.open(stage.views()["ventricle"]) / "array.npy")[:40]
    times, rows, columns = mmcl.grid("cmr")
    share = truth.reshape(40, rows, truth.shape[1] // rows, columns, -1).mean((2, 4)) / 255

    class Seeing(torch.nn.Module):
        def forward(self, x):
            angle = torch.from_numpy(share).float().flatten(1)
            now = torch.stack([angle, (1 - angle**2).sqrt()], -1)
            tokens = torch.cat([now, torch.rand(40, (times - 1) * rows * columns, 2)], 1)
            return Features(tokens.mean(1), tokens)

    class Pointing(torch.nn.Module):
        def forward(self, x):
            return Features(torch.tensor([[1.0, 0.0]]).expand(len(x), -1))

    parts = {"project_ecg": torch.nn.Identity(), "project_cmr": torch.nn.Identity()}
    encoders = Encoders(ecg=Pointing(), cmr=Seeing(), **parts)
    views = {
        "ecg": np.zeros((40, *stage.views()["ecg"].shape), np.float32),
        "cmr": np.zeros((40, 1), np.uint8),
        "ventricle": truth,
    }
    found = stage.measure(encoders, views, IDS, "cpu")
    torch.testing.assert_close(found["chance"].double(), torch.from_numpy(share.mean((1, 2))))
    assert (found["inside"] > 2 * found["chance"]).all()


# ------------------------------------------------------------------------------------- together


def test_grids_are_those_of_the_tokens():
    with torch.device("meta"):
        for name in expand("all", "method"):
            own = method(name)
            views = own.views()
            for modality in own.modalities:
                if grid := own.grid(modality):
                    encoder = getattr(build(own), modality)
                    crops = views[modality].crops() if modality == "ecg" else None
                    x = torch.zeros(2, *views[modality].shape)
                    tokens = encoder(x if crops is None else x[..., crops[0]]).tokens
                    assert tokens.shape[1] == np.prod(grid), (name, modality)


def invented(stage, people=2):
    """Entries of a stage's views that nobody has."""
    rng = np.random.default_rng(0)
    views = {n: rng.random((people, *v.shape), np.float32) for n, v in stage.views().items()}
    return views | {"r_peaks": np.tile(0.3 + 0.8 * np.arange(12.0), (people, 1))}


@pytest.mark.parametrize("task", TASKS)
def test_every_method_it_applies_to_is_measured(task):
    methods = expand("all", "method")
    jobs = plan(Request(methods=methods, tasks=(task,), scale="smoke")).jobs
    assert jobs
    for stage in {job.score.head.digest: job.score.head for job in jobs}.values():
        encoders = build(stage.method).eval()
        with torch.inference_mode():
            found = stage.measure(encoders, invented(stage), IDS[:2], "cpu")
        arrays = {metric.array for metric in stage.task.metrics}
        assert set(found) == {*arrays, "chance"}, stage.label
        for name, values in found.items():
            assert values.shape == (2,), stage.label
            assert torch.isfinite(values).all(), (stage.label, name)


def test_every_diagnostic_scores_at_smoke(store):
    request = Request(methods=("mae", "ptacl"), tasks=TASKS, scale="smoke")
    jobs = plan(request).jobs
    assert [(j.method.name, j.task.name, j.modality) for j in jobs] == [
        ("mae", "reconstruction", "ecg"),
        ("ptacl", "temporal-alignment", "ecg-cmr"),
        ("ptacl", "localisation", "ecg-cmr"),
    ]
    assert bring([job.score for job in jobs], store).ok
    data = CohortData(store.open(COHORT))
    for job in jobs:
        stage = job.score.head
        predictions = stage.predictions(store.open(stage), data)
        for metric in job.task.metrics:
            theta, psi = metric.influence(predictions)
            assert psi.shape == (len(data.rows("test")), 1)
            low, high = metric.bounds
            assert low <= theta.item() <= high
            assert low < metric.chance(predictions).item() <= 1


@pytest.mark.parametrize(
    ("name", "task", "reason"),
    [
        ("ptacl", "reconstruction", "it fills in no hidden parts of an ECG"),
        ("mae", "temporal-alignment", "it does not bring ECG and CMR together"),
        ("mmcl", "temporal-alignment", "its images are single phases, not the whole heart beat"),
        ("tabular", "localisation", "it does not bring ECG and CMR together"),
        (
            "dual-phase",
            "localisation",
            "its CMR encoder has no tokens of places in the middle slice",
        ),
    ],
)
def test_what_does_not_apply_says_why(name, task, reason):
    found = plan(Request(methods=(name,), tasks=(task,), scale="smoke"))
    assert not found.jobs
    assert found.not_applicable == [f"{name} on {task}: {reason}"]


def test_nobody_knows_where_the_ventricle_of_real_people_is():
    from benchmark.cohorts.ukb.cohort import UKB

    ukb = UKB(fingerprint="a", people=5, holds=("ecg", "cmr", "covariates"))
    reason = registry().task("localisation").lacks(method("ptacl").replace(cohort=ukb))
    assert reason == "where the left ventricle truly is, is known of simulated people alone"


def test_filling_in_takes_patches_of_a_recording(monkeypatch):
    cmae = method("cmae-vit").replace(cohort=COHORT)
    task = registry().task("reconstruction")
    monkeypatch.setattr(type(cmae), "reconstruct", lambda *args: args)
    assert not task.lacks(cmae)
    monkeypatch.setattr(type(cmae), "grid", lambda self, modality: None)
    assert task.lacks(cmae) == "its ECGs are not cut into patches that could be hidden"


def test_an_encoder_that_is_not_asked_about_says_so(monkeypatch):
    ptacl = registry().method("ptacl").cls
    monkeypatch.setattr(ptacl, "reconstruct", lambda *args: args)
    asked = {"methods": ("ptacl",), "tasks": ("reconstruction",), "scale": "smoke"}
    assert plan(Request(**asked)).jobs
    found = plan(Request(**asked, modality="cmr")).not_applicable
    assert found == ["ptacl on reconstruction: the task does not ask about its CMR encoder"]
