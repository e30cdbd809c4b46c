"""Boards claim no more than the rows hold, and say what they leave out."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from scored import SKILL, TARGETS, N, cells, file_of, hexdigest

from benchmark.evaluation.multiplicity import holm
from benchmark.evaluation.statistics import difference_test, family_variances
from benchmark.reports.boards import (
    Expected,
    TaskInfo,
    document,
    own_rows,
    own_sections,
    render,
    render_index,
    short,
)
from benchmark.reports.boards.document import plan
from benchmark.reports.boards.markdown import markdown
from benchmark.reports.boards.reader import positives_text
from benchmark.reports.boards.recorded import Line
from benchmark.reports.boards.records import csv_of
from benchmark.reports.boards.sections import Compared
from benchmark.reports.page.grids import heat
from benchmark.reports.page.views import view_of
from benchmark.reports.rows import read_rows, row_of, versus_of, write_rows

INFO = TaskInfo(
    name="cvd",
    title="Cardiovascular disease",
    version=1,
    simulated=True,
    primary={"ecg": "AUROC"},
    reference={"ecg": "mae"},
    goal={"ecg": "cmr-supervised"},
    metrics=("AUROC",),
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
KINDS = {
    "supervised": {"head": "finetune"},
    "tabular": {"head": "xgboost", "modality": "covariates"},
    "cmr-mae": {"modality": "cmr"},
    "cmr-supervised": {"head": "finetune", "modality": "cmr"},
}
ROLES = {
    **dict.fromkeys(("supervised", "tabular", "cmr-mae", "cmr-supervised"), "reference"),
    "permuted": "control",
}


def files_of(*methods, uses_labels=(), **change):
    """Files of methods in this order, each compared with all before it."""
    done, files = {}, []
    for name in methods:
        done[name] = cells(name, **KINDS.get(name, {}), **change)
        others = [own for other, own in done.items() if other != name]
        header = {"role": ROLES.get(name, "ranked"), "uses_labels": name in uses_labels}
        files.append(file_of(name, done[name], *others, **header))
    return files


def add(file, other):
    """Put the rows and comparisons of a file of the same method into it."""
    for name in ("rows", "versus", "gaps"):
        file[name] = [*file[name], *other[name]]


@pytest.fixture
def rows(tmp_path):
    """Everybody but eccl, at all labels."""
    for file in files_of("mae", "mmcl", "ptacl", "supervised", "tabular"):
        write_rows(tmp_path / "rows", file)
    return tmp_path / "rows"


def board(rows, out, info=INFO):
    paths = render(rows, out, info)
    names = ["cvd.md", "cvd.csv", "cvd.json", "cost.md", "cost.csv"]
    assert [p.name for p in paths] == names
    with paths[1].open(newline="") as f:
        return paths[0].read_text(), list(csv.DictReader(f))


def first_section(files, info=INFO):
    return document(files, info, None)["sections"][0]


def lines_of(section):
    return {line["method"]: line for line in section["lines"]}


def line_of(text, method, after=""):
    """Cells of the first table row about a method, after a heading."""
    for line in text[text.index(after) :].splitlines():
        found = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and method in found:
            return found
    raise AssertionError(f"no row of {method}")


# ------------------------------------------------------------------------------- what is shown


def endpoint_family():
    """The comparisons of the three ranked methods, and (v, nu) of each as their family has it."""
    pairs = itertools.combinations(("ptacl", "mmcl", "mae"), 2)
    tests = {(a, b): SimpleNamespace(**versus_of(cells(a)[-1], cells(b)[-1])) for a, b in pairs}
    return tests, dict(zip(tests, family_variances(tests), strict=True))


def test_board_shows_values_differences_and_rank_intervals(rows, tmp_path):
    text, records = board(rows, tmp_path / "boards")
    # mae and mmcl are not told apart, ptacl is above both.
    assert line_of(text, "ptacl")[:3] == ["1", "a", "ptacl"]
    assert line_of(text, "mmcl")[:3] == ["2-3", "b", "mmcl"]
    assert line_of(text, "mae")[:3] == ["2-3", "b", "mae"]
    assert line_of(text, "mae")[4] == "reference"
    entry = versus_of(cells("ptacl")[-1], cells("mae")[-1])
    shown = line_of(text, "ptacl")
    assert shown[4].startswith(f"+{entry['difference']:.3f}"[:5])
    assert shown[5] == "<0.001"
    assert len(shown) == 6, "no column without a single entry"
    source = line_of(text, "ptacl", after="Provenance")
    assert source[:3] == ["ptacl", "3", str(N)]
    assert source[4] == f"`{short(cells('ptacl')[-1].digest)}`"
    assert "Primary endpoint: mean AUROC over CAD, AF. Chance 0.5. Reference method: mae." in text
    assert "Families under Holm's correction: primary, 3 label-free methods, 3 pairs." in text
    # References stand in the section with the head and modality they have, unranked.
    assert text.index("ptacl") < text.index("References and controls") < text.index("tabular (")
    assert "supervised (finetune head)" in text
    assert "tabular (covariates, xgboost head)" in text
    by_method = {
        r["method"]: r
        for r in records
        if r["target"] == "mean" and r["fraction"] == "1.0" and r["status"] == "ok"
    }
    assert float(by_method["ptacl"]["difference"]) == pytest.approx(entry["difference"], rel=1e-5)
    tests, variances = endpoint_family()
    p = difference_test(tests["ptacl", "mae"].difference, *variances["ptacl", "mae"])[2]
    assert float(by_method["ptacl"]["p"]) == pytest.approx(p, rel=1e-5)
    assert by_method["tabular"]["rank_lo"] == by_method["tabular"]["p_holm"] == ""
    # The same pair in the other file, seen from the other side.
    back = versus_of(cells("mmcl")[-1], cells("mae")[-1])["difference"]
    assert float(by_method["mmcl"]["difference"]) == pytest.approx(back, rel=1e-5)


def test_every_rendering_is_of_the_document_alone(rows, tmp_path):
    board(rows, tmp_path / "boards")
    stored = json.loads((tmp_path / "boards" / "cvd.json").read_text())
    assert stored == document(read_rows(rows), INFO, None)
    assert markdown(stored) == (tmp_path / "boards" / "cvd.md").read_text()
    assert csv_of(stored) == (tmp_path / "boards" / "cvd.csv").read_text()
    assert stored["cohort"] == "simulated"
    assert stored["scale"] == "smoke"
    # A record is a line of the file, so that a changed number is a changed line.
    texts = (tmp_path / "boards" / "cvd.json").read_text().splitlines()
    assert sum('"method": "ptacl", "block"' in text for text in texts) == 1


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
    for name in ("cvd.md", "cvd.csv", "cvd.json"):
        assert before[name] == after[name]
    assert b"another" in after["cost.md"]
    assert before["cost.csv"] != after["cost.csv"]
    assert line_of(before["cost.md"].decode(), "mae")[6:] == [
        *("3", "60.0", "2.0", "0.5", "1.00", "cpu", "ffffff-ffffff")
    ]


def test_devices_that_shared_a_training_are_paid_for_each(rows, tmp_path):
    path = next(rows.rglob("mae.json"))
    file = json.loads(path.read_text())
    for row in file["rows"]:
        row["run"] |= {"devices": 2, "device_seconds": 120.5}
    path.write_text(json.dumps(file))
    render(rows, tmp_path, INFO)
    text = (tmp_path / "cost.md").read_text()
    assert line_of(text, "mae")[6:] == [
        *("3", "60.0", "2.0", "0.5", "1.00", "cpu", "2", "120.5", "ffffff-ffffff")
    ]
    assert line_of(text, "ptacl")[12:14] == ["1", "60.5"]
    lines = (tmp_path / "cost.csv").read_text().splitlines()
    assert lines[0].endswith(",git_sha,devices,device_seconds")
    ends = {line.partition(",")[0]: line.split(",")[-2:] for line in lines[1:]}
    assert (ends["mae"], ends["ptacl"]) == (["2", "120.5"], ["1", "60.5"])


def test_it_says_first_what_the_numbers_must_not_be_taken_for(rows, tmp_path):
    trial, simulated = "these numbers mean nothing", "is learning behaviour under a small budget"
    for scale, said, unsaid in (("smoke", trial, simulated), ("tiny", simulated, trial)):
        for path in rows.rglob("*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"scale": scale}))
        render(rows, tmp_path, INFO)
        render_index(rows, tmp_path, [INFO.name])
        for name in (f"{INFO.name}.md", "index.html"):
            text = (tmp_path / name).read_text()
            assert said in text
            assert unsaid not in text


def test_the_cost_names_every_commit_that_made_a_stage(rows, tmp_path):
    path = next(rows.rglob("mae.json"))
    file = json.loads(path.read_text())
    old, new = "a" * 40, f"{'b' * 40}-dirty"
    for row, made in zip(file["rows"], itertools.cycle((f"{old} {new}", new, None)), strict=False):
        row["run"] |= {"git_sha": made}
    path.write_text(json.dumps(file))
    render(rows, tmp_path, INFO)
    assert (
        line_of((tmp_path / "cost.md").read_text(), "mae")[-1]
        == "aaaaaa-aaaaaa, bbbbbb-bbbbbb-dirty"
    )
    assert f",{old} {new}\n" in (tmp_path / "cost.csv").read_text()


def test_the_pages_are_of_the_boards_in_the_folder(rows, tmp_path):
    render(rows, tmp_path / "boards", INFO)
    paths = render_index(rows, tmp_path / "boards", ["phenotype", "cvd"])
    assert [p.name for p in paths] == ["index.html", "cost.html"]
    text = paths[0].read_text()
    assert INFO.title in text
    assert "ptacl" in text
    before = paths[0].read_bytes()
    render_index(rows, tmp_path / "boards", ["cvd", "phenotype"])
    assert paths[0].read_bytes() == before


def test_unexpected_methods_and_heads_get_their_place(rows, tmp_path):
    write_rows(rows, file_of("newcomer", cells("newcomer", head="finetune")))
    text, _ = board(rows, tmp_path / "boards")
    heading = "## ECG, 100% of labels, finetune head"
    assert line_of(text, "newcomer", after=heading)[:3] == ["-", "-", "newcomer"]
    section = text[text.index(heading) :]
    assert "Reference method: mae, not run." in section
    assert "With this head not run: mae, mmcl, ptacl, eccl." in section
    assert "Secondary endpoint: mean AUROC" in section
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
    assert "Lower is better." in text
    # Tables show differences of values; the document's pairs say who is better.
    assert line_of(text, "ptacl")[4].startswith("+")
    stored = json.loads((tmp_path / "boards" / "cvd.json").read_text())
    pairs = {(p["a"], p["b"]): p for p in stored["sections"][0]["pairs"]}
    assert pairs["mae", "ptacl"]["lo"] > 0
    against = line_of(text, "ptacl", after="Against the strongest")
    by = versus_of(cells("ptacl")[-1], cells("supervised", head="finetune")[-1])["difference"]
    assert float(against[-1].split()[0]) == pytest.approx(by, abs=5e-3)


def test_other_metrics_and_warnings(rows, tmp_path):
    more = [
        dataclasses.replace(cells("mae")[-1], metric=metric, unmatched=unmatched, ties=0)
        for metric, unmatched in (("P@10", 0), ("P@3", 0), ("P@3+self", 0))
    ]
    median = dataclasses.replace(more[0], metric="MdR", psi=None, interval=(2.0, 3.5))
    primary = [dataclasses.replace(c, unmatched=12, ties=6) for c in cells("mae")]
    write_rows(rows, file_of("mae", [*more, median, *primary]))
    text, records = board(rows, tmp_path / "boards")
    # 1% of ties exactly is not worth a warning but is reported.
    assert "Warning: mae: 2.0% queries without any match." in text
    assert line_of(text, "replicates")[2:4] == ["without a match", "ties at a cut-off"]
    assert line_of(text, "mae", after="Provenance")[2:4] == ["12", "6"]
    others = text[text.index("Other metrics, mean over targets:") :]
    assert line_of(others, "MdR") == ["method", "MdR", "P@3", "P@10"]
    assert line_of(others, "mae")[1] == "0.7 [2.0, 3.5]"
    assert line_of(others, "ptacl")[1:] == ["-"] * 3
    own = text[text.index("With the own scan in the gallery:") :]
    assert line_of(own, "P@3+self") == ["method", "P@3+self"]
    assert {r["metric"] for r in records} == {"AUROC", "MdR", "P@3", "P@10", "P@3+self"}


def test_own_rows_show_endpoints_of_the_fractions_asked_for(rows):
    files = read_rows(rows)
    text = own_rows(files, (1.0,))
    assert line_of(text, "ptacl")[:6] == ["cvd", "ptacl", "ECG", "linear", "100%", "AUROC"]
    assert "CAD" not in text
    assert len(own_rows(files, (0.5,)).splitlines()) == len(text.splitlines())


def test_a_run_is_shown_the_primary_sections_its_rows_stand_in(rows):
    write_rows(rows, file_of("newcomer", cells("newcomer", head="finetune")))
    files = read_rows(rows)
    board = document(files, INFO, None)
    own = [file for file in files if file["method"] == "ptacl"]
    text = own_sections(board, own, (1.0, 0.1))
    assert "Scale smoke" in text
    assert line_of(text, "mmcl")[:3] == ["2-3", "b", "mmcl"]
    assert text.count("\n## ") == 1, "at 10% of labels it has no rows"
    for left_out in ("Provenance", "per target", "finetune head, ", "10% of labels"):
        assert left_out not in text
    other = [file for file in files if file["method"] == "newcomer"]
    text = own_sections(board, other, (1.0,))
    assert "## ECG, 100% of labels, finetune head" in text
    assert "Secondary endpoint" in text
    assert "\n## " not in own_sections(board, [], (1.0,))
    # A reference that reads images stands in the section of the ECG, until there is one of images.
    images = [file_of("cmr-mae", cells("cmr-mae", modality="cmr"), role="reference")]
    assert "\n## ECG, " in own_sections(document([*files, *images], INFO, None), images, (1.0,))
    images.append(file_of("mmcl", cells("mmcl", modality="cmr")))
    text = own_sections(document([*files, *images], INFO, None), images, (1.0,))
    assert "\n## CMR, " in text
    assert "\n## ECG, " not in text


def test_nothing_run_yet(tmp_path):
    (tmp_path / "rows").mkdir()
    text, records = board(tmp_path / "rows", tmp_path / "boards")
    assert "Nothing run yet." in text
    assert {r["status"] for r in records} == {"not run", "not applicable"}


# ----------------------------------------------------------------------------- what is missing


def test_who_is_tied_to_another_head_is_not_missing_under_the_first():
    tied = Expected(name="newcomer", heads=frozenset({"finetune"}))
    free = Expected(name="eccl", heads=frozenset({"linear"}))
    info = dataclasses.replace(INFO, methods=(INFO.methods[0], tied, free), fractions=(1.0,))
    own = cells("newcomer", head="finetune")
    files = [*files_of("mae"), file_of("newcomer", own)]
    linear, finetune = document(files, info, None)["sections"]
    assert linear["not_run"] == ["eccl"]
    assert lines_of(linear)["newcomer"]["status"] == "not applicable"
    assert lines_of(finetune)["newcomer"]["value"] is not None


def test_what_is_missing_is_spelt_out(rows, tmp_path):
    path = next(rows.rglob("mmcl.json"))
    file = json.loads(path.read_text())
    path.write_text(json.dumps({**file, "versus": []}))
    file = json.loads(next(rows.rglob("ptacl.json")).read_text())
    kept = [e for e in file["versus"] if e["other"] != "mmcl"]
    next(rows.rglob("ptacl.json")).write_text(json.dumps({**file, "versus": kept}))
    text, records = board(rows, tmp_path / "boards")
    assert line_of(text, "mmcl")[4:6] == ["not compared", "-"]
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


def test_a_comparison_is_not_set_beside_other_numbers(rows, tmp_path):
    """Equal digests, but one of the two was trained again where rounding differs."""
    elsewhere = [dataclasses.replace(c, theta=c.theta + 1e-3) for c in cells("mae")]
    write_rows(rows, file_of("mae", elsewhere))
    text, _ = board(rows, tmp_path / "boards")
    assert line_of(text, "ptacl")[4] == "not compared"
    write_rows(rows, file_of("ptacl", cells("ptacl"), elsewhere))
    text, _ = board(rows, tmp_path / "boards")
    assert line_of(text, "ptacl")[4].startswith("+")


def test_fewer_common_replicates_are_said(tmp_path):
    mae, ptacl = cells("mae", replicates=2), cells("ptacl", replicates=3)
    text = markdown(document([file_of("mae", mae), file_of("ptacl", ptacl, mae)], INFO, None))
    assert line_of(text, "ptacl")[4].endswith("(of the 2 common replicates)")


def test_what_a_column_resolves_is_the_median_over_methods():
    record = document(files_of("mae", "mmcl", "ptacl"), INFO, None)
    cells_ = [c for c in record["sections"][0]["cells"] if c["target"] == "CAD"]
    two = [c["resolvable"] for c in cells_ if c["resolvable"] is not None]
    assert len(two) == 2
    shown = float(line_of(markdown(record), "*resolves (median)*")[1])
    assert shown == pytest.approx(np.mean(two), abs=1e-3)
    assert max(two) - np.mean(two) > 2e-3, "not the larger of the two"
    facts = dict(heat(record, record["sections"][0]).facts)
    assert facts["resolves"][0] == f"{1000 * np.mean(two):.0f}"


def test_fewer_common_replicates_are_said_of_everything_that_is_compared():
    counts = {"mae": 3, "mmcl": 1, "ptacl": 2, "eccl": 3, "cmr-supervised": 1, "supervised": 1}
    done, files = {}, []
    for name, count in counts.items():
        done[name] = cells(name, replicates=count, **KINDS.get(name, {}))
    for name, own in done.items():
        others = [theirs for other, theirs in done.items() if other != name]
        ends = {} if name == "mae" else {"reference": done["mae"], "goal": done["cmr-supervised"]}
        header = {"role": ROLES.get(name, "ranked"), "uses_labels": name == "eccl"}
        files.append(file_of(name, own, *others, **ends, **header))
    record = document(files, INFO, None)
    text = markdown(record)
    one, two = " (of the 1 common replicate)", " (of the 2 common replicates)"
    # The reference has more than mmcl: its value is not the one mmcl is compared with.
    assert line_of(text, "mmcl")[4].endswith("]" + one)
    assert line_of(text, "ptacl")[4].endswith("]" + two)
    assert line_of(text, "eccl")[4].endswith("]"), "three of three"
    gap = line_of(text, "eccl")[6]
    assert gap.endswith("%]" + one), "the goal has one"
    hurdles = text[text.index("Against the") :]
    assert line_of(hurdles, "mae")[1].endswith("]" + one)
    assert line_of(hurdles, "mmcl")[1].endswith("]"), "one of one"
    assert any(line.startswith("Methods differ in their replicates.") for line in record["reading"])
    said = "In 2 of the 3 pairs compared, the two methods have one replicate in common"
    assert text.count(said) == 1
    reader = view_of(record, record["sections"][0]).reader
    assert sum("Label-free methods: " + said in line for line in reader) == 1
    assert not any("Label-using methods:" in line for line in reader)
    # Equal numbers of replicates need none of it.
    equal = document(files_of("mae", "mmcl", "ptacl", replicates=1), INFO, None)
    text = markdown(equal)
    assert "common replicate" not in text
    assert "in common" not in text


def test_not_estimable_leaves_the_family(rows, tmp_path):
    for method in ("mae", "ptacl"):
        lost = [
            dataclasses.replace(c, fraction=0.1, theta=None, psi=None, status="not estimable")
            for c in cells(method)
        ]
        write_rows(rows, file_of(method, lost))
    text, _ = board(rows, tmp_path / "boards")
    section = text[text.index("10% of labels, ") :]
    assert line_of(section, "mae")[:4] == ["-", "-", "mae", "not estimable"]
    assert line_of(section, "ptacl")[3:6] == ["not estimable", "-", "-"]
    assert "Not run: mmcl, eccl, supervised." in section
    assert "Not applicable: tabular (100% of labels only)." in section
    assert "not compared" not in section
    assert "pairs of" not in section


def test_who_has_no_place_in_a_section_is_told_why(rows, tmp_path):
    write_rows(rows, file_of("mae", cells("mae")))
    places = frozenset({("ecg", 1.0), ("ecg", 0.1)})
    tied = Expected(name="tied", places=places, heads=frozenset({"finetune"}))
    idle = Expected(name="idle", places=frozenset(), heads=frozenset(), why_not="it reads no ECG")
    info = dataclasses.replace(INFO, methods=(*INFO.methods, tied, idle))
    text, _ = board(rows, tmp_path / "boards", info)
    assert "Not applicable: tied (finetune head only); idle (it reads no ECG)." in text
    record = json.loads((tmp_path / "boards" / "cvd.json").read_text())
    view = view_of(record, record["sections"][0])
    assert view.not_applicable == "tied (finetune head only); idle (it reads no ECG)"
    assert "tied" not in str(view.blocks), "no row without anything in it"


def test_other_versions_and_cohorts_are_not_ranked(rows, tmp_path):
    write_rows(rows, file_of("mmcl", cells("mmcl", task_version=2)))
    write_rows(rows, file_of("ptacl", cells("ptacl", cohort_fingerprint=hexdigest("other"))))
    text, _ = board(rows, tmp_path / "boards")
    ranked, rest = text.split("## Not ranked: other cohort or task version")
    for method in ("mmcl", "ptacl"):
        assert line_of(ranked, method)[3] == "other cohort or task version, see below"
        assert line_of(rest, method)[3] == "100%"
    assert line_of(ranked, "mae")[0] == "-"  # alone, nothing to rank
    with pytest.raises(AssertionError):
        line_of(rest, "mae")
    # The caller may say which cohort it means.
    info = dataclasses.replace(INFO, fingerprint=hexdigest("other"))
    text, _ = board(rows, tmp_path / "boards", info)
    assert line_of(text, "mae")[3] == "other cohort or task version, see below"
    assert line_of(text, "ptacl")[3].startswith("0.")


# ----------------------------------------------------------------------------------- families

EVERYBODY = ("mae", "mmcl", "ptacl", "eccl", "dual-phase", "permuted", "supervised", "tabular")


def p_holm(section):
    return {
        frozenset((pair["a"], pair["b"])): pair["p_holm"]
        for pair in section["pairs"]
        if pair["p_holm"] is not None
    }


def test_a_family_is_the_pairs_of_a_block_and_its_reference():
    section = first_section(files_of(*EVERYBODY, uses_labels=("eccl", "dual-phase")))
    entries = {
        (a, b): SimpleNamespace(
            **versus_of(cells(a, **KINDS.get(a, {}))[-1], cells(b, **KINDS.get(b, {}))[-1])
        )
        for a, b in (
            *(("mmcl", "mae"), ("ptacl", "mae"), ("ptacl", "mmcl")),
            *(("eccl", "dual-phase"), ("eccl", "mae"), ("dual-phase", "mae")),
        )
    }
    want = {}
    for names in (list(entries)[:3], list(entries)[3:]):
        family = {pair: entries[pair] for pair in names}
        variances = family_variances(family)
        tested = zip(family.values(), variances, strict=True)
        adjusted = holm([difference_test(x.difference, *variance)[2] for x, variance in tested])
        want |= {frozenset(pair): x for pair, x in zip(family, adjusted, strict=True)}
    found = p_holm(section)
    assert found.keys() == want.keys(), "neither references nor controls are members"
    for pair, value in want.items():
        assert found[pair] == pytest.approx(value, rel=1e-4)
    counts = {"pairs": 3, "compared": 3}
    assert section["families"] == {
        "label-free": {"primary": True, "members": 3, "outsider": None, **counts},
        "label-using": {"primary": False, "members": 2, "outsider": "mae", **counts},
    }
    lines = lines_of(section)
    assert lines["dual-phase"]["rank"][1] <= 2, "ranked among two"
    assert lines["permuted"]["rank"] is lines["supervised"]["letters"] is None
    assert lines["permuted"]["difference"]["p_holm"] is None
    # All pairs of all lines are there, whoever is in a family.
    assert len(section["pairs"]) == len(EVERYBODY) * (len(EVERYBODY) - 1) // 2


def test_the_endpoint_has_one_test_wherever_it_is_shown():
    """Also where its variance between replicates is the family's, not that of its row file."""
    files = files_of("mae", "mmcl", "ptacl", "eccl", uses_labels=("eccl",), replicates=2)
    board = document(files, INFO, None)
    section = board["sections"][0]
    own = {e["other"] + f["method"]: e["p"] for f in files for e in f["versus"]}
    cells_ = {c["method"]: c for c in section["cells"] if c["target"] == "mean"}
    pairs = {frozenset((x["a"], x["b"])): x for x in section["pairs"]}
    records = csv.DictReader(csv_of(board).splitlines())
    records = {r["method"]: r for r in records if r["target"] == "mean" and r["p"]}
    floored = 0
    for name, line in lines_of(section).items():
        if (d := line["difference"]) is None:
            continue
        floored += d["p"] != pytest.approx(own["mae" + name])
        cell, pair = cells_[name], pairs[frozenset((name, "mae"))]
        for field in ("value", "lo", "hi", "se"):
            suffix = "" if field == "value" else f"_{field}"
            assert cell[f"difference{suffix}"] == d[field]
        assert (cell["p"], cell["resolvable"]) == (d["p"], d["resolvable"])
        assert (pair["p"], pair["p_holm"], pair["se"]) == (d["p"], d["p_holm"], d["se"])
        for field in ("p", "p_holm", "resolvable"):
            assert float(records[name][field]) == d[field]
    assert floored, "or the test says nothing"


