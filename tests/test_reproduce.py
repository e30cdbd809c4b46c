"""Published tables: every line of them is mapped, and printed beside what the methods here give."""

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.api import UserError
from benchmark.planning import Request, jobs_of
from benchmark.registry import registry
from benchmark.reports import published
from benchmark.reports.published import find, overview, tables
from benchmark.reports.rows import Cell
from benchmark.reproduce import Reproduction, Source, Value, _part, _value, markdown

TRACKS = ("harmonised", "paper")
COUNTS = {
    "MMCL Table I": 12,
    "MMCL Table II": 21,
    "MMCL Table III": 12,
    "MMCL Table IV": 6,
    "MMCL Table V": 50,
    "MMCL Table VI": 45,
    "MMCL Table VII": 9,
    "ECCL Table 1": 45,
    "PTACL Table 1": 160,
    "PTACL Table 2": 159,
    "DUAL Table 1": 90,
    "DUAL Table 2": 16,
    "DUAL Table 3": 16,
}
LINES = [line for table in tables().values() for line in table.lines]


def request(track="harmonised", **more):
    return Request(methods=(), tasks=(), scale="smoke", track=track, fractions=(1.0,), **more)


def line_of(name, **wanted):
    (line,) = (
        line
        for line in find(name).lines
        if all(line.printed[key] == value for key, value in wanted.items())
    )
    return line


# ------------------------------------------------------------------------------- the mapping


def test_every_published_number_is_read_once():
    assert {name: len(table.lines) for name, table in tables().items()} == COUNTS
    with (published.PUBLISHED / "published.csv").open(newline="") as file:
        printed = list(csv.DictReader(file))
    assert sum(COUNTS.values()) == len(printed) == 641
    read = Counter(tuple(line.printed.values()) for line in LINES)
    assert read == Counter(tuple(line.values()) for line in printed)
    assert set(read.values()) == {1}
    assert all(np.isfinite(float(line.printed["mean"])) for line in LINES)
    kinds = Counter(line.kind for line in LINES)
    assert kinds == {"reproducible": 567, "quoted": 38, "architecture": 16, "chance": 20}


def test_a_line_without_a_method_is_refused(tmp_path, monkeypatch):
    for name in ("published.csv", "published.toml"):
        text = (published.PUBLISHED / name).read_text()
        (tmp_path / name).write_text(text.replace('method = "SimCLR"', 'method = "none"'))
    monkeypatch.setattr(published, "PUBLISHED", tmp_path)
    with pytest.raises(ValueError, match="0 methods for"):
        tables.__wrapped__()


@pytest.mark.parametrize("track", TRACKS)
def test_everything_named_is_there(track):
    scale = {"harmonised": "smoke", "paper": "full"}[track]
    seen = set()
    for line in LINES:
        if track not in line.methods:
            assert track == "harmonised", "the paper track has every published method"
            assert line.without
            continue
        entry = registry().method(line.methods[track])
        assert track in entry.variant.tracks, entry.name
        if line.kind == "architecture":
            encoder = entry.on_track(track, scale).ecg_encoder
            assert line.target == "parameters" or hasattr(encoder, line.target)
            continue
        task = registry().task(line.task)
        assert line.metric in {metric.name for metric in task.metrics}
        assert set(line.members(task)) <= set(task.target_names), line.printed
        key = (entry.name, task.name, line.head, line.modality)
        if key in seen:
            continue
        seen.add(key)
        own = replace(request(track), modality=line.modality.replace("ecg-cmr", ""))
        jobs = [
            job
            for job in jobs_of(entry, task, own.make_cohort(), 0, own)
            if job.modality == line.modality
        ]
        heads = [job.head for job in jobs]
        assert heads.count(line.head) == 1 if track == "paper" else len(heads) == 1, key
    assert len(seen) > 30


def test_what_must_not_be_compared():
    apart = {(line.printed["source"][:4], *line.row(["table", "method"])) for line in LINES
             if not line.compare}  # fmt: skip
    assert apart == {
        ("MMCL", "Table VI", "CMAE"),
        ("PTAC", "Table 1", "random retrieval"),
        ("PTAC", "Table 2", "Random init"),
        ("PTAC", "Table 2", "ECCL"),
        ("PTAC", "Table 2", "CMAE"),
        ("PTAC", "Table 2", "MMCL"),
        ("Dual", "Table 1", "ECG MAE"),
        ("Dual", "Table 1", "DualPhase"),
    }
    # The images' own random network is printed as any other row.
    assert line_of("PTACL Table 2", modality="CMR", method="Random init", target="LVM").compare
    dual = [line for line in find("DUAL Table 1").lines if line.compare]
    assert {line.printed["target"] for line in dual} == {"CAD", "AF", "HF", "CMP"}
    assert all(line.remarks for line in LINES if line.kind in ("quoted", "chance"))


