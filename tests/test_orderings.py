"""Published orderings: what counts as one, and what the recorded rows say of it."""

import dataclasses
import importlib
import json
import re
from pathlib import Path

import pytest

from benchmark import orderings
from benchmark.reports.boards import TaskInfo
from benchmark.reports.boards.sections import Compared
from benchmark.reports.orderings import (
    APART,
    NO_NUMBER,
    NOT_RUN,
    OPEN,
    OPPOSITE,
    SAME,
    UNTESTED,
    by_column,
    by_mean,
)
from benchmark.reports.published import QUOTED, tables
from benchmark.reports.rows import KEY

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = {"mmcl": 74.2233, "mae": 72.3933, "simclr": 67.57}  # means over CAD, AF and DM
HEADS = {"supervised": "finetune"}


def entry(other, difference, half, target="mean", metric="AUROC"):
    """A comparison with another method, its interval so far to either side."""
    return {
        **dict(zip(("target", "metric", "fraction"), (target, metric, 1.0), strict=True)),
        **{"other": other, "other_head": HEADS.get(other, "linear"), "other_modality": "ecg"},
        **{"difference": difference, "lo": difference - half, "hi": difference + half},
        **{"p": 0.5, "v": (half / 1.96) ** 2, "nu": 100.0, "replicates": 1},
        **{"v_subj": (half / 1.96) ** 2, "s2": None, "e2": None, "sigma2": None, "n_min": 101},
        "other_digest": f"of {other}",
    }


def file(method, values, versus=(), task="cvd", head=""):
    """Rows of a method; a value that is a word is why there is none."""
    head = head or HEADS.get(method, "linear")
    place = {"head": head, "modality": "ecg", "fraction": 1.0}
    rows = []
    for (target, metric), value in values.items():
        known = not isinstance(value, str)
        result = {
            "status": "ok" if known else value,
            "value": value if known else None,
            "higher_is_better": True,
            **{"task_version": 1, "cohort_fingerprint": "people", "digest": f"of {method}"},
            **{
                "replicates": 1,
                "seeds": [],
                "values": [],
                "targets": ["CAD", "AF"] if target == "mean" else None,
            },
        }
        rows.append({**place, "target": target, "metric": metric, "result": result})
    versus = [{**place, "digest": f"of {method}", **e} for e in versus]
    about = {"method": method, "task": task, "track": "harmonised"}
    return {**about, "role": "ranked", "uses_labels": False, "rows": rows, "versus": versus}


def board(*files, task="cvd", primary="AUROC"):
    info = TaskInfo(
        name=task,
        title=task,
        version=1,
        simulated=True,
        primary={"ecg": primary},
        reference={"ecg": "mae"},
        methods=(),
    )
    return {task: Compared(files, info)}


def mean(value):
    return {("mean", "AUROC"): value}


def of(found, *methods, target=None):
    """The one ordering of two methods, on a target."""
    (one,) = (
        x
        for x in found
        if {x.above[0], x.below[0]} == {*methods} and target in (None, *x.here.targets)
    )
    return one


def table(name, *methods):
    """A published table, of some of its rows."""
    whole = tables()[name]
    lines = (x for x in whole.lines if not methods or x.methods.get("harmonised") in methods)
    return dataclasses.replace(whole, lines=tuple(lines))


# ------------------------------------------------------------------------------ one ordering