def test_outside_the_boards_too_two_methods_are_compared_as_on_them():
    files = files_of(*EVERYBODY, uses_labels=("eccl", "dual-phase"), replicates=2)
    board = document(files, INFO, None)
    section = board["sections"][0]
    compared = Compared(files, INFO)
    place = {line["method"]: line for line in section["lines"]}

    def line(name):
        return Line(Expected(name=name), place[name]["head"], place[name]["modality"], None)

    what = ("mean", "AUROC", 1.0)
    changed = 0
    for pair in section["pairs"]:
        a, b = line(pair["a"]), line(pair["b"])
        there, back = compared.tested(a, b, what), compared.tested(b, a, what)
        assert (there.value, there.p) == (-back.value, back.p)
        assert there.p == pytest.approx(pair["p"], rel=1e-5)
        own = compared.difference(a, b, what).p
        if "permuted" in (pair["a"], pair["b"]):
            assert there.p == own, "a control is not like the others"
        elif pair["p_holm"] is None:
            changed += there.p != own
    assert changed, "differences to a reference are tested alike"
    # A target's column too, from either side.
    cell = next(c for c in section["cells"] if (c["method"], c["target"]) == ("ptacl", TARGETS[0]))
    what = (TARGETS[0], "AUROC", 1.0)
    for pair in (("ptacl", "mae"), ("mae", "ptacl")):
        assert compared.tested(*map(line, pair), what).p == pytest.approx(cell["p"], rel=1e-5)
    # What stands in no section has been compared all the same, or has not.
    nobody = Line(Expected(name="nobody"), "linear", "ecg", None)
    assert compared.tested(line("mae"), nobody, what) is None