def test_terms_of_the_papers():
    assert line_of("DUAL Table 1", variant="2D CL", target="LVMT").target == "WT_global"
    assert not line_of("DUAL Table 1", variant="2D CL", target="SCD").target
    everything = registry().task("phenotype-all82")
    mean = line_of("ECCL Table 1", variant="full (ours)", target="82 phenotypes")
    assert mean.members(everything) == everything.target_names
    wall = line_of(
        "MMCL Table V", variant="w/ MDM", target="WT group mean", metric="Pearson r"
    ).members(registry().task("phenotype-sax61"))
    assert len(wall) == 17


def test_tables_are_found_however_they_are_written():
    for name in (" mmcl  table II", "MMCL Table 2"):
        assert find(name).name == "MMCL Table II"
    with pytest.raises(UserError, match="did you mean MMCL Table II"):
        find("MMCL tabel II")
    assert overview().count("\n") == len(COUNTS)


# ---------------------------------------------------------------------------------- the work


def test_only_what_is_printed_is_trained_for():
    paper, harmonised = request("paper"), request()
    cvd, short_axis = (registry().task(name) for name in ("cvd", "phenotype-sax61"))
    assert _part(find("MMCL Table II"), cvd, paper).names == ("CAD", "AF", "DM")
    assert _part(find("ECCL Table 1"), cvd, paper).names == ("AF", "HF", "CM", "MI")
    assert _part(find("MMCL Table II"), cvd, harmonised) is cvd
    # LVCO is not printed, but the model of the left ventricle learns it.
    ventricles = _part(find("MMCL Table VI"), short_axis, paper).names
    assert ventricles == registry().task("phenotype").target_names
    assert _part(find("MMCL Table V"), short_axis, paper) is short_axis
    everything = registry().task("phenotype-all82")
    assert len(_part(find("DUAL Table 1"), everything, paper).names) == 12


def cell(target, metric, theta, **more):
    digests = tuple(f"digest of {k}" for k in range(len(theta)))
    return Cell(
        **{"method": "m", "head": "h", "modality": "ecg", "fraction": 1.0, "task_version": 1},
        **{"cohort_fingerprint": "f", "recipe_digest": "r", "replicates": tuple(range(len(theta)))},
        **{"target": target, "metric": metric, "theta": np.array(theta), "score_digests": digests},
        **more,
    )


def test_group_means_and_units():
    line = line_of("MMCL Table V", variant="w/ MDM", target="RV group mean", metric="R2")
    names = registry().task("phenotype-sax61").groups["RV"]
    theta = np.random.default_rng(0).normal(size=(len(names), 3))
    cells = {(n, "R2"): cell(n, "R2", row) for n, row in zip(names, theta, strict=True)}
    value = _value(line, Source(), cells, request(replicates=3))
    means = theta.mean(0)
    assert value.mean == pytest.approx(means.mean())
    assert value.sd == pytest.approx(np.sqrt(((means - means.mean()) ** 2).sum() / 2))
    assert value.difference == pytest.approx(means.mean() - 0.421)
    assert not value.note
    assert _value(line, Source(), cells, request(replicates=5)).note == "3 of 5 replicates"

    percent = line_of("MMCL Table II", method="MAE", target="AF")
    value = _value(percent, Source(), {("AF", "AUROC"): cell("AF", "AUROC", [0.7])}, request())
    assert (value.mean, value.sd) == (pytest.approx(70.0), None)

    random = line_of("PTACL Table 1", method="random retrieval", target="LVM", metric="P@10")
    cells = {("LVM", "P@10"): cell("LVM", "P@10", [0.4, 0.5], chance=0.28)}
    value = _value(random, Source(), cells, request(replicates=2))
    assert (value.mean, value.sd) == (pytest.approx(0.28), None)
    assert value.difference is None


def test_why_there_is_no_number():
    line = line_of("MMCL Table II", method="MAE", target="AF")
    few = cell("AF", "AUROC", [0.7], status="too few positives")
    assert _value(line, Source(), {("AF", "AUROC"): few}, request()).status == "too few positives"
    assert _value(line, Source(), {}, request()).status == "not run"
    value = _value(line, Source(reason="because"), {}, request())
    assert (value.status, value.note) == ("not applicable", "because")
    none = line_of("DUAL Table 1", variant="2D CL", target="SCD")
    assert _value(none, Source(), {}, request()).note == "the cohorts have no such target"


