"""Rows are merged by fixed rules, and hold nothing about single people."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from scored import RUN, N, cells, file_of, hexdigest

from benchmark.api import UserError
from benchmark.evaluation.statistics import compare, estimate, gap_closed
from benchmark.recording import record
from benchmark.reports.rows import (
    dumps,
    gap_of,
    grouped,
    merge,
    read_file,
    read_rows,
    row_of,
    rows_path,
    versus_of,
    write_rows,
)


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


def made_elsewhere(method, by=1e-3):
    """The same stages, whose numbers came out a little different."""
    return [dataclasses.replace(cell, theta=cell.theta + by) for cell in cells(method)]


def test_rows_made_again_elsewhere_replace_those_they_are_compared_as_much_as(tmp_path):
    recorded = file_of("ptacl", cells("ptacl"), cells("mae"), cells("mmcl"))
    again = made_elsewhere("ptacl")
    for fewer in ((), (cells("mae"),)):
        new = file_of("ptacl", again, *fewer)
        assert dumps(merge(recorded, new)) == dumps(merge(None, recorded))
    equal = file_of("ptacl", again, made_elsewhere("mae"), made_elsewhere("mmcl", -1e-3))
    assert dumps(merge(recorded, equal)) == dumps(merge(None, equal)), "nothing of both"
    alone = file_of("ptacl", again)
    # A row that happens to have the same numbers stays with the others of its score.
    partly = [*again[:-1], cells("ptacl")[-1]]
    partly = file_of("ptacl", partly)
    for row in partly["rows"]:
        row["run"] = {"device": "cuda"}
    assert dumps(merge(recorded, partly)) == dumps(merge(None, recorded))
    assert merge(file_of("ptacl", cells("ptacl")), alone)["rows"] == merge(None, alone)["rows"]
    # The last bits are no other numbers.
    same = file_of("ptacl", made_elsewhere("ptacl", 1e-13))
    assert len(merge(recorded, same)["versus"]) == len(recorded["versus"])

    assert record([recorded], tmp_path) == []
    (said,) = record([alone], tmp_path)
    assert said.startswith("ptacl on cvd: they come of the same stages, made on another machine")
    assert record([equal], tmp_path) == []


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
    path = tmp_path / "simulated-smoke" / "harmonised" / "cvd" / "mae.json"
    written = write_rows(tmp_path, file)
    assert written == read_file(path)
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
    file = file_of("mae", cells("mae"))
    write_rows(tmp_path, file)
    path = rows_path(tmp_path, file)
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


def test_the_gap_is_of_the_replicates_all_three_have():
    a, reference, goal = cells("ptacl")[-1], cells("mae", replicates=4)[-1], cells("cmr-mae")[-1]
    entry = gap_of(a, reference, goal)
    parts = (x for c in (a, reference, goal) for x in (c.theta[:3], c.psi[:, :3]))
    want = gap_closed(*parts, a.n_min)
    for name in ("value", "lo", "hi"):
        assert entry[name] == pytest.approx(getattr(want, name), rel=1e-11)
    assert 0 < entry["lo"] < entry["value"] < 1
    assert (entry["reference"], entry["goal"], entry["replicates"]) == ("mae", "cmr-mae", 3)
    digests = [entry[f"{part}digest"] for part in ("", "reference_", "goal_")]
    assert digests == [a.digest, reference.digest, goal.digest]
    # Fewer being better turns all three round: the share of the way stays what it is.
    lower = [
        dataclasses.replace(c, theta=-c.theta, psi=-c.psi, higher_is_better=False)
        for c in (a, reference, goal)
    ]
    assert gap_of(*lower)["value"] == pytest.approx(entry["value"])
    assert gap_of(a, goal, reference) is None, "the goal must be above the reference"
    assert gap_of(a, reference, dataclasses.replace(goal, replicates=(7, 8, 9))) is None
    lost = dataclasses.replace(a, theta=None, psi=None, status="not estimable")
    assert gap_of(lost, reference, goal) is None


def test_gaps_are_merged_as_comparisons_are():
    mae, goal = cells("mae"), cells("cmr-mae")
    first = file_of("ptacl", cells("ptacl"), reference=mae, goal=goal)
    assert len(first["gaps"]) == 1
    assert merge(first, first)["gaps"] == first["gaps"]
    old = {k: v for k, v in first.items() if k != "gaps"}  # written before there were gaps
    assert merge(old, first)["gaps"] == merge(first, old)["gaps"] == first["gaps"]
    changed = file_of("ptacl", cells("ptacl", recipe="b"))
    assert merge(first, changed)["gaps"] == []
