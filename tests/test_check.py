"""The regression gate end to end: it passes what did not change, and says why it fails the rest."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy

from benchmark import check, golden
from benchmark.api import Recipe, UserError
from benchmark.check import GOLDEN, Options, PairedRows
from benchmark.cli import main
from benchmark.engine.store import Store
from benchmark.evaluation.embed import Embed
from benchmark.evaluation.heads import LinearHead
from benchmark.evaluation.metrics import R2
from benchmark.evaluation.score import Score
from benchmark.evaluation.statistics import compare
from benchmark.registry import registry
from benchmark.reports.cells import Scored, cells_of
from benchmark.reports.gate import PASS, REGRESSION, same_recipe
from benchmark.reports.rows import row_of
from benchmark.stage import bind
from methods.blocks import harmonised

ROOT = Path(__file__).resolve().parent.parent
PEOPLE = {
    "cohort": "simulated",
    "preset": "easy",
    "scale": "smoke",
    "sizes": {"people": 60},
    "tasks": ["phenotype"],
}


def run(capsys, *arguments):
    code = main(["check", *map(str, arguments)])
    return code, capsys.readouterr().out


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    return golden.write(folder, name, content)


def without_learning(monkeypatch):
    """Set the learning rate of every method to zero."""
    smoke = harmonised.SCALES["smoke"]
    idle = {k: r.replace(learning_rate=0.0) for k, r in smoke.recipes.items()}
    changed = dataclasses.replace(smoke, recipes=idle)
    monkeypatch.setitem(harmonised.SCALES, "smoke", changed)


# ------------------------------------------------------------------------------ A


def test_frozen_metrics_pass_and_a_flipped_sign_does_not(monkeypatch, capsys):
    assert run(capsys, "--layer", "A")[0] == 0
    influence = R2.influence

    def flipped(self, predictions):
        theta, psi = influence(self, predictions)
        return -theta, psi

    monkeypatch.setattr(R2, "influence", flipped)
    code, text = run(capsys, "--layer", "A")
    assert code == 1
    assert "regression, R2, first, strong, value" in text
    assert "classification" not in text


def test_the_made_up_predictions_are_what_their_script_makes(tmp_path):
    script = (GOLDEN / "make_predictions.py").read_text()
    (tmp_path / "make_predictions.py").write_text(script)
    (tmp_path / "predictions").mkdir()
    names = {"__file__": str(tmp_path / "make_predictions.py"), "__name__": "__main__"}
    exec(compile(script, "make_predictions.py", "exec"), names)
    for made in (tmp_path / "predictions").iterdir():
        assert made.read_text() == (GOLDEN / "predictions" / made.name).read_text()


def test_references_that_are_not_there_are_asked_for(tmp_path, capsys):
    assert main(["check", "--layer", "A", "--golden", str(tmp_path)]) == 2
    assert "ecgcmr golden writes it" in capsys.readouterr().err


# ------------------------------------------------------------------------------ B


@pytest.fixture(scope="module")
def fingerprinted(tmp_path_factory):
    """References of one method, made now."""
    folder = tmp_path_factory.mktemp("golden")
    recipe = {"updates": 3, "rounds": 3, "epochs": 0, "patience": 0, "keep": "last"}
    settings = {**PEOPLE, "recipe": recipe, "seed": 0}
    write(folder, "fingerprints-harmonised.json", {"settings": settings, "methods": {}})
    assert main(["golden", "--layer", "B", "--method", "simclr", "--golden", str(folder)]) == 0
    return folder


def test_an_unchanged_method_has_its_fingerprint(fingerprinted, capsys):
    code, text = run(capsys, "--layer", "B", "--method", "simclr", "--golden", fingerprinted)
    assert code == 0, text
    stored = golden.read(fingerprinted, "fingerprints-harmonised.json")["methods"]["simclr"]
    assert int(stored["simclr"]["parameters"]) > 1000
    assert len(stored["features of simclr, ecg"]["projections"]) == golden.PROJECTIONS
    assert any("scores" in entry for entry in stored.values())


def test_a_learning_rate_of_zero_is_noticed(fingerprinted, monkeypatch, capsys):
    without_learning(monkeypatch)
    code, text = run(capsys, "--layer", "B", "--method", "simclr", "--golden", fingerprinted)
    assert code == 1
    assert "simclr, simclr, training loss" in text
    assert "simclr, features of simclr, ecg, projections" in text


def test_a_method_without_a_fingerprint_fails(tmp_path, monkeypatch):
    write(tmp_path, "fingerprints-harmonised.json", {"settings": {}, "platform": "", "methods": {}})
    made = ({"simclr": {"simclr": {"parameters": 1}}}, {})
    monkeypatch.setattr(golden, "fingerprints", lambda *_: made)
    verdict = check.fingerprints(Options(folder=tmp_path))
    assert verdict.outcome == REGRESSION
    assert "simclr: has no reference" in verdict.wrong[0]


def test_every_method_of_both_tracks_has_a_fingerprint():
    for track in ("harmonised", "paper"):
        stored = golden.read(GOLDEN, f"fingerprints-{track}.json")
        assert set(stored["methods"]) == set(golden.track_methods(track))


# ------------------------------------------------------------------------------ C


SETTINGS = {
    "methods": ["mae", "ptacl"],
    "reference seeds": 20,
    "fresh seeds": 5,
    "shortcut seed": 0,
}
ENDPOINTS = {m: f"{m} on phenotype, linear, ecg" for m in SETTINGS["methods"]}


@pytest.fixture
def learned(tmp_path, monkeypatch):
    """Stored references, and trainings that give what a test asks for instead of minutes."""
    rng = np.random.default_rng(0)
    reference = rng.normal(0.5, 0.01, (2, 20)).tolist()
    outputs = {e: {"prediction": [1.0, 2.0]} for e in ENDPOINTS.values()}
    values = dict(zip(ENDPOINTS.values(), reference, strict=True))
    stored = {"settings": SETTINGS, "values": values, "outputs": outputs, "platform": "here"}
    write(tmp_path, "learning.json", stored)
    asked = []

    def train(settings, methods, seeds, store, reporter, drop=lambda method, seed: 0.0):
        asked.extend((method, seed) for method in methods for seed in seeds)
        made = golden.Learned()
        for method in methods:
            for seed in seeds:
                fall = drop(method, seed)
                known = seed < len(values[ENDPOINTS[method]])
                drawn = np.random.default_rng(seed).normal(0.5, 0.01)
                value = (values[ENDPOINTS[method]][seed] if known else drawn) - fall
                made.values.setdefault(ENDPOINTS[method], {})[seed] = value
                same = {"prediction": [1.0, 2.0 + fall]}
                made.outputs.setdefault(ENDPOINTS[method], {})[seed] = same
        return made

    def changed(drop):
        monkeypatch.setattr(golden, "learning", lambda *a: train(*a, drop=drop))
        asked.clear()
        return check.learning(Options(folder=tmp_path)), asked

    changed.folder = tmp_path
    return changed


def test_equal_predictions_need_no_statistics(learned):
    verdict, asked = learned(lambda method, seed: 0.0)
    assert (verdict.outcome, verdict.compared) == (PASS, 2)
    assert asked == [("mae", 0), ("ptacl", 0)]


def test_equal_predictions_with_another_score_are_tested(learned, monkeypatch):
    learned(lambda method, seed: 0.0)
    made = golden.learning

    def rescored(*asked):
        found = made(*asked)
        for endpoint in found.values:
            found.values[endpoint] = dict.fromkeys(found.values[endpoint], 0.0)
        return found

    monkeypatch.setattr(golden, "learning", rescored)
    verdict = check.learning(Options(folder=learned.folder))
    assert verdict.outcome == REGRESSION
    assert len(verdict.wrong) == 2


def test_a_method_without_stored_seeds_fails(learned):
    stored = golden.read(learned.folder, "learning.json")
    del stored["values"][ENDPOINTS["ptacl"]]
    write(learned.folder, "learning.json", stored)
    verdict, asked = learned(lambda method, seed: 0.0)
    assert verdict.outcome == REGRESSION
    assert verdict.wrong == ["ptacl: has no reference; ecgcmr golden writes it"]
    assert asked == [("mae", 0)]


def test_other_predictions_as_good_as_before_pass(learned):
    verdict, asked = learned(lambda method, seed: 0.001 * (method == "mae"))
    assert (verdict.outcome, verdict.compared) == (PASS, 2)
    assert asked[2:] == [("mae", seed) for seed in range(20, 25)]


def test_a_drop_is_confirmed_with_other_seeds(learned):
    verdict, asked = learned(lambda method, seed: 0.05 * (method == "mae"))
    assert verdict.outcome == REGRESSION
    (text,) = verdict.wrong
    assert "mae on phenotype" in text
    assert [seed for method, seed in asked if method == "mae"] == [0, *range(20, 35)]
    assert [seed for method, seed in asked if method == "ptacl"] == [0]


def test_bad_luck_is_cleared_by_more_seeds(learned):
    def unlucky(method, seed):
        return 0.05 if method == "mae" and seed < 25 else 0.0

    verdict, _ = learned(unlucky)
    assert verdict.outcome == PASS
    assert any("not with 10 more" in note for note in verdict.notes)


def test_what_has_no_number_fails(learned):
    verdict, _ = learned(lambda method, seed: math.nan if seed in (0, 21) else 0.0)
    assert verdict.outcome == REGRESSION
    assert "mae on phenotype, linear, ecg: no number with seed 21" in verdict.wrong


def test_passes_do_not_share_seeds(learned):
    learned(lambda method, seed: 0.0)
    asked = []
    train = golden.learning

    def listen(settings, methods, seeds, *more):
        asked.extend(seeds)
        return train(settings, methods, seeds, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden, "learning", listen)
        verdicts = check.passes(Options(folder=learned.folder), 3)
    assert len(verdicts) == 3
    assert min(asked) >= SETTINGS["reference seeds"]
    assert len(set(asked)) == len(asked) >= 15


def test_resampling_the_stored_seeds_raises_few_alarms():
    """Fifteen stored seeds as the reference, the other five as fresh ones: nothing changed."""
    stored = golden.read(GOLDEN, "learning.json")
    values = {endpoint: np.array(own) for endpoint, own in stored["values"].items()}
    assert {len(own) for own in values.values()} == {stored["settings"]["reference seeds"]}
    rng = np.random.default_rng(0)
    alarms, splits = 0, 500
    for _ in range(splits):
        order = rng.permutation(stored["settings"]["reference seeds"])
        old, new = ({e: v[part] for e, v in values.items()} for part in (order[5:], order[:5]))
        alarms += any(drop.red for drop in same_recipe(old, new))
    assert alarms / splits <= 0.02  # 1% promised


@pytest.mark.nightly
def test_the_learning_smoke_notices_a_learning_rate_of_zero(tmp_path, monkeypatch, capsys):
    recipe = {"updates": 40, "rounds": 2}
    counts = {"reference seeds": 6, "fresh seeds": 3, "shortcut seed": 0}
    settings = {**PEOPLE, "sizes": {"people": 200}, "recipe": recipe, **counts}
    write(tmp_path, "learning.json", {"settings": {**settings, "methods": ["supervised"]}})
    assert main(["golden", "--layer", "C", "--golden", str(tmp_path)]) == 0
    code, text = run(capsys, "--layer", "C", "--golden", tmp_path)
    assert code == 0
    assert "predicts as before" in text
    code, text = run(capsys, "--layer", "C", "--golden", tmp_path, "--passes", 1)
    assert code == 0, text
    without_learning(monkeypatch)
    code, text = run(capsys, "--layer", "C", "--golden", tmp_path)
    assert code == 1
    assert "supervised on phenotype" in text


# ------------------------------------------------------------------------------ D


@pytest.fixture
def boards(tmp_path):
    """Two equal folders of leaderboards with one recorded file."""
    source = next((ROOT / "leaderboards" / "rows").rglob("phenotype/*.json"))
    folders = []
    for name in ("before", "after"):
        place = tmp_path / name / source.relative_to(ROOT / "leaderboards")
        place.parent.mkdir(parents=True)
        shutil.copy(source, place)
        folders.append(tmp_path / name)
    return (*folders, place)


def compared(capsys, before, after):
    return run(capsys, "--layer", "D", "--against", before, "--leaderboards", after)


def test_unchanged_rows_pass(boards, capsys, tmp_path):
    before, after, file = boards
    summary = tmp_path / "summary.md"
    arguments = ("--against", before, "--leaderboards", after, "--summary", summary)
    code, text = run(capsys, "--layer", "D", *arguments)
    assert code == 0
    assert summary.read_text() == text
    assert compared(capsys, file, after)[0] == 0  # a rows file alone


def test_a_removed_row_is_noticed(boards, capsys):
    before, after, file = boards
    content = json.loads(file.read_text())
    lost = content["rows"].pop()
    file.write_text(json.dumps(content))
    code, text = compared(capsys, before, after)
    assert code == 1
    assert f"{lost['target']} {lost['metric']} {lost['fraction']}: the row is missing" in text
    assert compared(capsys, after, before)[0] == 0  # a new row is no regression


def test_nothing_compared_fails(boards, capsys, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    code, text = compared(capsys, empty, boards[1])
    assert code == 1
    assert "nothing was compared" in text


def test_what_is_neither_ref_nor_file_is_refused(boards, capsys, tmp_path):
    main(["check", "--layer", "D", "--against", "no-such-ref"])
    assert "no git ref" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text("[]")
    with pytest.raises(UserError, match="no rows file"):
        check.rows_of(str(other))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not in a repository")
def test_the_rows_of_a_commit_are_read():
    assert all(file["rows"] for file in check.rows_of("HEAD"))


def test_rows_are_paired_over_people_from_the_store(tmp_path):
    task = registry().task("phenotype")
    store = Store(tmp_path / "store")

    def scored(recipe):
        parts = []
        for seed in range(2):
            method = bind(toy.ToyMethod(recipe=recipe), cohort=toy.COHORT, seed=seed)
            head = LinearHead(embedding=Embed(method=method))
            head = bind(head, modality="ecg", task=task, fraction=1.0, seed=seed)
            parts.append(Score(head=head, metrics=task.metrics))
        toy.bring(store, *parts)
        return Scored("toy", "linear", "ecg", 1.0, tuple(parts))

    # Untrained methods under different recipes: other weights, so other predictions.
    old, new = (cells_of(scored(Recipe(batch_size=n)), store) for n in (64, 32))
    for a, b in zip(old, new, strict=True):
        found = PairedRows(store)(row_of(a), row_of(b))
        expected = compare(b.theta, b.psi, a.theta, a.psi, a.smallest)
        # Rows of real people count on fewer of them than there are, where that would tell.
        assert found.p == pytest.approx(expected.p, rel=0.05)
        assert found.difference == pytest.approx(expected.difference)
        assert found.v_subj < 2 * (row_of(a)["result"]["v_subj"])
    stranger = row_of(dataclasses.replace(old[0], score_digests=("0" * 64, "1" * 64)))
    assert PairedRows(store)(stranger, row_of(new[0])) is None


# ------------------------------------------------------------------------------ the command


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    text = capsys.readouterr().out
    for word in ("frozen metrics", "fingerprints", "learning smoke", "recorded rows"):
        assert word in text
    assert "3 inconclusive" in text


def test_an_unknown_layer_is_refused(capsys):
    assert main(["check", "--layer", "E"]) == 2
    assert "there are A, B, C, D" in capsys.readouterr().err