@pytest.mark.parametrize("replicates", [1, 2])
def test_the_box_says_how_few_replicates_are_made_to_do(replicates):
    text = markdown(document(files_of("mae", "mmcl", replicates=replicates), INFO, None))
    assert ("- Between replicates: " in text) == (replicates > 1)


def test_a_family_that_learns_labels_is_secondary_in_every_rendering():
    board = document(files_of(*EVERYBODY, uses_labels=("eccl", "dual-phase")), INFO, None)
    families = board["plan"]["families"]
    assert {(f["block"], f["primary"]) for f in families} == {
        ("label-free", True),
        ("label-using", False),
    }
    text = markdown(board)
    assert "### Ranked: representations learned without labels (primary family)" in text
    assert "### Ranked: representations learned with labels (secondary family)" in text
    said = "primary, 3 label-free methods, 3 pairs; secondary, 2 label-using methods and mae, 3"
    assert said in text
    records = csv.DictReader(csv_of(board).splitlines())
    of = {r["method"]: r["family"] for r in records if r["digest"]}
    assert (of["ptacl"], of["eccl"], of["permuted"]) == ("primary", "secondary", "")
    view = view_of(board, board["sections"][0])
    assert [heading for heading, _ in view.blocks] == [
        "Ranked: learned without labels (primary family)",
        "Ranked: learned with labels (secondary family)",
        "References and controls, not ranked",
    ]
    secondary = document(files_of(*EVERYBODY), dataclasses.replace(INFO, confirmatory=False), None)
    assert "primary" not in str(secondary["sections"][0]["families"]).replace(
        "'primary': False", ""
    )


