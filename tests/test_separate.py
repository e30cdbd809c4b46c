"""Separate models read as one head, the best of several heads, and a method's own output."""

import json
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import r2_score, roc_auc_score
from toy import COHORT, QUICK, ToyLabelled, ToyMethod, bring, data

from benchmark.api import Task, UserError
from benchmark.engine.store import Store
from benchmark.evaluation.embed import Embed
from benchmark.evaluation.finetune import FineTune
from benchmark.evaluation.heads import PREDICTED, LinearHead, record_fit, save_predictions
from benchmark.evaluation.joint import Joint
from benchmark.evaluation.score import Score
from benchmark.evaluation.selected import Selected
from benchmark.evaluation.separate import Assembled, Separately
from benchmark.reports.cells import Scored
from benchmark.reports.collect import run_of
from benchmark.stage import UNSET, Stage, bind, topological
from tasks.cvd import CVD
from tasks.demographics import Demographics
from tasks.phenotype import Phenotype

BOUND = {"modality": "ecg", "fraction": 1.0, "seed": 0}
LINEAR = LinearHead(embedding=Embed(method=ToyMethod(cohort=COHORT, seed=0)), **BOUND)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("separate") / "store")


# ------------------------------------------------------------------------------ separately


def parts(how, task):
    stage = how.bound(task, lambda part: LINEAR.replace(task=part))
    return [part.task.names for part in getattr(stage, "parts", (stage,))]


def test_which_models_a_task_is_cut_into():
    each = [(name,) for name in CVD.target_names]
    assert parts(Separately(head=LINEAR), CVD()) == each
    assert parts(Separately(head=LINEAR), Phenotype()) == [Phenotype.target_names]
    groups = Separately(head=LINEAR, diseases="together", phenotypes="groups")
    assert parts(groups, CVD()) == [CVD.target_names]
    assert [len(names) for names in parts(groups, Phenotype())] == [6, 4]
    assert parts(Separately(head=LINEAR), CVD(only=("AF", "CAD"))) == [("CAD",), ("AF",)]


def test_targets_of_no_group_are_not_lost(monkeypatch):
    how = Separately(head=LINEAR, phenotypes="groups")
    monkeypatch.setattr(Phenotype, "groups", {"left": ("LVM", "LVEF")})
    rest = tuple(name for name in Phenotype.target_names if name not in ("LVM", "LVEF"))
    assert parts(how, Phenotype()) == [("LVEF", "LVM"), rest]
    assert parts(how, Demographics()) == [Demographics.target_names]


def test_separate_models_side_by_side_are_the_models(store):
    task = Phenotype(only=("LVEDV", "RVEF", "LVM"))
    parts = tuple(LINEAR.replace(task=task.replace(only=o)) for o in (("RVEF",), ("LVEDV", "LVM")))
    whole = Assembled(task=task, parts=parts)
    folder, first, second = bring(store, whole, *parts)
    for name in ("test.npy", "validation.npy"):
        a, b = np.load(first / name), np.load(second / name)
        assert np.array_equal(np.load(folder / name), np.column_stack([b, a]))
    counts = json.loads((folder / "fit.json").read_text())
    assert counts.keys() == set(task.names)
    together = LINEAR.replace(task=task)
    (other,) = bring(store, together)
    np.testing.assert_allclose(np.load(folder / "test.npy"), np.load(other / "test.npy"))


# ------------------------------------------------------------------------------ guides


@dataclass(frozen=True, kw_only=True)
class Guide(ToyLabelled):
    """A stage that learns phenotypes of those whom ``taught`` says."""

    taught: bool = True

    def labels(self, cohort):
        table = self.task.targets(cohort).astype(float)
        if not self.taught:
            table.iloc[cohort.labelled(self.seed, self.fraction)] = np.nan
        return table


@dataclass(frozen=True, kw_only=True)
class Guided(ToyMethod):
    """A method that starts from a guide."""

    guide: Stage = UNSET

    def initial_weights(self):
        return {"ecg": self.guide}


def guided(taught, fraction=0.5):
    guide = Guide(cohort=COHORT, seed=0, task=Phenotype(), fraction=fraction, taught=taught)
    embedding = Embed(method=Guided(cohort=COHORT, seed=0, guide=guide))
    return LINEAR.replace(embedding=embedding, task=CVD(), fraction=fraction)


def test_what_a_guide_without_a_label_taught_is_not_estimable(store):
    """Diseases are known of people whose phenotypes, which the representation needs, are not."""
    scores = [Score(head=guided(taught), metrics=CVD.metrics) for taught in (True, False)]
    folders = bring(store, *scores, *(score.head for score in scores))
    taught, untaught = (json.loads((f / "score.json").read_text())["cells"] for f in folders[:2])
    assert {"ok", "too few positives"} & {cell["status"] for cell in taught}
    assert {cell["status"] for cell in untaught} <= {"not estimable", "too few positives"}
    for name in CVD.target_names:
        fits = [json.loads((f / "fit.json").read_text())[name] for f in folders[2:]]
        assert fits[0]["positives"] > 0
        assert fits[1] == {"people": 0, "positives": 0}


