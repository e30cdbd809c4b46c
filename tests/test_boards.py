"""Rows are merged by fixed rules, and boards claim no more than the rows hold."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from benchmark.api import Predictions, UserError
from benchmark.evaluation.metrics import AUROC
from benchmark.evaluation.statistics import compare, estimate, holm
from benchmark.reports.boards import Expected, TaskInfo, own_rows, render, short
from benchmark.reports.rows import (
    Cell,
    dumps,
    grouped,
    merge,
    read_rows,
    row_of,
    rows_path,
    versus_of,
    write_rows,
)

N, TARGETS = 600, ("CAD", "AF")
RUN = {
    "pretraining_seconds": 60.0,
    "embedding_seconds": 2.0,
    "head_seconds": 0.5,
    "peak_memory_bytes": 2**30,
    "device": "cpu",
    "git_sha": "f" * 40,
}
INFO = TaskInfo(
    name="cvd",
    title="Cardiovascular disease",
    version=1,
    simulated=True,
    primary={"ecg": "AUROC"},
    reference={"ecg": "mae"},
    methods=(
        Expected(name="mae"),
        Expected(name="mmcl"),
        Expected(name="ptacl"),
        Expected(name="eccl", uses_labels=True),
        Expected(name="supervised", role="reference"),
        Expected(name="tabular", role="reference", places=frozenset({("covariates", 1.0)})),
    ),
    fractions=(1.0, 0.1),
)
SKILL = {"mae": 0.8, "mmcl": 0.85, "ptacl": 2.0, "eccl": 1.5, "supervised": 1.0, "tabular": 0.6}


def hexdigest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def cells(method, replicates=3, fraction=1.0, head="linear", modality="ecg", recipe="a", **change):
    """One cell per target and their mean, of made-up scores of a method."""
    people = np.random.default_rng(0)
    y = (people.random((N, len(TARGETS))) < 0.3).astype(float)
    own = np.random.default_rng(int(hexdigest(method)[:8], 16))
    common = people.standard_normal((N, len(TARGETS)))
    found = []
    for _ in range(replicates):
        noise = common + 0.5 * own.standard_normal(y.shape) + own.normal(0, 0.02) * y
        found.append(
            AUROC().influence(
                Predictions(TARGETS, {"target": y, "prediction": SKILL[method] * y + noise})
            )
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
        for i, t in enumerate(TARGETS)
    ]
    mean = Cell(
        target="mean",
        theta=theta.mean(1),
        psi=psi.mean(1),
        n_min=int(positives.min()),
        targets=TARGETS,
        **shared,
    )
    return [*single, mean]


def file_of(method, own, *others, **change):
    versus = [
        versus_of(a, b)
        for other in others
        for a in own
        for b in other
        if a.target == b.target and a.fraction == b.fraction
    ]
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
    return {**header, "rows": rows, "versus": versus} | change


@pytest.fixture
def rows(tmp_path):
    """Everybody but eccl, at all labels; each file compared with those before it."""
    done = []
    for method in ("mae", "mmcl", "ptacl", "supervised", "tabular"):
        change = {"role": "reference"} if method in ("supervised", "tabular") else {}
        kind = {"supervised": ("finetune", "ecg"), "tabular": ("xgboost", "covariates")}
        head, modality = kind.get(method, ("linear", "ecg"))
        own = cells(method, head=head, modality=modality)
        write_rows(tmp_path / "rows", file_of(method, own, *done, **change))
        done.append(own)
    return tmp_path / "rows"


def board(rows, out, info=INFO):
    paths = render(rows, out, info)
    assert [p.name for p in paths] == ["cvd.md", "cvd.csv", "cost.md", "cost.csv"]
    with paths[1].open(newline="") as f:
        return paths[0].read_text(), list(csv.DictReader(f))


def line_of(text, method):
    """Cells of the first table row about a method."""
    for line in text.splitlines():
        found = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and method in found:
            return found
    raise AssertionError(f"no row of {method}")


# ------------------------------------------------------------------------------------ rows


def test_a_row_says_what_the_statistics_say():
    cell = cells("mae")[-1]
    result = row_of(cell, RUN)["result"]
    e = estimate(cell.theta, cell.psi, cell.n_min, "logit")
    for name in ("value", "lo", "hi", "v_subj", "s2", "e2", "sigma2", "v", "nu"):
        assert result[name] == pytest.approx(getattr(e, name), rel=1e-11)
    assert result["se"] == pytest.approx(e.v**0.5, rel=1e-11)
    assert result["values"] == pytest.approx(cell.theta.tolist(), rel=1e-11)
    assert (result["replicates"], result["seeds"], result["n"]) == (3, [0, 1, 2], N)
    assert result["digest"] == grouped(hexdigest("\n".join(sorted(cell.score_digests))))
    assert result["notes"] == []
    one = row_of(cells("mae", replicates=1)[0])["result"]
    assert one["notes"] == ["one checkpoint"]
    assert one["sigma2"] is None


def test_a_row_holds_nothing_about_single_people():
    own, other = cells("mae"), cells("ptacl")
    file = file_of("mae", own, other)

    def lists(value):
        if isinstance(value, dict):
            for item in value.values():
                yield from lists(item)
        elif isinstance(value, list):
            yield value
            for item in value:
                yield from lists(item)

    longest = max(len(x) for row in (*file["rows"], *file["versus"]) for x in lists(row))
    assert longest == 3  # the replicates
    for name in ("psi", "theta"):
        assert name not in json.dumps(file)


def test_few_positives_get_no_interval():
    few = row_of(dataclasses.replace(cells("mae")[0], positives=9))["result"]
    assert few["value"] is not None
    assert (few["lo"], few["hi"]) == (None, None)
    assert few["notes"] == ["fewer than 10 positives: no interval"]
    some = row_of(dataclasses.replace(cells("mae")[0], positives=49))["result"]
    assert some["lo"] < some["value"] < some["hi"]
    assert some["notes"] == ["underpowered: fewer than 50 positives"]


def test_a_cell_without_values_says_why():
    cell = cells("mae")[0]
    lost = dataclasses.replace(cell, theta=np.array([0.7, np.nan, 0.7]))
    assert row_of(lost)["result"]["status"] == "not estimable"
    assert row_of(lost)["result"]["value"] is None
    assert row_of(lost)["result"]["replicates"] == 3
    absent = dataclasses.replace(cell, theta=None, psi=None, status="too few positives")
    assert row_of(absent)["result"]["status"] == "too few positives"
    assert versus_of(absent, cell) is None
    assert versus_of(lost, cell) is None
    with pytest.raises(ValueError, match="says why"):
        dataclasses.replace(cell, theta=None, psi=None)
    with pytest.raises(ValueError, match="differ in number"):
        dataclasses.replace(cell, theta=cell.theta[:2])


def test_median_rank_brings_its_own_interval():
    cell = dataclasses.replace(
        cells("mae")[-1], psi=None, interval=(2.0, 3.5), scale="raw", theta=np.array([2, 3, 3.0])
    )
    result = row_of(cell)["result"]
    assert (result["lo"], result["hi"], result["se"]) == (2.0, 3.5, None)
    assert versus_of(cell, cell) is None


def test_comparisons_use_the_replicates_both_have():
    a, b = cells("ptacl", replicates=3)[-1], cells("mae", replicates=2)[-1]
    entry = versus_of(a, b)
    want = compare(a.theta[:2], a.psi[:, :2], b.theta, b.psi, a.n_min)
    assert entry["replicates"] == 2
    for name in ("difference", "v_subj", "s2", "e2", "v", "nu", "p"):
        assert entry[name] == pytest.approx(getattr(want, name), rel=1e-11)
    assert (entry["digest"], entry["other_digest"]) == (a.digest, b.digest)
    # Replicate numbers decide, not positions.
    late = dataclasses.replace(b, replicates=(1, 2))
    assert versus_of(a, late)["difference"] != entry["difference"]
    assert versus_of(a, dataclasses.replace(b, replicates=(7, 8))) is None
    with pytest.raises(ValueError, match="differ in fraction"):
        versus_of(a, dataclasses.replace(b, fraction=0.1))
    with pytest.raises(ValueError, match="differ in cohort_fingerprint"):
        versus_of(a, dataclasses.replace(b, cohort_fingerprint="0"))


def test_fewer_replicates_never_replace_more_of_one_recipe():
    three, one = (file_of("mae", cells("mae", replicates=r)) for r in (3, 1))
    assert merge(three, one)["rows"] == merge(None, three)["rows"]
    assert merge(one, three)["rows"] == merge(None, three)["rows"]
    for change in (
        {"recipe": "b"},
        {"task_version": 2},
        {"cohort_fingerprint": hexdigest("other")},
    ):
        changed = file_of("mae", cells("mae", replicates=1, **change))
        assert merge(three, changed)["rows"] == merge(None, changed)["rows"]


def test_merging_keeps_the_rows_of_other_fractions():
    all_labels, tenth = (file_of("mae", cells("mae", fraction=f)) for f in (1.0, 0.1))
    both = merge(all_labels, tenth)
    assert len(both["rows"]) == 6
    assert dumps(merge(both, tenth)) == dumps(both)
    assert dumps(merge(tenth, all_labels)) == dumps(both)
    with pytest.raises(ValueError, match="another method"):
        merge(all_labels, file_of("mmcl", cells("mmcl")))


def test_comparisons_stay_while_their_row_does():
    mae3, mae1, ptacl = cells("mae"), cells("mae", replicates=1), cells("ptacl")
    full = file_of("ptacl", ptacl, mae3)
    # The reference was trained for one replicate only in another store: both may be of use.
    kept = merge(full, file_of("ptacl", ptacl, mae1))["versus"]
    assert {e["other_digest"] for e in kept} == {mae3[0].digest, mae1[0].digest}
    assert len(kept) == 6
    # A better comparison leaves no reason to keep the poorer one.
    kept = merge(file_of("ptacl", ptacl, mae1), full)["versus"]
    assert {e["other_digest"] for e in kept} == {mae3[0].digest}
    # A row with fewer replicates is not taken, and neither are its comparisons.
    fewer = file_of("ptacl", cells("ptacl", replicates=1), mae1)
    assert merge(full, fewer)["versus"] == merge(None, full)["versus"]
    # A changed recipe takes the comparisons of the old one away.
    assert merge(full, file_of("ptacl", cells("ptacl", recipe="b")))["versus"] == []


def test_files_are_canonical(tmp_path):
    file = file_of("mae", cells("mae"), cells("ptacl"))
    path = write_rows(tmp_path, file)
    assert path == tmp_path / "simulated-smoke" / "harmonised" / "cvd" / "mae.json"
    first = path.read_bytes()
    assert first.endswith(b"}\n")
    backwards = {**file, "rows": file["rows"][::-1], "versus": file["versus"][::-1]}
    noisy = json.loads(json.dumps(backwards))
    noisy["rows"][0]["result"]["value"] *= 1 + 1e-15
    write_rows(tmp_path, noisy)
    assert path.read_bytes() == first
    assert read_rows(tmp_path) == [json.loads(first)]
    assert [p.name for p in path.parent.iterdir()] == ["mae.json"]
    assert rows_path(tmp_path, {**file, "preset": "null"}).parts[-4] == "simulated-null-smoke"


def test_a_file_that_is_no_rows_file_is_named(tmp_path):
    path = write_rows(tmp_path, file_of("mae", cells("mae")))
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"mae\.json is not a rows file"):
            read_rows(tmp_path)
    with pytest.raises(ValueError, match="needs versus"):
        write_rows(tmp_path, {k: v for k, v in file_of("mae", []).items() if k != "versus"})


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    template = json.dumps(file_of("mae", cells("mae")[-1:]))
    script = textwrap.dedent("""
        import json, sys
        from pathlib import Path
        from benchmark.reports.rows import write_rows
        root, start, template = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
        for i in range(start, start + 40):
            row = {**template["rows"][0], "fraction": i / 1000}
            write_rows(root, {**template, "rows": [row]})
    """)
    workers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(start), template])
        for start in (0, 100)
    ]
    assert [w.wait(60) for w in workers] == [0, 0]
    (file,) = read_rows(tmp_path)
    assert len(file["rows"]) == 80


# ---------------------------------------------------------------------------------- boards


def test_board_shows_values_differences_and_rank_intervals(rows, tmp_path):
    text, records = board(rows, tmp_path / "boards")
    assert "ranks learning behaviour on simulated people under a small budget" in text
    assert "not clinical performance" in text
    # mae and mmcl are not told apart, ptacl is above both.
    assert line_of(text, "ptacl")[:3] == ["1", "a", "ptacl"]
    assert line_of(text, "mmcl")[:3] == ["2-3", "b", "mmcl"]
    assert line_of(text, "mae")[:3] == ["2-3", "b", "mae"]
    assert line_of(text, "mae")[4] == "reference"
    entry = versus_of(cells("ptacl")[-1], cells("mae")[-1])
    shown = line_of(text, "ptacl")
    assert shown[4].startswith(f"+{entry['difference']:.3f}"[:5])
    assert shown[5] == "<0.001"
    assert shown[7:] == ["3", str(N), "0.5", f"`{short(cells('ptacl')[-1].digest)}`"]
    assert "Primary endpoint: mean AUROC over CAD, AF. Reference method: mae." in text
    # References stand in the section with the head and modality they have, unranked.
    assert text.index("ptacl") < text.index("References and controls") < text.index("tabular (")
    assert "supervised (finetune head)" in text
    assert "tabular (covariates, xgboost head)" in text
    by_method = {
        r["method"]: r
        for r in records
        if r["target"] == "mean" and r["fraction"] == "1.0" and r["status"] == "ok"
    }
    assert float(by_method["ptacl"]["difference"]) == entry["difference"]
    assert float(by_method["ptacl"]["p"]) == entry["p"]
    pairs = [("ptacl", "mae"), ("ptacl", "mmcl"), ("mmcl", "mae")]
    adjusted = holm([versus_of(cells(a)[-1], cells(b)[-1])["p"] for a, b in pairs])
    assert float(by_method["ptacl"]["p_holm"]) == pytest.approx(adjusted[0], rel=1e-10)
    assert float(by_method["mmcl"]["p_holm"]) == pytest.approx(adjusted[2], rel=1e-10)
    assert by_method["tabular"]["rank_lo"] == by_method["tabular"]["p_holm"] == ""
    # The same pair in the other file, seen from the other side.
    back = -versus_of(cells("mmcl")[-1], cells("mae")[-1])["difference"]
    assert float(by_method["mmcl"]["difference"]) == pytest.approx(-back)
    per_target = text[text.index("AUROC per target") :]
    assert line_of(per_target, "*positives*")[1:] == [str(c.positives) for c in cells("mae")[:2]]


def test_what_is_missing_is_spelt_out(rows, tmp_path):
    path = next(rows.rglob("mmcl.json"))
    file = json.loads(path.read_text())
    path.write_text(json.dumps({**file, "versus": []}))
    file = json.loads(next(rows.rglob("ptacl.json")).read_text())
    kept = [e for e in file["versus"] if e["other"] != "mmcl"]
    next(rows.rglob("ptacl.json")).write_text(json.dumps({**file, "versus": kept}))
    text, records = board(rows, tmp_path / "boards")
    assert line_of(text, "mmcl")[4:6] == ["not compared", "not compared"]
    assert "2 of 3 pairs not compared." in text
    # Not compared is not told apart: only mae is known to be below ptacl.
    assert line_of(text, "mmcl")[:2] == ["1-3", "ab"]
    section = text[text.index("## ECG, 100% of labels") : text.index("## ECG, 10% of labels")]
    assert "\n\nNot run: eccl.\n\n" in section
    assert "| eccl" not in section
    assert "## ECG, 10% of labels, linear head\n\nNothing run yet." in text
    assert {r["status"] for r in records if r["method"] == "eccl"} == {"not run"}


def test_a_comparison_of_other_replicates_does_not_count(rows, tmp_path):
    # mae gets a fourth replicate: what was compared with its three is stale.
    write_rows(rows, file_of("mae", cells("mae", replicates=4)))
    text, _ = board(rows, tmp_path / "boards")
    assert line_of(text, "ptacl")[4] == "not compared"
    write_rows(rows, file_of("ptacl", cells("ptacl"), cells("mae", replicates=4)))
    text, _ = board(rows, tmp_path / "boards")
    assert line_of(text, "ptacl")[4].startswith("+0.")


def test_not_estimable_leaves_the_family(rows, tmp_path):
    for method in ("mae", "ptacl"):
        lost = [
            dataclasses.replace(c, fraction=0.1, theta=None, psi=None, status="not estimable")
            for c in cells(method)
        ]
        write_rows(rows, file_of(method, lost))
    text, _ = board(rows, tmp_path / "boards")
    section = text[text.index("10% of labels") :]
    assert line_of(section, "mae")[:6] == ["-", "-", "mae", "not estimable", "-", "-"]
    assert "Not run: mmcl, eccl, supervised." in section
    assert "not compared" not in section


def test_other_versions_and_cohorts_are_not_ranked(rows, tmp_path):
    write_rows(rows, file_of("mmcl", cells("mmcl", task_version=2)))
    write_rows(rows, file_of("ptacl", cells("ptacl", cohort_fingerprint=hexdigest("other"))))
    text, _ = board(rows, tmp_path / "boards")
    ranked, rest = text.split("## Not ranked: other cohort or task version")
    for method in ("mmcl", "ptacl"):
        assert line_of(ranked, method)[3] == "other cohort or task version, see below"
        assert line_of(rest, method)
    assert line_of(ranked, "mae")[0] == "-"  # alone, nothing to rank
    with pytest.raises(AssertionError):
        line_of(rest, "mae")
    # The caller may say which cohort it means.
    info = dataclasses.replace(INFO, fingerprint=hexdigest("other"))
    text, _ = board(rows, tmp_path / "boards", info)
    assert line_of(text, "mae")[3] == "other cohort or task version, see below"
    assert line_of(text, "ptacl")[3].startswith("0.")


def test_equal_results_give_equal_bytes_whatever_the_run(rows, tmp_path):
    def bytes_of(out):
        render(rows, out, INFO)
        return {p.name: p.read_bytes() for p in out.iterdir()}

    before = bytes_of(tmp_path / "a")
    for method in ("mae", "ptacl"):
        path = next(rows.rglob(f"{method}.json"))
        file = json.loads(path.read_text())
        for row in file["rows"]:
            row["run"] |= {"pretraining_seconds": 99.0, "device": "another"}
        path.write_text(json.dumps(file))
    after = bytes_of(tmp_path / "b")
    for name in ("cvd.md", "cvd.csv"):
        assert before[name] == after[name]
    assert b"another" in after["cost.md"]
    assert before["cost.csv"] != after["cost.csv"]
    assert line_of(before["cost.md"].decode(), "mae")[6:] == [
        *("3", "60.0", "2.0", "0.5", "1.00", "cpu", "ffffff-ffffff")
    ]


def test_one_replicate_is_marked_one_checkpoint(tmp_path):
    mae, ptacl = (cells(m, replicates=1) for m in ("mae", "ptacl"))
    write_rows(tmp_path / "rows", file_of("mae", mae))
    write_rows(tmp_path / "rows", file_of("ptacl", ptacl, mae))
    text, _ = board(tmp_path / "rows", tmp_path / "boards")
    assert "cover the test people only: every row is one checkpoint" in text
    assert line_of(text, "ptacl")[7] == "1 (one checkpoint)"


def test_unexpected_methods_and_heads_get_their_place(rows, tmp_path):
    SKILL["newcomer"] = 1.0
    write_rows(rows, file_of("newcomer", cells("newcomer", head="finetune")))
    text, _ = board(rows, tmp_path / "boards")
    section = text[text.index("## ECG, 100% of labels, finetune head") :]
    assert line_of(section, "newcomer")[4] == "not compared"
    assert "With this head not run: mae, mmcl, ptacl, eccl." in section
    assert "Not run: newcomer, eccl." in text  # with the primary head


def test_lower_is_better_turns_the_order(rows, tmp_path):
    for path in rows.rglob("*.json"):
        file = json.loads(path.read_text())
        for row in file["rows"]:
            row["result"]["higher_is_better"] = False
        path.write_text(json.dumps(file))
    text, _ = board(rows, tmp_path / "boards")
    assert line_of(text, "ptacl")[:2] == ["3", "b"]
    assert line_of(text, "mae")[0] == "1-2"
    assert text.index("| mae") < text.index("| ptacl")


def test_other_metrics_and_warnings(rows, tmp_path):
    more = [
        dataclasses.replace(cells("mae")[-1], metric=metric, unmatched=unmatched, ties=0)
        for metric, unmatched in (("P@10", 0), ("P@3", 0), ("P@3+self", 0))
    ]
    median = dataclasses.replace(more[0], metric="MdR", psi=None, interval=(2.0, 3.5))
    primary = [dataclasses.replace(c, unmatched=12, ties=6) for c in cells("mae")]
    write_rows(rows, file_of("mae", [*more, median, *primary]))
    text, records = board(rows, tmp_path / "boards")
    assert "Note: mae: 2.0% queries without any match." in text
    others = text[text.index("Other metrics, mean over targets:") :]
    assert line_of(others, "MdR") == ["method", "MdR", "P@3", "P@10", "P@3+self"]
    assert line_of(others, "mae")[1] == "0.7 [2.0, 3.5]"
    assert line_of(others, "ptacl")[1:] == [*["not run"] * 3, "-"]
    assert {r["metric"] for r in records} == {"AUROC", "MdR", "P@3", "P@10", "P@3+self"}


def test_own_rows_show_endpoints_of_the_fractions_asked_for(rows):
    files = read_rows(rows)
    text = own_rows(files, (1.0,))
    assert line_of(text, "ptacl")[:6] == ["cvd", "ptacl", "ECG", "linear", "100%", "AUROC"]
    assert "CAD" not in text
    assert len(own_rows(files, (0.5,)).splitlines()) == len(text.splitlines())


def test_nothing_run_yet(tmp_path):
    (tmp_path / "rows").mkdir()
    text, records = board(tmp_path / "rows", tmp_path / "boards")
    assert "Nothing run yet." in text
    assert {r["status"] for r in records} == {"not run", "not applicable"}