def test_methods_that_learn_labels_take_nothing_from_those_that_do_not():
    alone = first_section(files_of("mae", "mmcl", "ptacl", "permuted"))
    beside = first_section(files_of(*EVERYBODY, uses_labels=("eccl", "dual-phase")))
    assert p_holm(alone).items() <= p_holm(beside).items()

    def q(section):
        return {(c["method"], c["target"]): c["q"] for c in section["cells"] if c["q"] is not None}

    assert len(q(alone)) == 4
    assert q(alone).items() <= q(beside).items()
    for name in ("mae", "mmcl", "ptacl"):
        assert lines_of(alone)[name]["rank"] == lines_of(beside)[name]["rank"]


def column_p(i):
    """The p of each ranked method against the reference in one target, which share a variance."""
    entries = {
        (m, "mae"): SimpleNamespace(**versus_of(cells(m)[i], cells("mae")[i]))
        for m in ("ptacl", "mmcl")
    }
    tested = zip(entries.items(), family_variances(entries), strict=True)
    return {m: difference_test(x.difference, *variance)[2] for ((m, _), x), variance in tested}


def test_per_target_differences_have_one_false_discovery_rate(rows, tmp_path):
    files = read_rows(rows)
    section = first_section(files)
    tested = [(m, i) for m in ("ptacl", "mmcl") for i in range(len(TARGETS))]
    p = [column_p(i)[m] for m, i in tested]
    want = dict(zip(tested, stats.false_discovery_control(p), strict=True))
    found = {(c["method"], c["target"]): c for c in section["cells"] if c["target"] in TARGETS}
    for (method, i), q in want.items():
        assert found[method, TARGETS[i]]["q"] == pytest.approx(q, rel=1e-5)
    for method in ("mae", "supervised", "tabular"):
        assert found[method, "CAD"]["q"] is None
    text = markdown(document(files, INFO, None))
    table = text[text.index("Difference to mae") :]
    assert [cell.endswith(" ·") for cell in line_of(table, "ptacl")[1:]] == [True, True]
    marked = [want["mmcl", i] <= 0.05 for i in range(2)]
    assert [cell.endswith(" ·") for cell in line_of(table, "mmcl")[1:]] == marked
    assert False in marked
    with pytest.raises(AssertionError):
        line_of(table[: table.index("Provenance")], "supervised")
    resolves = [found["ptacl", t]["resolvable"] for t in TARGETS]
    resolves = zip(resolves, [found["mmcl", t]["resolvable"] for t in TARGETS], strict=True)
    header = line_of(table, "*resolves (median)*")[1:]
    assert [float(x) for x in header] == pytest.approx([np.mean(r) for r in resolves], abs=1e-3)