# ------------------------------------------------------------------------------ cost


def test_every_part_of_a_head_and_every_start_is_paid_for(store):
    task = CVD(only=("AF", "CAD"))
    candidates = [LINEAR.replace(task=task, balance=balance) for balance in ("", "static")]
    parts = [
        Selected(candidates=tuple(c.replace(task=task.replace(only=(name,))) for c in candidates))
        for name in task.names
    ]
    method = Guided(cohort=COHORT, seed=0, guide=guided(True).embedding.method.guide)
    tuned = FineTune(method=method, task=task, cohort=COHORT, recipe=QUICK, **BOUND)
    for head, pretrained in (
        (Assembled(task=task, parts=tuple(parts)), [LINEAR.embedding.method]),
        (tuned, [method, method.guide]),
    ):
        score = Score(head=head, metrics=task.metrics)
        bring(store, score)
        inside = topological([head])
        heads = [s for s in inside if isinstance(s, Assembled | Selected | LinearHead | FineTune)]
        assert len(heads) in (1, 7)
        cost = run_of(Scored("toy", "any", "ecg", 1.0, (score,)), store)
        for name, stages in {"head": heads, "pretraining": pretrained}.items():
            spent = sum(store.manifest(stage.digest)["seconds"] for stage in stages)
            assert cost[f"{name}_seconds"] == pytest.approx(spent, abs=0.006)
        assert not {"devices", "device_seconds"} & cost.keys()


def test_a_training_is_paid_for_on_every_device_that_shared_it(store, monkeypatch):
    method = Guided(cohort=COHORT, seed=0, guide=guided(True).embedding.method.guide)
    task = CVD(only=("AF",))
    head = LINEAR.replace(task=task, embedding=Embed(method=method))
    score = Score(head=head, metrics=task.metrics)
    bring(store, score)
    alone = run_of(Scored("toy", "linear", "ecg", 1.0, (score,)), store)
    whole = type(store).manifest

    def manifest(store, digest):
        found = {**whole(store, digest), "seconds": 1.0}
        if digest == method.digest:
            return found | {"devices": 2}
        return {name: value for name, value in found.items() if name != "devices"}  # older

    monkeypatch.setattr(type(store), "manifest", manifest)
    cost = run_of(Scored("toy", "linear", "ecg", 1.0, (score,)), store)
    assert (cost.pop("devices"), cost.pop("device_seconds")) == (2, 4.0)  # 2 + guide + head
    assert (cost["pretraining_seconds"], cost["head_seconds"]) == (2.0, 1.0)
    assert cost.keys() == alone.keys()


def test_a_row_names_every_commit_that_made_a_stage(store, monkeypatch):
    task = CVD(only=("AF",))
    head = LINEAR.replace(task=task)
    score = Score(head=head, metrics=task.metrics)
    bring(store, score)
    whole = type(store).manifest
    made = {head.embedding.method.digest: "a" * 40, head.digest: "b" * 40}

    def manifest(store, digest):
        made_by = {"git": made.get(digest), "dirty": digest == head.digest}
        return whole(store, digest) | {"provenance": made_by}

    monkeypatch.setattr(type(store), "manifest", manifest)
    cost = run_of(Scored("toy", "linear", "ecg", 1.0, (score,)), store)
    assert cost["git_sha"] == f"{'a' * 40} {'b' * 40}-dirty"
    made.clear()
    assert run_of(Scored("toy", "linear", "ecg", 1.0, (score,)), store)["git_sha"] is None


# ------------------------------------------------------------------------------ selected


@dataclass(frozen=True, kw_only=True)
class Guess(Stage):
    """A head that knows the truth up to noise; its test predictions are as good as none."""

    noise: float = 0.0
    task: Task = UNSET
    cohort: Stage = COHORT
    fraction: float = 1.0

    def run(self, context):
        from benchmark.cohorts.cohort import CohortData

        cohort = CohortData(context.open(self.cohort))
        table = self.task.targets(cohort)
        noise = np.random.default_rng(0).normal(size=table.shape) * self.noise * table.std().values
        known = (table.fillna(table.mean()) + noise).to_numpy()
        test = np.full((len(cohort.rows("test")), table.shape[1]), self.noise)
        save_predictions(context, known[cohort.rows("validation")], test)
        record_fit(context, table, cohort.rows("train"))


@pytest.mark.parametrize("task", [CVD(), Phenotype()])
def test_the_best_on_validation_is_taken_over_whole(store, task):
    candidates = tuple(Guess(noise=noise, task=task) for noise in (3.0, 0.1, 1.0))
    selected = Selected(candidates=candidates)
    folder, *others = bring(store, selected, *candidates)
    record = json.loads((folder / "selected.json").read_text())
    assert record["candidate"] == 1
    for name in PREDICTED:
        assert (folder / name).read_bytes() == (others[1] / name).read_bytes()
    cohort = data(store)
    truth = task.targets(cohort).to_numpy()[cohort.rows("validation")]
    score = roc_auc_score if task.kind == "classification" else r2_score
    for place, other in enumerate(others):
        found = np.load(other / "validation.npy")
        expected = []
        for known, guess in zip(truth.T, found.T, strict=True):
            seen = np.isfinite(known)
            if len(np.unique(known[seen])) > 1:  # a disease that nobody there has cannot be scored
                expected.append(score(known[seen], guess[seen]))
        assert record["validation"][place] == pytest.approx(np.mean(expected))


