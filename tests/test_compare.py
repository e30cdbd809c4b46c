"""Two methods in numbers and in sentences that claim no more than was tested."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scored import SKILL, cells, file_of, hexdigest
from toy import bring

from benchmark.api import UserError
from benchmark.cli import main
from benchmark.compare import Pair, Side, compare
from benchmark.compare_text import as_json, sentence, text
from benchmark.engine.store import Store
from benchmark.evaluation.metrics import AUROC, MedianRank
from benchmark.evaluation.multiplicity import holm
from benchmark.planning import Request, jobs_of
from benchmark.registry import registry
from benchmark.reports.files import grouped
from benchmark.reports.rows import write_rows

TASK = registry().task("cvd")
FINGERPRINT = grouped(Request(methods=(), tasks=("cvd",), scale="smoke").make_cohort().digest)


def asked(*methods, tasks=("cvd",), **change):
    options = {"scale": "smoke", "fractions": (1.0,)} | change
    return Request(methods=methods, tasks=tasks, **options)


def made(method, **change):
    return cells(method, cohort_fingerprint=FINGERPRINT, task_version=TASK.version, **change)


@pytest.fixture
def place(tmp_path):
    """Rows of three methods in which ptacl was compared with the two others, one training each."""
    own = {name: made(name, replicates=1) for name in ("mae", "ptacl", "mmcl")}
    for name in ("mae", "mmcl"):
        write_rows(tmp_path / "rows", file_of(name, own[name]))
    write_rows(tmp_path / "rows", file_of("ptacl", own["ptacl"], own["mae"], own["mmcl"]))
    return tmp_path


def compared(place, a, b, **change):
    options = {key: change.pop(key) for key in ("head", "margin") if key in change}
    return compare(a, b, asked(a, b, **change), Store(place / "store"), place, **options)


def test_a_pair_reads_the_same_from_either_side(place):
    [pair], [other] = compared(place, "ptacl", "mae"), compared(place, "mae", "ptacl")
    [entry] = [
        e
        for e in json.loads((place / "rows/simulated-smoke/harmonised/cvd/ptacl.json").read_text())[
            "versus"
        ]
        if (e["other"], e["target"]) == ("mae", "mean")
    ]
    assert (pair.difference, pair.lo, pair.hi, pair.p) == tuple(
        entry[name] for name in ("difference", "lo", "hi", "p")
    )
    assert (other.difference, other.lo, other.hi) == (-pair.difference, -pair.hi, -pair.lo)
    assert (pair.worse, pair.better) == pytest.approx((other.better, other.worse))
    assert pair.difference == pytest.approx(pair.a.value - pair.b.value)
    assert (pair.verdict, other.verdict) == ("a", "b")
    assert sentence(pair) == sentence(other)


def test_the_sentence_of_a_difference(place):
    said = text(compared(place, "ptacl", "mae"))
    flat = " ".join(said.split())
    assert (
        "on 600 simulated test people: ptacl told the two groups of people apart better than mae"
        in flat
    )
    assert re.search(
        r"mean AUROC of 2 targets 0\.\d+ against 0\.\d+\. The difference, 0\.\d+ \[", flat
    )
    assert "is larger than chance explains (p < 0.001)" in flat
    assert "One training of each" in flat
    assert "The people are simulated" in flat


def test_the_sentence_of_no_difference(place, monkeypatch):
    monkeypatch.setitem(SKILL, "simclr", SKILL["mae"])
    own, other = made("simclr", replicates=3), made("mae", replicates=3)
    write_rows(place / "rows", file_of("mae", other))
    write_rows(place / "rows", file_of("simclr", own, other))
    [pair] = compared(place, "simclr", "mae")
    assert pair.verdict == "open"
    said = sentence(pair)
    assert "cannot be told apart" in said
    assert "no proof that they are equal: the probability of a difference below 0.01 is" in said
    assert "better" not in said
    [wide] = compared(place, "simclr", "mae", margin=0.5)
    assert wide.verdict == "equal"
    assert "practically equal: the probability that they differ by less than 0.5 is over 99%" in (
        sentence(wide)
    )
    assert "One training" not in text([pair])


def side(method, value, **change):
    known = {"head": "linear", "modality": "ecg", "status": "ok", "replicates": 2}
    return Side(method=method, value=value, **known | change)


def pair_of(difference, p=1e-4, metric=AUROC, **change):
    a, b = side("first", 2 + difference), side("second", 2.0)
    facts = {"difference": difference, "lo": difference - 0.01, "hi": difference + 0.01, "p": p}
    known = {
        **{"task": "cvd", "title": "Title", "kind": "classification", "modality": "ecg"},
        **{"metric": metric.name, "higher_is_better": metric.higher_is_better, "fraction": 1.0},
        **{"simulated": False, "a": a, "b": b, "n": 50, "p_holm": p, "replicates": 2},
    }
    return Pair(**known | facts | change)


def test_lower_is_better_where_it_is():
    lower = pair_of(-1.0, metric=MedianRank)
    assert lower.verdict == "a"
    assert "first told" in sentence(lower)
    assert "(lower is better)" in sentence(lower)
    assert "-1.000 [-1.010 to -0.990]" in sentence(lower)
    assert pair_of(-1.0).verdict == "b"
    assert "second told" in sentence(pair_of(-1.0))
    assert "1.000 [0.990 to 1.010]" in sentence(pair_of(-1.0))
    assert "simulated" not in text([lower])


def test_unequal_numbers_of_replicates_are_said():
    assert "replicates" not in sentence(pair_of(0.5))
    said = sentence(pair_of(0.5, a=side("first", 2.5, replicates=3)))
    assert "means over 3 and 2 replicates, the difference is over the 2 that both have" in said


def test_the_table_says_what_each_method_reads():
    cmr, ecg = side("first", 1.0, modality="cmr"), side("second", 0.5)
    assert "| cmr / ecg " in text([pair_of(0.5, a=cmr, b=ecg)])
    assert "| cmr    |" in text([pair_of(0.5, a=cmr, b=cmr)])
    none = side("second", None, modality="", status="not applicable")
    alone = pair_of(0.5, a=ecg, b=none)
    assert "| ecg    |" in text([replace(alone, difference=None, reason="one has no score")])


def test_belief_follows_the_direction_of_the_metric(place, monkeypatch):
    [pair] = compared(place, "ptacl", "mae")
    assert pair.better > 0.99
    monkeypatch.setattr(AUROC, "higher_is_better", False)
    [pair] = compared(place, "ptacl", "mae")
    assert pair.worse > 0.99
    assert pair.verdict == "b"


def test_a_difference_beyond_chance_may_be_small():
    small = pair_of(0.002, worse=0.0, within=0.99, better=0.01, margin=0.01)
    assert "It is small: the probability that it is below 0.01 is 99%" in sentence(small)
    assert "small" not in sentence(pair_of(0.02, worse=0.0, within=0.1, better=0.9, margin=0.01))


def test_tests_are_corrected_for_their_number(place, monkeypatch):
    for fraction_task in ("cvd", "cvd-as-coded"):
        version = registry().task(fraction_task).version
        own = [made(name, replicates=1) for name in ("mae", "mmcl")]
        for cell in (*own[0], *own[1]):
            object.__setattr__(cell, "task_version", version)
        write_rows(place / "rows", file_of("mae", own[0], task=fraction_task))
        write_rows(place / "rows", file_of("mmcl", own[1], own[0], task=fraction_task))
    pairs = compared(place, "mmcl", "mae", tasks=("cvd", "cvd-as-coded"))
    assert len(pairs) == 2
    np.testing.assert_allclose([x.p_holm for x in pairs], holm([x.p for x in pairs]))
    assert pairs[0].p_holm > pairs[0].p
    assert "corrected for 2 comparisons" in " ".join(text(pairs).split())


def test_rows_that_were_not_paired_are_not_compared(place):
    [pair] = compared(place, "mmcl", "mae")
    assert (pair.difference, pair.p, pair.verdict) == (None, None, "none")
    assert pair.a.value is not None
    assert "never paired" in pair.reason
    assert "not compared" in text([pair])


def test_comparisons_of_other_rows_do_not_count(place):
    path = place / "rows/simulated-smoke/harmonised/cvd/mae.json"
    file = json.loads(path.read_text())
    for row in file["rows"]:
        row["result"]["digest"] = grouped(hexdigest("trained again"))
    path.write_text(json.dumps(file))
    assert compared(place, "ptacl", "mae")[0].difference is None
    for row in file["rows"]:
        row["result"]["cohort_fingerprint"] = grouped(hexdigest("others"))
    path.write_text(json.dumps(file))
    [pair] = compared(place, "ptacl", "mae")
    assert (pair.b.value, pair.b.status) == (None, "not run")


def test_what_is_missing_is_named(place):
    [pair] = compared(place, "ptacl", "eccl")
    assert pair.reason == "eccl: not run"
    assert "ecgcmr run --method eccl --task cvd runs what is missing" in text([pair])
    [pair] = compared(place, "ptacl", "mae", head="finetune")
    assert pair.a.status == "not applicable: its head is linear"
    assert "runs what is missing" not in text([pair])
    [pair] = compared(place, "tabular", "ptacl", modality="cmr")
    assert pair.a.status.startswith("not applicable")
    pairs = compared(place, "ptacl", "mae", tasks=("retrieval", "localisation"))
    assert [p.modality for p in pairs][:2] == ["ecg", "ecg-cmr"]
    assert pairs[1].b.status.startswith("not applicable: it has nothing to search")
    assert pairs[2].reason.startswith("a diagnostic")
    assert "Neither has a score on: localisation, retrieval" in text(pairs)


def test_unequal_conditions_are_said(place):
    own = made("tabular", replicates=1, head="xgboost", modality="covariates")
    labelled = made("eccl", replicates=1)
    write_rows(place / "rows", file_of("tabular", own, role="reference"))
    write_rows(place / "rows", file_of("eccl", labelled, own, uses_labels=True))
    said = " ".join(text(compared(place, "eccl", "tabular")).split())
    assert "tabular reads age, sex and size alone, not the ECG" in said
    assert "eccl by a linear probe and tabular by boosted trees" in said
    assert "eccl saw labels while it learned" in said


def test_scores_in_the_store_fill_in(tmp_path):
    # Not the shared store: where one of the two has more replicates its value is of all of them,
    # while the difference is of those that both have.
    store = Store(tmp_path / "store")
    names = ("random-init", "ecg-features")
    request = asked(*names, tasks=("phenotype",))
    task = registry().task("phenotype")
    for name in names:
        entry = registry().method(name)
        [job] = jobs_of(entry, task, request.make_cohort(), 0, request)
        bring(store, job.score)
    [pair] = compare(*names, request, store, tmp_path)
    assert pair.difference == pytest.approx(pair.a.value - pair.b.value)
    assert 0 <= pair.p <= 1
    assert pair.worse + pair.within + pair.better == pytest.approx(1)
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": "ptacl"}, "not compared with itself"),
        ({"margin": 0.0}, "--margin is 0"),
        ({"margin": float("nan")}, "--margin is nan"),
        ({"head": "liner"}, "did you mean linear"),
        ({"b": "mmcl", "track": "paper", "scale": "full"}, "harmonised track alone"),
    ],
)
def test_asked_wrongly(place, change, message):
    a, b = "ptacl", change.pop("b", "mae")
    with pytest.raises(UserError, match=message):
        compared(place, a, b, **change)


def test_the_command_line(place, capsys, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(place / "store"))
    options = ["--scale", "smoke", "--leaderboards", str(place), "--task", "cvd"]
    assert main(["compare", "ptacl", "mae", *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    [pair] = told["comparisons"]
    assert pair["verdict"] == "a"
    assert "ptacl told" in pair["sentence"]
    assert told == json.loads(json.dumps(as_json(compared(place, "ptacl", "mae"))))
    assert main(["compare", "ptacl", "eccl", *options]) == 1
    command = f"--task cvd --scale smoke --leaderboards {place} runs what is missing"
    assert command in capsys.readouterr().out
    assert main(["compare", "ptacl", "meow", *options]) == 2
    assert "no method is called 'meow'" in capsys.readouterr().err