def test_encoders_of_images_get_a_section_where_they_were_run():
    cmr = {"modality": "cmr"}
    own = {name: cells(name, **cmr) for name in ("mmcl", "ptacl", "cmr-mae")}
    files = files_of("mae", "mmcl", "ptacl")
    add(files[1], file_of("mmcl", own["mmcl"]))
    add(files[2], file_of("ptacl", own["ptacl"], own["mmcl"], own["cmr-mae"]))
    files.append(file_of("cmr-mae", own["cmr-mae"], own["mmcl"], role="reference"))
    info = dataclasses.replace(INFO, reference={"ecg": "mae", "cmr": "cmr-mae"})
    found = document(files, info, None)["sections"]
    assert [(s["modality"], s["primary"]) for s in found if s["fraction"] == 1.0] == [
        ("ecg", True),
        ("cmr", False),
    ]
    lines = lines_of(next(s for s in found if s["modality"] == "cmr"))
    assert set(lines) == {"mmcl", "ptacl", "cmr-mae"}
    assert lines["ptacl"]["difference"] is not None
    assert lines["cmr-mae"]["block"] == "unranked"


def test_only_tasks_fixed_in_advance_have_primary_families(rows):
    files = read_rows(rows)
    assert first_section(files)["primary"]
    info = dataclasses.replace(INFO, confirmatory=False)
    assert not first_section(files, info)["primary"]
    assert "Secondary endpoint: mean AUROC" in markdown(document(files, info, None))