# ---------------------------------------------------------------------------------- the text


def grid(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cut = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    return [row for row in cut if not set("".join(row)) <= set(":-")]


def test_the_layout_is_the_papers():
    table = find("MMCL Table II")
    values = [Value(line, "m", mean=float(line.printed["mean"]) - 0.001) for line in table.lines]
    head, *body = grid(markdown(Reproduction(table, request(), values)))
    assert head == ["method", "variant", "", "CAD", "AF", "DM"]
    assert [row[0] for row in body[::3]] == [
        *("Supervised ViT", "SimCLR", "CLOCS", "BYOL", "BarlowTwins", "MAE", "MMCL")
    ]
    assert body[1] == ["", "", "published", "66.90 ± 0.47", "69.76 ± 2.13", "67.35 ± 0.76"]
    assert body[2] == ["", "", "difference", "+0.00", "+0.00", "+0.00"]


def test_a_table_in_parts_keeps_the_papers_holes():
    table = find("DUAL Table 1")
    text = markdown(Reproduction(table, request(), [Value(x, "m") for x in table.lines]))
    heads = [row[3:] for row in grid(text) if row[0] == "method"]
    assert heads == [list(block) for block in table.blocks]
    table = find("PTACL Table 1")
    text = markdown(Reproduction(table, request(), [Value(x, "m") for x in table.lines]))
    (random,) = (row for row in grid(text) if row[:2] == ["LVCO", "random retrieval"])
    assert [place for place, cell in enumerate(random[4:]) if cell == "-"] == [1, 2, 4, 5, 6]


def test_footnotes_say_why():
    table = find("PTACL Table 2")
    values = [Value(line, "m", mean=0.5) for line in table.lines]
    text = markdown(Reproduction(table, request("paper"), values))
    quoted = next(i for i, row in enumerate(grid(text)) if row[1] == "ECCL")
    marks = set(grid(text)[quoted + 2][5:])
    assert len(marks) == 1
    number = marks.pop().removeprefix("not compared ")
    assert f"- {number} Quoted from ECCL: squared Pearson correlations" in text
    assert "rehearsal, whose numbers mean nothing" in text
    assert "Simulated hearts are not UK Biobank" in text


# ------------------------------------------------------------------------------- the command


def test_a_table_from_nothing(ecgcmr, shared_store, tmp_path):
    command = ("reproduce", "DUAL Table 2", "--scale", "smoke", "--leaderboards", tmp_path)
    done = json.loads(ecgcmr(*command, "--json", store=shared_store).stdout)
    assert (done["track"], done["cohort"], len(done["cells"])) == ("harmonised", "simulated", 16)
    medium = {c["target"]: c for c in done["cells"] if c["variant"] == "ViT Medium"}
    assert {c["here"]["method"] for c in medium.values()} == {"mae"}
    sex = medium["sex"]
    assert 1 < sex["here"]["mean"] <= 100
    assert sex["difference"] == pytest.approx(sex["here"]["mean"] - 86.74)
    assert {c["here"]["status"] for c in done["cells"] if c not in medium.values()} == {
        "not applicable"
    }
    again = ecgcmr(*command, store=shared_store)
    assert "plan: 0 stages to run" in again.stderr
    path = Path("simulated-smoke/reproduce/harmonised/dual-table-2.md")
    assert (tmp_path / path).read_text() in again.stdout


def test_asked_wrongly(ecgcmr, tmp_path):
    done = ecgcmr("reproduce", "Table 9", store=tmp_path, check=False)
    assert done.returncode == 2
    assert "no table is called" in done.stderr
    plan = ("reproduce", "DUAL Table 3", "--track", "paper", "--scale", "tiny")
    assert "paper track is called 'tiny'" in ecgcmr(*plan, store=tmp_path, check=False).stderr


@pytest.mark.nightly
@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("name", list(COUNTS))
def test_every_table_at_smoke(name, track, ecgcmr, shared_store, tmp_path):
    command = ("reproduce", name, "--track", track, "--scale", "smoke", "--json")
    place = ("--leaderboards", tmp_path)
    done = ecgcmr(*command, *place, store=shared_store, timeout=3600)
    cells = json.loads(done.stdout)["cells"]
    assert len(cells) == COUNTS[name]
    assert "not run" not in {c["here"]["status"] for c in cells}
    reasons = {c["here"]["note"] for c in cells if c["here"]["status"] == "not applicable"}
    own = {line.without for line in find(name).lines} if track == "harmonised" else set()
    assert reasons <= own | {"the cohorts have no such target"}
