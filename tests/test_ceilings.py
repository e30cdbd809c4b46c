"""What may be known is a bound: boards say how near a method came, and when one is beyond it."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
from scipy import stats

from benchmark.api import Predictions, UserError
from benchmark.evaluation.metrics import R2
from benchmark.evaluation.multiplicity import holm
from benchmark.evaluation.statistics import compare, estimate
from benchmark.reports.boards import Expected, TaskInfo, document, render
from benchmark.reports.ceilings import FILE, Ceilings, read_ceilings, write_ceilings
from benchmark.reports.rows import Cell, grouped, read_rows, row_of, write_rows

N, TARGETS = 700, ("LVEDV", "LVM", "LVEF")
COHORT = hashlib.sha256(b"cohort").hexdigest()
HEADER = {"cohort": "simulated", "preset": None, "scale": "smoke", "cohort_fingerprint": COHORT}
INFO = TaskInfo(
    name="phenotype",
    title="CMR phenotypes",
    version=1,
    simulated=True,
    primary={"ecg": "R2"},
    reference={"ecg": "mae"},
    methods=(
        Expected(name="mae"),
        Expected(name="cheat"),
        Expected(name="tabular", role="reference"),
    ),
    fractions=(1.0, 0.1),
    fingerprint=COHORT,
    ceilings=True,
)


@pytest.fixture(scope="module")
def population():
    """Labels of the test people and what each could be predicted with: Gaussian, so exactly."""
    rng = np.random.default_rng(0)
    body, heart, error = rng.standard_normal((3, N, len(TARGETS)))
    # LVEF cannot be told from the ECG at all.
    seen = np.array([0.7, 0.5, 0.0]) * heart
    hidden = np.sqrt(1 - np.array([0.7, 0.5, 0.0]) ** 2) * rng.standard_normal(heart.shape)
    truth = 0.6 * body + seen + hidden
    labels = truth + 0.3 * error
    known = {"truth": truth, "cmr": truth, "ecg": 0.6 * body + seen, "covariates": 0.6 * body}
    noise = rng.standard_normal((3, *heart.shape))
    methods = {
        # As good as it gets, and yet no replicate is exactly the oracle.
        "mae": [known["ecg"] + 0.2 * e for e in noise],
        "cheat": [known["truth"] + 0.1 * e for e in noise],
        "random": [0.05 * e for e in noise],
        "tabular": [known["covariates"] + 0.02 * e for e in noise],
    }
    return labels, known, methods


def cells(name, predictions, labels, targets=TARGETS, modality="ecg", fraction=1.0, head="linear"):
    """One cell per target and their mean."""
    scored = [
        R2().influence(Predictions(TARGETS, {"target": labels, "prediction": p}))
        for p in predictions
    ]
    theta, psi = np.stack([t for t, _ in scored]), np.stack([p for _, p in scored], 2)
    shared = {
        "method": name,
        "head": head,
        "modality": modality,
        "metric": "R2",
        "fraction": fraction,
        "task_version": 1,
        "cohort_fingerprint": COHORT,
        "recipe_digest": COHORT,
        "replicates": tuple(range(len(predictions))),
        "score_digests": tuple(
            hashlib.sha256(f"{name}{modality}{fraction}{r}".encode()).hexdigest()
            for r in range(len(predictions))
        ),
        "n": N,
        "n_min": N,
        "chance": 0.0,
    }
    single = [
        Cell(target=t, theta=theta[:, i], psi=psi[:, i], **shared) for i, t in enumerate(TARGETS)
    ]
    chosen = [TARGETS.index(t) for t in targets]
    mean = Cell(
        target="mean",
        theta=theta[:, chosen].mean(1),
        psi=psi[:, chosen].mean(1),
        targets=targets,
        **shared,
    )
    return [*single, mean]


@pytest.fixture(scope="module")
def ceilings(population):
    labels, known, _ = population
    found = {}
    for modality, prediction in known.items():
        for cell in cells("oracle", [prediction], labels, modality=modality, head="oracle"):
            found[modality, cell.target, cell.metric] = cell
    return Ceilings(found, people=50_000)


def file_of(method, own, ceilings=None, role="ranked"):
    versus = [entry for cell in own if ceilings and (entry := ceilings.versus(cell)) is not None]
    header = {
        "method": method,
        "task": "phenotype",
        "cohort": "simulated",
        "preset": None,
        "scale": "smoke",
        "track": "harmonised",
        "role": role,
        "uses_labels": False,
    }
    return {**header, "rows": [row_of(cell) for cell in own], "versus": versus}


@pytest.fixture
def place(tmp_path, population, ceilings):
    """Rows of three honest methods, and the ceilings beside their boards."""
    labels, _, methods = population
    for name in ("mae", "random", "tabular"):
        modality = "covariates" if name == "tabular" else "ecg"
        own = cells(name, methods[name], labels, modality=modality)
        role = "ranked" if name == "mae" else "reference"
        write_rows(tmp_path / "rows", file_of(name, own, ceilings, role))
    section = ceilings.section(1, [TARGETS, TARGETS[:2]])
    write_ceilings(tmp_path / "boards", HEADER, "phenotype", section)
    return tmp_path


def board(place, info=INFO):
    text = render(place / "rows", place / "boards", info)[0].read_text()
    with (place / "boards" / "phenotype.csv").open(newline="") as f:
        return text, list(csv.DictReader(f))


def leaks(place, info=INFO):
    return document(read_rows(place / "rows"), info, read_ceilings(place / "boards"))["leaks"]


def row(text, first, after=""):
    """Cells of the first table row that begins so, after a heading."""
    for line in text[text.index(after) :].splitlines():
        found = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and first in found:
            return found
    raise AssertionError(f"no row of {first}")


# ------------------------------------------------------------------------------ comparisons


def test_every_replicate_meets_the_one_oracle(population, ceilings):
    labels, _, methods = population
    for cell in cells("mae", methods["mae"], labels, fraction=0.1):
        entry = ceilings.versus(cell)
        oracle = ceilings.cells["ecg", cell.target, "R2"]
        want = compare(
            *(cell.theta, cell.psi, np.repeat(oracle.theta, 3), np.repeat(oracle.psi, 3, axis=1), N)
        )
        for name in ("difference", "v_subj", "s2", "e2", "v", "nu", "p"):
            assert entry[name] == pytest.approx(getattr(want, name), rel=1e-11)
        assert (entry["other"], entry["other_modality"], entry["fraction"]) == (
            "oracle",
            "ecg",
            0.1,
        )
        assert (entry["digest"], entry["other_digest"]) == (cell.digest, oracle.digest)


def test_a_mean_meets_the_ceiling_of_the_targets_it_averages(population, ceilings):
    labels, _, methods = population
    *_, whole = cells("mae", methods["mae"], labels)
    *_, part = cells("mae", methods["mae"], labels, targets=TARGETS[:2])
    for cell in (whole, part):
        ceiling = ceilings.versus(cell)
        single = [ceilings.cells["ecg", t, "R2"].theta[0] for t in cell.targets]
        assert cell.theta.mean() - ceiling["difference"] == pytest.approx(np.mean(single))


def test_so_does_the_mean_of_a_group(population, ceilings):
    labels, _, methods = population
    *_, oracle = [cell for key, cell in ceilings.cells.items() if key[0] == "ecg"]
    group = {"target": "mean of LV", "targets": TARGETS[:2]}
    *_, whole = cells("oracle", [population[1]["ecg"]], labels, targets=TARGETS[:2])
    whole = dataclasses.replace(whole, score_digests=oracle.score_digests, **group)
    found = Ceilings({**ceilings.cells, ("ecg", "mean of LV", "R2"): whole}, 1)
    *_, part = cells("mae", methods["mae"], labels, targets=TARGETS[:1])
    part = dataclasses.replace(part, target="mean of LV")
    versus = found.versus(part)
    single = ceilings.cells["ecg", TARGETS[0], "R2"].theta[0]
    assert part.theta.mean() - versus["difference"] == pytest.approx(single)
    # A ceiling of the whole group is none of a mean over one of it.
    *_, full = cells("mae", methods["mae"], labels, targets=TARGETS[:2])
    full = dataclasses.replace(full, **group)
    file = {**HEADER, "tasks": {"phenotype": found.section(1, [])}}
    for cell, there in ((full, True), (part, False)):
        board = document([file_of("mae", [cell], found)], INFO, file)
        assert board["leak_cells"] == there


def test_what_has_no_ceiling_is_not_compared(population, ceilings):
    labels, _, methods = population
    single, *_, mean = cells("mae", methods["mae"], labels)
    for change in ({"modality": "ecg-cmr"}, {"metric": "P@10"}, {"target": "LVCO"}):
        assert ceilings.versus(dataclasses.replace(single, **change)) is None
    assert ceilings.versus(dataclasses.replace(mean, targets=("LVEDV", "LVCO"))) is None
    assert ceilings.versus(dataclasses.replace(mean, targets=())) is None
    few = dataclasses.replace(single, theta=None, psi=None, status="too few positives")
    assert ceilings.versus(few) is None
    none = Ceilings({("ecg", "LVEDV", "R2"): few}, 1)
    assert none.versus(single) is None


# ------------------------------------------------------------------------------------- file


def test_the_file_says_what_the_statistics_say(place, ceilings):
    file = read_ceilings(place / "boards")
    assert {name: file[name] for name in HEADER} == HEADER
    section = file["tasks"]["phenotype"]
    assert (section["version"], section["people"]) == (1, 50_000)
    assert section["endpoint"] == list(TARGETS)
    entries = section["ceilings"]
    assert len(entries) == 4 * (len(TARGETS) + 2)
    for entry in entries:
        assert entry["n"] == N
        over = tuple(entry["targets"]) if entry["target"] == "mean" else (entry["target"],)
        parts = [ceilings.cells[entry["modality"], t, "R2"] for t in over]
        psi = np.mean([part.psi for part in parts], axis=0)
        e = estimate(np.mean([part.theta for part in parts], axis=0), psi, N)
        for name in ("value", "lo", "hi"):
            assert entry[name] == pytest.approx(getattr(e, name), rel=1e-11)
        assert entry["digest"] == parts[0].digest
    assert "psi" not in (place / "boards" / FILE).read_text()


def test_sections_of_one_cohort_live_together(place, ceilings):
    path = place / "boards" / FILE
    before = path.read_bytes()
    section = ceilings.section(1, [TARGETS[:2], TARGETS])
    write_ceilings(path.parent, HEADER, "phenotype", section)
    assert path.read_bytes() == before
    write_ceilings(path.parent, HEADER, "volumes", section)
    assert set(read_ceilings(path.parent)["tasks"]) == {"phenotype", "volumes"}
    write_ceilings(path.parent, {**HEADER, "cohort_fingerprint": "0" * 64}, "volumes", section)
    assert set(read_ceilings(path.parent)["tasks"]) == {"volumes"}
    assert [p.name for p in path.parent.iterdir()] == [FILE]


def test_a_file_that_holds_no_ceilings_is_named(place):
    path = place / "boards" / FILE
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"ceilings\.json holds no ceilings"):
            board(place)
    path.unlink()
    assert read_ceilings(path.parent) is None


# ------------------------------------------------------------------------------------ board


def test_board_shows_the_share_of_the_ceiling(place, population, ceilings):
    text, records = board(place)
    section = "## ECG, 100% of labels"
    labels, _, methods = population
    for name, modality in (("mae", "ecg"), ("tabular (covariates)", "covariates")):
        theta = cells("x", methods[name.split()[0]], labels)[-1].theta.mean()
        share = theta / ceilings.cells[modality, "mean", "R2"].theta[0]
        found = row(text, name, section)
        assert found[-1] == f"{100 * share:.0f}%"
    shown = {(r["method"], r["target"]): r for r in records if r["fraction"] == "1.0"}
    mae = shown["mae", "LVEDV"]
    best = ceilings.cells["ecg", "LVEDV", "R2"].theta[0]
    assert float(mae["ceiling"]) == pytest.approx(best)
    assert float(mae["ceiling_lo"]) < best < float(mae["ceiling_hi"])
    assert float(mae["share_of_ceiling"]) == pytest.approx(float(mae["value"]) / best)
    assert float(shown["random", "LVEDV"]["share_of_ceiling"]) < 0.05
    known = row(text, "oracle of the ECG")
    assert known[1].startswith(f"{ceilings.cells['ecg', 'mean', 'R2'].theta[0]:.3f}")
    assert row(text, "phenotypes without measurement noise")
    assert "fitted on 50,000 other people" in text


def test_a_ceiling_at_chance_has_no_share(place, population, ceilings):
    """Nothing can be told: how near somebody came to nothing is no number."""
    labels, _, methods = population
    stranger = [np.random.default_rng(9).permutation(0.05 * labels)]
    at_chance = dict(ceilings.cells)
    for cell in cells("oracle", stranger, labels, head="oracle"):
        at_chance["ecg", cell.target, "R2"] = cell
    null = Ceilings(at_chance, 50_000)
    write_rows(place / "rows", file_of("mae", cells("mae", [methods["random"][0]], labels), null))
    write_ceilings(place / "boards", HEADER, "phenotype", null.section(1, [TARGETS]))
    text, records = board(place)
    assert row(text, "mae", "## ECG")[-1] == "-"
    assert row(text, "tabular (covariates)", "## ECG")[-1].endswith("%"), "covariates still tell"
    assert {r["share_of_ceiling"] for r in records if r["method"] == "mae"} == {""}


def test_honest_methods_raise_no_alarm(place):
    text, records = board(place)
    assert "Leak check: none of the 12 cells exceeds its ceiling" in text
    assert "ALARM" not in text
    assert leaks(place) == []
    tested = [r for r in records if r["ceiling_p_holm"]]
    assert {(r["method"], r["target"]) for r in tested} == {
        (m, t) for m in ("mae", "random", "tabular") for t in (*TARGETS, "mean")
    }
    for r in tested:
        assert float(r["ceiling_difference"]) == pytest.approx(
            float(r["value"]) - float(r["ceiling"]), abs=2e-6
        )


def test_a_method_that_sees_the_truth_raises_the_alarm(place, population, ceilings):
    labels, _, methods = population
    own = cells("cheat", methods["cheat"], labels)
    write_rows(place / "rows", file_of("cheat", own, ceilings))
    text, records = board(place)
    head, *_ = text.split("- Values are means")
    assert "**LEAK ALARM: 4 of 16 cells exceed the ceiling" in head
    for target in (*TARGETS, "mean"):
        assert f"cheat (ECG, linear head, 100% of labels), {target}: R2 +0." in head
    assert "mae" not in head
    lines = leaks(place)
    assert len(lines) == 4
    assert all(line in head and "p (Holm) <0.001" in line for line in lines)
    # One family: Holm over every cell of the board, one-sided.
    p = {}
    for file in read_rows(place / "rows"):
        for e in file["versus"]:
            one = stats.t.sf(e["difference"] / np.sqrt(e["v"]), e["nu"])
            p[file["method"], e["target"]] = one
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    shown = {(r["method"], r["target"]): r for r in records if r["ceiling_p"]}
    assert shown.keys() == p.keys()
    for key, r in shown.items():
        assert float(r["ceiling_p"]) == pytest.approx(p[key], rel=1e-6, abs=1e-12)
        assert float(r["ceiling_p_holm"]) == pytest.approx(adjusted[key], rel=1e-6, abs=1e-12)


def test_oracles_are_in_no_ranking(place):
    with_oracle, _ = board(place)
    assert "oracle |" not in with_oracle
    for path in (place / "rows").rglob("*.json"):
        file = json.loads(path.read_text())
        path.write_text(json.dumps({**file, "versus": []}))
    without, _ = board(place)
    # Not one word on ranks, letters or pairs changes: only the leak check has nothing to go by.
    assert "none of the 0 cells exceeds its ceiling" in without
    assert "12 more cells not compared with their ceiling." in without
    drop = lambda text: [x for x in text.splitlines() if not x.startswith("Leak check")]  # noqa: E731
    assert drop(with_oracle) == drop(without)


def test_stale_comparisons_do_not_count(place, ceilings):
    path = place / "boards" / FILE
    path.write_text(path.read_text().replace(ceilings.cells["ecg", "mean", "R2"].digest, "0" * 64))
    text, _ = board(place)
    assert "none of the 4 cells" in text, "the covariates' are unchanged"
    assert "8 more cells not compared with their ceiling." in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda file: None, "No ceilings: there is no file of them."),
        (lambda file: {**file, "cohort_fingerprint": "1f" * 32}, "ceilings of another cohort"),
        (lambda file: {**file, "tasks": {}}, "the file has none of this task"),
        (
            lambda file: {
                **file,
                "tasks": {"phenotype": {**file["tasks"]["phenotype"], "version": 2}},
            },
            "the file has those of task version 2",
        ),
    ],
)
def test_ceilings_that_do_not_fit_are_refused(place, population, ceilings, change, says):
    labels, _, methods = population
    cheat = cells("cheat", methods["cheat"], labels)
    write_rows(place / "rows", file_of("cheat", cheat, ceilings))
    path = place / "boards" / FILE
    changed = change(json.loads(path.read_text()))
    path.write_text(json.dumps(changed)) if changed else path.unlink()
    text, records = board(place)
    assert says in text
    for absent in ("share of ceiling", "LEAK", "Leak check", "## Ceilings"):
        assert absent not in text
    assert {r["ceiling"] for r in records} == {""}
    assert leaks(place) == []


def test_a_task_without_ceilings_does_not_mention_them(place):
    info = dataclasses.replace(INFO, ceilings=False)
    text, _ = board(place, info)
    assert "eiling" not in text


def test_equal_rows_and_ceilings_give_equal_bytes(place, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(place / "boards", other)
    render(place / "rows", place / "boards", INFO)
    render(place / "rows", other, INFO)
    for name in ("phenotype.md", "phenotype.csv", FILE):
        assert (place / "boards" / name).read_bytes() == (other / name).read_bytes()


# ------------------------------------------------------------------------------------- run


def test_a_run_brings_the_ceilings_with_its_rows(tmp_path, monkeypatch, capsys):
    """A reference on a cohort of a few people, twice, and with a false oracle."""
    from benchmark.cohorts.simulated.cohort import SimulatedCohort
    from benchmark.engine.store import Store
    from benchmark.planning import Request
    from benchmark.runner import run

    small = SimulatedCohort(people=300, frames=2, size=8)
    monkeypatch.setattr(SimulatedCohort, "at", classmethod(lambda cls, scale, preset: small))
    monkeypatch.setattr("benchmark.planning.ORACLE_PEOPLE", {"smoke": 2_000})
    request = Request(
        methods=("ecg-features",), tasks=("phenotype",), fractions=(1.0,), scale="smoke"
    )
    store = Store(tmp_path / "store")
    outcome = run(request, store, tmp_path / "boards", workers=1)
    assert outcome.ok
    assert "ceilings x5" in capsys.readouterr().err
    folder = tmp_path / "boards" / "simulated-smoke"
    before = {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("cost")}
    file = read_ceilings(folder)
    assert file["cohort_fingerprint"] == grouped(small.digest)
    entries = file["tasks"]["phenotype"]["ceilings"]
    assert {e["modality"] for e in entries} == {"ecg", "cmr", "covariates", "truth"}
    assert {e["metric"] for e in entries} == {"R2", "r"}
    (rows,) = outcome.files
    against = [e for e in rows["versus"] if e["other"] == "oracle"]
    assert {e["other_modality"] for e in against} == {"ecg"}
    assert len(against) == 13, "ten phenotypes, their mean, and those of LV and RV"
    assert b"none of the 13 cells exceeds its ceiling" in before["phenotype.md"]
    run(request, store, tmp_path / "boards", workers=1)
    assert before == {
        p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("cost")
    }
    assert "LEAK" not in capsys.readouterr().err

    # An oracle that knows less than everybody: every method is beyond its ceiling.
    from benchmark.evaluation import oracle

    monkeypatch.setattr("benchmark.planning.ORACLE_PEOPLE", {"smoke": 1_000})
    monkeypatch.setattr(
        oracle, "fit", lambda x, y, *_: lambda new: np.zeros((len(new), y.shape[1]))
    )
    assert run(request, store, tmp_path / "boards", workers=1).ok, "an alarm is no failure"
    assert "LEAK ALARM on phenotype: ecg-features (ECG, linear head" in capsys.readouterr().err