def test_the_plan_is_fixed_before_any_result(rows):
    files = read_rows(rows)
    digest = plan(INFO)["digest"]
    assert document(files, INFO, None)["plan"]["digest"] == digest
    assert document([], INFO, None)["plan"]["digest"] == digest
    assert short(digest) in markdown(document(files, INFO, None))
    for change in (
        {"reference": {"ecg": "mmcl"}},
        {"primary": {"ecg": "R2"}},
        {"fractions": (1.0,)},
        {"methods": INFO.methods[:-3]},
        {"goal": {}},
        {"confirmatory": False},
    ):
        assert plan(dataclasses.replace(INFO, **change))["digest"] != digest
    assert plan(dataclasses.replace(INFO, methods=INFO.methods[::-1]))["digest"] == digest


# ------------------------------------------------------------------------------- effect sizes


def test_gap_closed_is_of_exactly_these_rows():
    mae, goal = cells("mae"), cells("cmr-supervised", **KINDS["cmr-supervised"])
    own = cells("ptacl")
    files = [
        file_of("mae", mae),
        file_of("ptacl", own, mae, goal, reference=mae, goal=goal),
        file_of("cmr-supervised", goal, mae, role="reference"),
    ]
    section = first_section(files)
    gap = lines_of(section)["ptacl"]["gap_closed"]
    entry = files[1]["gaps"][0]
    assert [gap[n] for n in ("value", "lo", "hi")] == pytest.approx(
        [entry[n] for n in ("value", "lo", "hi")], rel=1e-5
    )
    assert lines_of(section)["mae"]["gap_closed"] is None
    text = markdown(document(files, INFO, None))
    assert f"{100 * entry['value']:.0f}% [" in line_of(text, "ptacl")[6]
    assert "Gap closed: share of the way from the reference to cmr-supervised" in text
    # The goal was trained anew since.
    again = cells("cmr-supervised", recipe="b", **KINDS["cmr-supervised"])
    files[2] = file_of("cmr-supervised", again, mae, role="reference")
    assert lines_of(first_section(files))["ptacl"]["gap_closed"] is None
    assert "gap closed" not in markdown(document(files, INFO, None))