@pytest.mark.parametrize(
    ("difference", "half", "outcome"),
    [
        (0.03, 0.02, (SAME, APART)),
        (0.03, 0.04, (SAME, OPEN)),
        (-0.03, 0.04, (OPPOSITE, OPEN)),
        (-0.03, 0.02, (OPPOSITE, APART)),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_an_ordering_is_set_against_the_paired_comparison(difference, half, outcome, turned):
    """Whichever of the two files holds it; MMCL's paper has mmcl above mae."""
    said = {"mae": [entry("mmcl", -difference, half)]}
    if not turned:
        said = {"mmcl": [entry("mae", difference, half)]}
    rows = board(*(file(name, mean(0.6), said.get(name, ())) for name in ("mmcl", "mae")))
    (x,) = by_mean(table("MMCL Table II", "mmcl", "mae"), rows)
    assert (x.above, x.below) == (("mmcl", "ecg"), ("mae", "ecg"))
    assert (x.order, x.strength) == outcome
    assert x.value == pytest.approx(difference)
    assert (x.difference.lo, x.difference.hi) == pytest.approx(
        (difference - half, difference + half)
    )


def test_the_published_gap_is_of_the_means_over_the_columns_and_has_their_error():
    found = by_mean(table("MMCL Table II"), board(file("mmcl", mean(0.6))))
    assert len(found) == 21  # pairs of seven rows
    for one, other in (("mmcl", "mae"), ("mmcl", "simclr"), ("mae", "simclr")):
        x = of(found, one, other)
        assert x.above[0] == one
        assert x.gap == pytest.approx((PUBLISHED[one] - PUBLISHED[other]) / 100, abs=1e-6)
    assert x.published.targets == ("CAD", "AF", "DM")
    assert of(found, "mmcl", "mae").close
    assert not of(found, "mmcl", "simclr").close
    # Two AUROC of 434, 179 and 268 positives: about 0.018 each.
    assert x.error == pytest.approx(0.018 * 2**0.5, rel=0.1)


def test_without_a_comparison_the_order_of_the_values_is_left():
    rows = board(file("mmcl", mean(0.6)), file("mae", mean(0.5)), file("simclr", mean(0.7)))
    found = by_mean(table("MMCL Table II"), rows)
    outcomes = {
        ("mmcl", "mae"): (SAME, UNTESTED),
        ("mmcl", "simclr"): (OPPOSITE, UNTESTED),
        ("mmcl", "byol"): (NOT_RUN, ""),
    }
    for pair, outcome in outcomes.items():
        x = of(found, *pair)
        assert (x.order, x.strength) == outcome
        assert x.difference is None
    assert of(found, "mmcl", "mae").value == pytest.approx(0.1)


def test_a_target_without_a_number_is_not_one_that_nobody_ran():
    ran = {("CAD", "AUROC"): 0.6, ("AF", "AUROC"): "too few positives"}
    rows = board(file("mmcl", ran), file("mae", ran))
    found = by_column(table("MMCL Table II", "mmcl", "mae", "byol"), rows)
    for target, outcome in (("CAD", OPPOSITE), ("AF", NO_NUMBER), ("DM", NO_NUMBER)):
        assert of(found, "mmcl", "mae", target=target).order == outcome
        assert of(found, "mmcl", "byol", target=target).order == NOT_RUN


def test_rows_are_read_under_the_head_of_the_method():
    versus = [entry("supervised", 0.1, 0.05)]
    rows = board(file("mmcl", mean(0.6), versus), file("supervised", mean(0.5)))
    (x,) = by_mean(table("MMCL Table II", "mmcl", "supervised"), rows)
    assert (x.order, x.strength) == (SAME, APART)
    elsewhere = board(file("mmcl", mean(0.6), versus, head="finetune"))
    (x,) = by_mean(table("MMCL Table II", "mmcl", "supervised"), elsewhere)
    assert x.order == NOT_RUN


def test_of_ranks_the_lower_is_the_better():
    columns = {"MnR": 7.0, "P@10": 0.3}
    files = []
    for method, up in (("ptacl", 1), ("ptacl-global", 2)):
        values = {("LVEDV", metric): value * up for metric, value in columns.items()}
        made = file(method, values, task="retrieval", head="none")
        for row in made["rows"]:
            row["modality"] = "ecg-cmr"
        files.append(made)
    rows = board(*files, task="retrieval", primary="P@10")
    found = [x for x in by_column(table("PTACL Table 1"), rows) if "LVEDV" in x.here.targets]
    printed = {
        (line.metric, line.methods["harmonised"]): float(line.printed["mean"])
        for line in table("PTACL Table 1").lines
        if line.target == "LVEDV" and line.kind != "chance"
    }
    for x in found:
        metric, sign = x.here.metric, -1 if x.here.metric in ("MnR", "MdR") else 1
        above, below = (printed[metric, key[0]] for key in (x.above, x.below))
        assert sign * (above - below) == pytest.approx(x.gap)
        assert x.gap > 0
        if metric in columns:
            better = "ptacl" if metric == "MnR" else "ptacl-global"
            assert x.order == (SAME if x.above[0] == better else OPPOSITE)
    assert {"MnR", "P@10"} <= {x.here.metric for x in found}


# ------------------------------------------------------------------------- what counts as one


def test_what_a_paper_quotes_or_counts_otherwise_is_in_no_ordering():
    rows = board(task="phenotype", primary="R2") | board()
    pairs = {frozenset(x.above + x.below) for x in by_mean(table("PTACL Table 2"), rows)}
    found = {name for pair in pairs for name in pair}
    quoted = {
        line.methods["harmonised"] for line in table("PTACL Table 2").lines if line.kind == QUOTED
    }
    assert quoted == {"eccl", "cmae-vit", "mmcl"}
    assert not found & quoted
    assert "random-init" in found  # not compared with ours, but below all others of its table
    diseases = by_column(table("DUAL Table 1"), rows)
    assert {target for x in diseases for target in x.here.targets} == {"CAD", "AF", "HF", "CM"}


def test_ties_and_single_rows_are_no_orderings():
    # Two rows print 69.76 for AF.
    columns = by_column(table("MMCL Table II"), board())
    assert len(columns) == 3 * 21 - 1
    # Of its seven rows two have the same mean over the four diseases.
    assert len(by_mean(table("ECCL Table 1"), board())) == 20
    assert not by_mean(table("MMCL Table IV"), board())
    assert not by_mean(table("DUAL Table 3"), board())


@pytest.mark.parametrize("name", tables())
def test_no_method_stands_twice_in_a_column(name):
    """Or one of the two numbers would be lost."""
    seen = [
        (line.methods["harmonised"], line.modality, line.title, line.metric)
        for line in tables()[name].lines
        if line.order and "harmonised" in line.methods
    ]
    assert len(seen) == len(set(seen))


def test_what_is_proposed_is_in_every_table_that_has_orderings():
    tasks = {line.task for t in tables().values() for line in t.lines if line.task}
    rows = {k: v for task in tasks for k, v in board(task=task).items()}
    for published in tables().values():
        found = by_mean(published, rows)
        proposed = {x.task for x in found if published.proposed in (x.above[0], x.below[0])}
        assert proposed == {x.task for x in found}, published.name


# --------------------------------------------------------------------------------- as text


@pytest.fixture(scope="module")
def made():
    """The rows of some methods of MMCL's tables."""
    versus = {
        "mmcl": [entry("mae", -0.03, 0.02), entry("supervised", 0.05, 0.02)],
        "mae": [entry("supervised", 0.01, 0.02)],
    }
    names = ("mmcl", "mae", "supervised")
    return board(*(file(name, mean(0.6), versus.get(name, ())) for name in names))


def lines_of(text):
    """Cells by line, headings included."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_claims_are_of_the_proposed_and_shared_by_tables_that_print_the_same(made):
    heads, _, *lines = lines_of(
        orderings.claims([tables()[f"MMCL Table {x}"] for x in ("I", "II", "III")], made)
    )
    assert heads[2:] == ["proposed", "minus", "published", "here", "order here"]
    found = {line[3]: line for line in lines}
    assert all(line[2] == "`mmcl`" for line in lines)
    assert found["`supervised`"][0] == "MMCL Table I, II, III"
    assert found["`supervised`"][4:] == ["+0.062", "+0.050 [+0.030, +0.070]", "same, told apart"]
    assert found["`mae`"][0] == "MMCL Table II, III"
    assert found["`mae`"][4:] == [
        "+0.018 (open)",
        "-0.030 [-0.050, -0.010]",
        "opposite, told apart",
    ]
    assert found["`byol`"][5:] == ["-", "not run"]


def test_a_proposed_method_below_another_has_a_negative_difference():
    """Both in the paper and here, where the better one is as much above as it says."""
    rows = board(
        file("eccl-triplet", mean(0.6)),
        file("eccl", mean(0.6), [entry("eccl-triplet", 0.03, 0.01)]),
    )
    published = table("ECCL Table 1", "eccl", "eccl-triplet")
    for proposed, sign in (("eccl", 1), ("eccl-triplet", -1)):
        published = dataclasses.replace(published, proposed=proposed)
        _, _, line = lines_of(orderings.claims([published], rows))
        assert line[2] == f"`{proposed}`"
        shown = [float(x) for text in line[4:6] for x in re.findall(r"[-+][\d.]+", text)]
        near, far = sorted((sign * 0.02, sign * 0.04))
        assert shown == pytest.approx([sign * 0.0228, sign * 0.03, near, far], abs=3e-4)
        assert line[6] == "same, told apart"


def test_counts_add_up(made):
    chosen = [tables()[name] for name in ("MMCL Table I", "MMCL Table II", "MMCL Table III")]
    heads, _, *lines = lines_of(orderings.counts(chosen, made))
    column = heads.index("told apart: same / opposite")
    means = [line for line in lines if line[2].startswith("means")]
    assert [line[3] for line in means] == ["6", "21", "6"]
    assert [line[column] for line in means] == ["1 / 0", "1 / 1", "1 / 1"]
    assert means[0][2] == "means: AUROC of CAD, AF, DM; here AUROC of CAD, AF"
    total = next(line for line in lines if line[2] == "**means**")
    assert (total[3], total[column]) == ("33", "3 / 2")
    absent, open_ = heads.index("none here"), heads.index("open in the paper")
    assert [line[absent] for line in means] == ["5", "18", "3"]
    assert total[open_] == "26 of 33"


def test_what_stands_the_other_way_round_is_listed(made):
    _, _, line = lines_of(orderings.turned([tables()["MMCL Table II"]], made))
    assert line[2:4] == ["`mmcl`", "`mae`"]
    assert line[4:] == ["+0.018 (open)", "-0.030 [-0.050, -0.010]"]
    assert orderings.turned([tables()["MMCL Table I"]], made) == ""


# ------------------------------------------------------------------------------- the page


@pytest.fixture
def generator(monkeypatch):
    """The module that writes the page's tables, which is in no package."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "generator"))
    return importlib.import_module("leaderboards")


def test_the_page_shows_the_recorded_rows(generator):
    page = ROOT / "leaderboards" / "README.md"
    said = "python docs/generator/leaderboards.py writes it again"
    assert generator.text() == page.read_text(encoding="utf-8"), said


def test_the_page_agrees_with_a_rows_file_and_a_board():
    """One line of it, looked up without the code that makes it."""
    rows = ROOT / "leaderboards" / "rows" / "simulated-tiny" / "harmonised" / "phenotype"
    what = ("linear", "ecg", "mean", "R2", 1.0)
    one, other = (json.loads((rows / f"{name}.json").read_text()) for name in ("ptacl", "mae"))
    (row,) = (r for r in other["rows"] if tuple(r[name] for name in KEY) == what)
    (found,) = (
        e
        for e in one["versus"]
        if tuple(e[name] for name in KEY) == what
        and (e["other"], e["other_digest"]) == ("mae", row["result"]["digest"])
    )
    board = (ROOT / "leaderboards" / "simulated-tiny" / "phenotype.md").read_text(encoding="utf-8")
    there = next(x for x in lines_of(board) if len(x) > 4 and x[2] == "ptacl")
    page = (ROOT / "leaderboards" / "README.md").read_text(encoding="utf-8")
    wanted = ["PTACL Table 2", "`phenotype`", "`ptacl`", "`mae`"]
    (line,) = (x for x in lines_of(page) if x[:4] == wanted)
    assert line[5].strip() == there[4].strip()
    difference, lo, hi = (float(x) for x in re.findall(r"[-+][\d.]+", line[5]))
    assert difference == pytest.approx(found["difference"], abs=6e-4)
    said = "same" if difference > 0 else "opposite"
    assert line[6] == f"{said}, {'told apart' if lo > 0 or hi < 0 else 'not told apart'}"


def test_links_of_the_page_lead_somewhere():
    page = ROOT / "leaderboards" / "README.md"
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert len(links) > 5
    assert not [link for link in links if not (page.parent / link).exists()]


def test_a_page_without_a_place_is_refused(generator, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("<!-- coverage: nothing -->\n")
    monkeypatch.setattr(generator, "PAGE", tmp_path / "README.md")
    monkeypatch.setattr(generator, "SCALES", ())
    with pytest.raises(ValueError, match="no place for claims, counts, coverage"):
        generator.text()


def test_boards_of_two_scales_have_a_table_each(generator, tmp_path, monkeypatch):
    place = "<!-- {0}: python docs/generator/leaderboards.py -->\nold\n<!-- end of {0} -->\n"
    page = tmp_path / "README.md"
    page.write_text("Words.\n" + place.format("coverage"))
    boards = {"tiny": ["one"], "small": [], "large": ["two"]}
    monkeypatch.setattr(generator, "PAGE", page)
    monkeypatch.setattr(generator, "SCALES", tuple(boards))
    monkeypatch.setattr(generator, "recorded", boards.get)
    monkeypatch.setattr(generator, "MAKERS", {"coverage": lambda found: f"table {found[0]}"})
    body = "Scale `tiny`:\n\ntable one\n\nScale `large`:\n\ntable two"
    assert generator.text() == "Words.\n" + place.format("coverage").replace("old", body)