def test_without_anything_to_choose_by_it_is_the_first(store, monkeypatch):
    task = CVD(only=("AF",))
    monkeypatch.setattr(CVD, "targets", lambda self, cohort: 0 * cohort.diagnoses[["AF"]])
    selected = Selected(candidates=tuple(Guess(noise=noise, task=task) for noise in (7.0, 8.0)))
    (folder,) = bring(store, selected)
    record = json.loads((folder / "selected.json").read_text())
    assert record == {"candidate": 0, "metric": "AUROC", "validation": [None, None]}


def test_choosing_a_candidate_never_reads_the_test_predictions(store):
    candidates = tuple(Guess(noise=noise, task=Phenotype()) for noise in (0.2, 0.3))
    selected = Selected(candidates=candidates)
    folders = dict(zip(candidates, bring(store, *candidates), strict=True))
    spoilt = store.path(candidates[0].digest).parent / "spoilt"

    class Context:
        out = spoilt
        opened = folders | {COHORT: store.path(COHORT.digest)}

        def open(self, stage):
            return self.opened[stage]

    spoilt.mkdir()
    for folder in folders.values():
        (folder / "test.npy").write_bytes(b"not an array")
    selected.run(Context())
    assert json.loads((spoilt / "selected.json").read_text())["candidate"] == 0


def test_separate_models_are_selected_separately_and_scored(store):
    head = FineTune(recipe=QUICK)
    candidates = (head, head.replace(pooling="features"))
    how = Separately(head=Selected(candidates=candidates))
    task = CVD(only=("AF", "CAD"))

    def make(prototype, part):
        return bind(prototype, method=ToyMethod(cohort=COHORT, seed=0), task=part, **BOUND)

    stage = bind(how.bound(task, partial(make, how.head)), cohort=COHORT)
    assert [part.task.names for part in stage.parts] == [("CAD",), ("AF",)]
    assert [c.pooling for c in stage.parts[0].candidates] == ["attention", "features"]
    folder, *chosen = bring(store, Score(head=stage, metrics=task.metrics), *stage.parts)
    assert all((part / "selected.json").exists() for part in chosen)
    cells = json.loads((folder / "score.json").read_text())["cells"]
    assert [cell["target"] for cell in cells] == ["CAD", "AF", "mean"]


# ------------------------------------------------------------------------------ joint


def joint(learned, **more):
    method = ToyLabelled(cohort=COHORT, seed=0, task=learned, fraction=1.0)
    return Joint(**({"method": method, "task": learned} | BOUND | more))


def test_a_methods_own_output_predicts(store):
    import torch
    from safetensors.torch import load_file

    from benchmark.engine.training import build

    head = joint(Phenotype())
    folder, trained, view = bring(store, head, head.method, head.method.views()["ecg"])
    encoders = build(head.method)
    encoders.load_state_dict(load_file(trained / "weights.safetensors"))
    encoders.eval()
    x = torch.from_numpy(np.load(view / "array.npy")[data(store).rows("test")])
    with torch.no_grad():
        pooled = encoders.ecg(x[..., :20]).pooled + encoders.ecg(x[..., 20:]).pooled
        out = encoders.output(pooled / 2).numpy()
    history = json.loads((trained / "history.json").read_text())
    expected = out * history["deviation"] + history["mean"]
    np.testing.assert_allclose(np.load(folder / "test.npy"), expected, rtol=1e-4)
    assert json.loads((folder / "fit.json").read_text()).keys() == set(Phenotype.target_names)
    part = joint(Phenotype(), task=Phenotype(only=("RVEF", "LVSV")))
    (some,) = bring(store, part)
    columns = [Phenotype.target_names.index(name) for name in part.task.names]
    assert np.array_equal(np.load(some / "test.npy"), np.load(folder / "test.npy")[:, columns])


def test_what_cannot_predict_says_so(store):
    class Context:
        device = "cpu"

        def open(self, stage):
            return bring(store, stage)[0]

    unlabelled = Joint(method=ToyMethod(cohort=COHORT, seed=0), task=CVD(), **BOUND)
    with pytest.raises(UserError, match="predicts nothing from ecg itself"):
        unlabelled.run(Context())
    with pytest.raises(UserError, match="predicts nothing from cmr itself"):
        joint(CVD(), modality="cmr").run(Context())
    with pytest.raises(UserError, match="has not learned to predict CM, HF"):
        joint(CVD(only=("AF",)), task=CVD(only=("AF", "CM", "HF"))).run(Context())