def test_labels_needed_are_read_off_the_curve_of_the_reference():
    info = dataclasses.replace(INFO, fractions=(1.0, 0.1, 0.01))
    curve = {1.0: 1.2, 0.1: 0.8, 0.01: 0.4}
    mae = [c for f, skill in curve.items() for c in cells("mae", fraction=f, skill=skill)]
    better, middle = cells("ptacl", fraction=0.1), cells("mmcl", fraction=0.1, skill=1.0)
    worse = cells("newcomer", fraction=0.1, skill=0.1)
    files = [
        file_of("mae", mae),
        file_of("ptacl", better, mae),
        file_of("mmcl", middle, mae),
        file_of("newcomer", worse, mae),
    ]
    section = document(files, info, None)["sections"][1]
    factors = {name: line["label_factor"] for name, line in lines_of(section).items()}
    assert factors["mae"] is None
    assert factors["ptacl"] == {"fraction": 1.0, "bound": ">"}
    assert factors["newcomer"] == {"fraction": 0.01, "bound": "<"}
    values = [row["result"]["value"] for row in files[0]["rows"] if row["target"] == "mean"]
    score = row_of(middle[-1])["result"]["value"]
    share = (score - values[1]) / (values[0] - values[1])
    assert 0 < share < 1
    assert factors["mmcl"]["fraction"] == pytest.approx(10 ** (share - 1), rel=1e-4)
    text = markdown(document(files, info, None))
    assert line_of(text, "ptacl", after="10% of labels, ")[6] == ">100%"
    assert line_of(text, "newcomer", after="10% of labels, ")[6] == "<1%"
    # A mean over other targets is another quantity, and no point of the curve.
    for row in files[0]["rows"]:
        if row["fraction"] != 0.1 and row["target"] == "mean":
            row["result"]["targets"] = ["CAD"]
    lines = lines_of(document(files, info, None)["sections"][1])
    assert all(line["label_factor"] is None for line in lines.values())


# ----------------------------------------------------------------------------- minimum numbers


def test_one_replicate_is_marked_one_checkpoint(tmp_path):
    mae, ptacl = (cells(m, replicates=1) for m in ("mae", "ptacl"))
    write_rows(tmp_path / "rows", file_of("mae", mae))
    write_rows(tmp_path / "rows", file_of("ptacl", ptacl, mae))
    text, _ = board(tmp_path / "rows", tmp_path / "boards")
    assert "cover the test people only: every row is one checkpoint" in text
    assert line_of(text, "ptacl", after="Provenance")[1] == "1 (one checkpoint)"
    assert "holds for the trained checkpoints, not for the methods (5 are the standard)" in text


@pytest.mark.parametrize(
    ("replicates", "says"),
    [
        (2, "Replicates: 2, intervals are allowed and wide (5 are the standard)."),
        (3, "Replicates: 3, enough to compare (5 are the standard)."),
        (5, "Replicates: 5, the standard."),
    ],
)
def test_what_a_number_of_replicates_is_worth(replicates, says):
    files = [file_of("mae", cells("mae", replicates=replicates))]
    reading = document(files, INFO, None)["reading"]
    assert says in reading
    few = document(files, dataclasses.replace(INFO, fractions=(1.0, 0.01)), None)["reading"]
    assert any("10 at 1% of labels" in line for line in few)


def test_targets_with_few_positives_are_marked():
    counts = {"CAD": 9, "AF": 49}
    files = []
    for name in ("mae", "ptacl"):
        own = [
            dataclasses.replace(c, positives=counts.get(c.target, c.positives)) for c in cells(name)
        ]
        others = [cells("mae")] if name != "mae" else []
        files.append(file_of(name, own, *others))
    text = markdown(document(files, INFO, None))
    table = text[text.index("AUROC per target") :]
    assert line_of(table, "*positives*")[1:] == ["9 (too few)", "49 (underpowered)"]
    assert line_of(table, "*n*")[1:] == [str(N)] * 2
    shown = line_of(table, "ptacl")
    assert "[" not in shown[1]
    assert "[" in shown[2]
    assert "CAD 9 (too few), AF 49 (underpowered)" in text
    # As many as a cell must have to be scored.
    assert [positives_text(n) for n in (19, 20)] == ["19 (too few)", "20 (underpowered)"]
    enough = markdown(document(files_of("mae", "ptacl"), INFO, None))
    assert "(underpowered)" not in enough


def test_the_resolvable_difference_is_printed(rows, tmp_path):
    text, _ = board(rows, tmp_path / "boards")
    lines = lines_of(first_section(read_rows(rows)))
    found = sorted(lines[name]["difference"]["resolvable"] for name in ("mmcl", "ptacl"))
    assert "The tests against mae resolve true differences of" in text
    assert line_of(text, "ptacl", after="Provenance")[3][:4] in {f"{x:.3f}"[:4] for x in found}
    # Read back from its definition: 80% power at the two-sided 5% level.
    v, nu = endpoint_family()[1]["ptacl", "mae"]
    want = (stats.t.ppf(0.975, nu) + stats.t.ppf(0.8, nu)) * np.sqrt(v)
    assert lines["ptacl"]["difference"]["resolvable"] == pytest.approx(want, rel=1e-5)


# ------------------------------------------------------------------------- targets, diagnostics


def test_many_targets_are_shown_as_groups():
    many = tuple(f"T{i}" for i in range(20))
    info = dataclasses.replace(INFO, groups={"LV": many[:8], "RV": many[8:]})
    done, files = {}, []
    for name in ("mae", "ptacl"):
        own = cells(name, targets=many)
        groups = [
            dataclasses.replace(own[-1], target=f"mean of {group}", targets=members)
            for group, members in info.groups.items()
        ]
        done[name] = [*own, *groups]
        files.append(file_of(name, done[name], *(done[m] for m in done if m != name)))
    board = document(files, info, None)
    text = markdown(board)
    assert "T1" not in text
    assert "Positives among the test people: no target has few." in text
    assert "AUROC of each of the 20 targets: in the CSV and JSON files." in text
    assert "over all 20 targets" in text
    table = text[text.index("Mean AUROC over groups of targets") :]
    assert line_of(table, "LV") == ["method", "LV", "RV"]
    assert line_of(table, "ptacl")[1].startswith("0.")
    in_csv = {r["target"] for r in csv.DictReader(csv_of(board).splitlines())}
    assert in_csv == {*many, "mean", "mean of LV", "mean of RV"}
    # Means over groups repeat their targets: they are no part of the family of targets.
    q = {c["target"]: c["q"] for c in board["sections"][0]["cells"] if c["method"] == "ptacl"}
    alone = document([file_of(n, cells(n, targets=many)) for n in done], INFO, None)
    assert {c["target"] for c in alone["sections"][0]["cells"]} == {*many, "mean"}
    p = [versus_of(a, b)["p"] for a, b in zip(done["ptacl"][:20], done["mae"][:20], strict=True)]
    want = dict(zip(many, stats.false_discovery_control(p), strict=True))
    assert {t: q[t] for t in many} == pytest.approx(want, rel=1e-5)


def test_a_diagnostic_ranks_nobody():
    info = dataclasses.replace(
        INFO,
        name="cvd",
        kind="diagnostic",
        primary={},
        reference={},
        goal={},
        metrics=("NMSE", "AUROC"),
        heads=("none",),
        fractions=(1.0,),
        methods=tuple(
            dataclasses.replace(m, places=frozenset({("ecg", 1.0)})) for m in INFO.methods
        ),
    )
    files = []
    for name in ("mae", "ptacl", "supervised"):
        own = [
            dataclasses.replace(c, metric="NMSE", higher_is_better=False, chance=1.0)
            for c in cells(name, head="none")
        ]
        files.append(file_of(name, own, role=ROLES.get(name, "ranked")))
    board = document(files, info, None)
    (section,) = board["sections"]
    assert (section["metric"], section["chance"], section["families"]) == ("NMSE", 1.0, {})
    assert section["pairs"] == []
    for line in section["lines"]:
        assert line["rank"] is line["letters"] is line["difference"] is None
    text = markdown(board)
    assert "nobody is ranked or tested" in text
    for word in ("Holm", "Ranked:", "| rank", "Families", "p (", "Resolves:"):
        assert word not in text
    assert line_of(text, "mae")[0] == "mae"
    assert text.index("| mae") < text.index("| ptacl"), "the smaller error first"
    assert SKILL["mae"] < SKILL["ptacl"]
