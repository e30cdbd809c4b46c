import base64
import copy
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pages
import pytest

from benchmark.reports.boards import document, short
from benchmark.reports.boards.cost import costs
from benchmark.reports.page import cost_page, page
from benchmark.reports.page.beside import beside
from benchmark.reports.page.curves import low_data_curves
from benchmark.reports.page.figures import Axis, Mark, Point, agreement, forest
from benchmark.reports.page.views import view_of
from benchmark.reports.published import Line, Remark, Table

NASTY = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


class Rows(HTMLParser):
    """Text of every table row of a page by the keys of its block, cells with their classes."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.block, self._cell = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "section":
            self.block = {k[5:]: v for k, v in attrs.items() if k.startswith("data-")}
        elif tag == "tr":
            self.rows.append((self.block, attrs.get("class", ""), []))
        elif tag in ("td", "th"):
            self._cell = [attrs.get("class", ""), ""]
            self.rows[-1][2].append(self._cell)

    def handle_endtag(self, tag):
        if tag in ("table", "section"):
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell[1] += data

    def of(self, method, **where):
        """Main table's row of a method."""
        for block, _, cells in self.rows:
            named = dict(cells)
            if where.items() <= block.items() and named.get("method", "").split()[:1] == [method]:
                return {name: text.strip() for name, text in named.items()}
        raise AssertionError(f"no row of {method}")


@pytest.fixture(scope="module")
def files():
    return pages.files_of()


@pytest.fixture(scope="module")
def board(files):
    return document(files, pages.info_of(files), None)


@pytest.fixture(scope="module")
def text(board):
    return page([board], {})


def section_of(board, fraction):
    return next(s for s in board["sections"] if s["fraction"] == fraction)


def test_every_section_shows_every_line_of_its_document(board, text):
    rows = Rows(text)
    for section in board["sections"]:
        assert section["lines"]
        for line in section["lines"]:
            shown = rows.of(line["method"], fraction=f"{section['fraction']:g}")
            assert float(shown["value"].split()[0]) == pytest.approx(line["value"], abs=1e-3)
            assert shown["digest"].replace("-", "") == line["digest"].replace("-", "")[:12]
            if line["rank"]:
                lo, hi = line["rank"]
                assert shown["rank"] == (str(lo) if lo == hi else f"{lo}-{hi}")


def test_equal_documents_give_equal_bytes(board, text, files):
    again = document(files[::-1], pages.info_of(files), None)
    assert page([json.loads(json.dumps(board))], {}) == page([again], {}) == text


def test_blocks_stand_apart_and_in_order(text):
    rows = Rows(text)
    at = {"task": "toy", "modality": "ecg", "fraction": "1", "head": "linear"}
    kinds = [
        dict(cells).get("method", "").split()[:1] or ["#"]
        for block, _, cells in rows.rows
        if block == at and ("method" in dict(cells) or len(cells) == 1)
    ]
    names = [kind[0] for kind in kinds][1:]  # below the column heads
    parts = " ".join(names).split("#")
    members = [set(part.split()) for part in parts[1:]]
    assert members == [set(pages.METHODS), set(pages.LABELLED), set(pages.REFERENCES)]


def test_winners_are_a_set_by_letter_and_nobody_is_set_in_bold_for_a_value(board, text):
    rows = Rows(text)
    for section in board["sections"]:
        fraction = f"{section['fraction']:g}"
        expected = {x["method"] for x in section["lines"] if "a" in (x["letters"] or "")}
        top = {
            dict(cells)["method"].split()[0]
            for block, kind, cells in rows.rows
            if block.get("fraction") == fraction and kind == "top"
        }
        assert top == expected
        assert "better" in expected
        assert "worse" not in expected
    assert "<b>" not in text


def test_the_matrix_is_row_minus_column_with_a_dot_for_a_small_adjusted_p(board):
    section = section_of(board, 1.0)
    matrix = view_of(board, section).matrix
    found = {
        (a, b): cell
        for a, cells in matrix.rows
        for b, (cell, _) in zip(matrix.columns, cells, strict=True)
        if cell
    }
    shades = {
        (a, b): shade
        for a, cells in matrix.rows
        for b, (_, shade) in zip(matrix.columns, cells, strict=True)
    }
    assert len(found) == len(section["pairs"])
    for pair in section["pairs"]:
        key, sign = (pair["a"], pair["b"]), 1
        if key not in found:
            key, sign = key[::-1], -1
        number = int(re.search(r"-?\d+", found[key].replace("+", ""))[0])
        assert number == pytest.approx(1000 * sign * pair["difference"], abs=0.5)
        assert found[key].endswith("•") == (pair["p_holm"] is not None and pair["p_holm"] <= 0.05)
        assert found[key].startswith("(") == (pair["p_holm"] is None)
        assert abs(shades[key]) == sum(abs(pair["difference"]) >= x for x in (0.01, 0.03, 0.1))
        assert shades[key] * sign * pair["difference"] >= 0
    assert found["better", "worse"].endswith("•")


def test_cells_per_target_are_differences_and_the_reference_shows_its_values(board):
    section = section_of(board, 0.1)
    heat = view_of(board, section).heat
    rows = dict(heat.rows)
    assert list(heat.columns) == list(pages.TARGETS)
    dots = 0
    for cell in section["cells"]:
        if cell["metric"] != "R2" or cell["target"] == "mean":
            continue
        shown, _ = rows[cell["method"]][heat.columns.index(cell["target"])]
        if cell["method"] == "mae":
            assert float(shown) == pytest.approx(cell["value"], abs=5e-4)
            continue
        assert int(shown.strip("•+")) == pytest.approx(1000 * cell["difference"], abs=0.5)
        significant = cell["q"] is not None and cell["q"] <= 0.05
        assert shown.endswith("•") == significant
        dots += significant
    assert dots
    facts = dict(heat.facts)
    assert facts["n"] == ["120"] * 3
    assert all(float(x) > 0 for x in facts["resolves"])


def test_where_less_is_better_blue_still_means_better(files):
    files = copy.deepcopy(files)
    for file in files:
        for row in file["rows"]:
            row["result"]["higher_is_better"] = False
    board = document(files, pages.info_of(files), None)
    section = section_of(board, 1.0)
    view = view_of(board, section)
    assert section["lines"][0]["method"] == "worse"  # by value, ascending
    shade = dict(view.heat.rows)["worse"][0]
    assert shade[0].startswith("-")
    assert shade[1] > 0
    assert dict(view.matrix.rows)["worse"][-1][1] > 0
    assert "aria-sort=ascending" in page([board], {})


def test_a_small_sample_of_replicates_is_said_loudly():
    one = page([pages.board(replicates=1, fractions=(1.0,))], {})
    assert "<strong>One checkpoint:</strong>" in one
    three = page([pages.board(fractions=(1.0,))], {})
    assert "<strong>One checkpoint" not in three


def test_the_reader_is_told_what_the_board_tells(board):
    section = section_of(board, 1.0)
    reader = view_of(board, section).reader
    assert {line.replace("·", "•") for line in board["reading"]} <= set(reader)
    assert any("mean R2 over one, two, three" in line for line in reader)
    assert any("4 label-free methods (6 of 6 pairs compared)" in line for line in reader)


def test_rows_of_another_version_and_doubtful_searches_are_told(files):
    files = copy.deepcopy(files)
    for file in files:
        for row in file["rows"]:
            row["result"]["ties"] = 7
            if file["method"] == "worse":
                row["result"]["task_version"] = 9
    board = document(files, pages.info_of(files), None)
    view = view_of(board, section_of(board, 0.1))
    (apart,) = view.apart
    assert apart.startswith("worse (linear head) 0.")
    assert "task version 9" in apart
    assert "better: 5.8%" in view.warnings[0]
    assert apart in page([board], {})
    assert view.warnings[0] in page([board], {})


def test_leaks_are_shown_on_every_view_of_their_board(board, text):
    assert "exceed the ceiling" not in text
    leaking = board | {"leaks": ["mae (ECG): too good"], "leak_cells": 9}
    shown = page([leaking], {})
    assert shown.count("<li>mae (ECG): too good") == len(board["sections"])
    assert "1 of 9 cells exceed the ceiling" in shown
    checked = view_of(board | {"leak_cells": 9}, section_of(board, 1.0)).reader
    assert any("none of the 9 cells exceeds" in line for line in checked)


def test_effect_sizes_are_shown_where_there_are_any(board, text):
    assert "gap closed" not in text
    board = copy.deepcopy(board)
    line = next(x for x in section_of(board, 1.0)["lines"] if x["method"] == "better")
    line["gap_closed"] = {"value": 0.583, "lo": 0.2, "hi": 0.961}
    line["label_factor"] = {"fraction": 1.0, "bound": ">"}
    line["share_of_ceiling"] = 0.75
    rows = Rows(page([board], {}))
    shown = rows.of("better", fraction="1")
    assert (shown["gap"], shown["label"]) == ("58% [20%, 96%]", ">100%")
    assert shown["share"] == "75%"
    assert rows.of("mae", fraction="1")["gap"] == "-"
    assert "gap" not in rows.of("better", fraction="0.1")


def test_diagnostics_are_shown_without_ranks():
    changes = {"kind": "diagnostic", "primary": {}, "reference": {}}
    board = pages.board(changes=changes, fractions=(1.0,))
    view = view_of(board, board["sections"][0])
    shown = [key for key, _ in view.columns]
    assert "value" in shown
    assert not {"rank", "letters", "p", "difference"} & set(shown)
    assert view.matrix is None
    assert view.winners == ""
    rows = dict(view.heat.rows)
    assert rows["mae"][0][1] is None
    assert "Ranked" not in page([board], {}).split("<main")[1]


def test_boards_of_other_people_are_told_apart(board):
    old = board | {"task": "old", "fingerprint": "f" * 64}
    assert "Not the same people" not in page([board, board | {"task": "also"}], {})
    text = page([board, old], {})
    assert "Not the same people: fingerprints" in text
    for of in (board, old):
        assert f"{short(of['fingerprint'])} ({of['task']})" in text


def test_tasks_with_nothing_run_are_left_out(files):
    nothing = document([], pages.info_of(files), None)
    assert "nothing run yet" in page([nothing], {})
    assert "<section" not in page([nothing], {})


# ----------------------------------------------------------------------------- over targets

MANY = tuple(f"t{i}" for i in range(10))


@pytest.fixture(scope="module")
def wide():
    """A board of ten targets in groups of eight and two."""
    groups = {"large": MANY[:8], "small": MANY[8:]}
    return pages.board(targets=MANY, fractions=(1.0,), changes={"groups": groups})


def test_wins_are_counted_over_targets(wide, board):
    (section,) = wide["sections"]
    found = view_of(wide, section).wins
    values = {
        (c["method"], c["target"]): c["value"] for c in section["cells"] if c["metric"] == "R2"
    }
    names = [*pages.METHODS, *pages.LABELLED]
    assert {*found.columns, found.rows[0][0]} == set(names), "references are left out"
    seen = 0
    for a, cells in found.rows:
        for b, (shown, shade) in zip(found.columns, cells, strict=True):
            if shown:
                count = sum(values[a, t] > values[b, t] for t in MANY)
                assert float(shown) == count
                assert (shade > 0) == (count >= 7.5)
                assert (shade < 0) == (count <= 2.5)
                seen += 1
    assert seen == len(names) * (len(names) - 1) / 2
    assert view_of(board, section_of(board, 1.0)).wins is None, "three targets are too few"


def test_mean_ranks_weigh_groups_and_not_targets(wide, board):
    (section,) = wide["sections"]
    ((heading, figure),) = view_of(wide, section).ranks  # one labelled method has no rank
    assert heading == "learned without labels"
    values = {
        (c["method"], c["target"]): c["value"] for c in section["cells"] if c["metric"] == "R2"
    }

    def rank(method, target):
        return 1 + sum(values[m, target] > values[method, target] for m in pages.METHODS)

    def mean(method):
        parts = (MANY[:8], MANY[8:])
        return np.mean([np.mean([rank(method, t) for t in part]) for part in parts])

    expected = sorted(map(mean, pages.METHODS))
    root = svg(figure)
    drawn = xs(root, "value label-free")
    scale = (drawn[-1] - drawn[0]) / (expected[-1] - expected[0])
    assert drawn == pytest.approx([drawn[0] + scale * (e - expected[0]) for e in expected], abs=0.2)
    names = [t.text for t in root.iter("text") if t.get("class") == "name"]
    assert names[: len(pages.METHODS)] == sorted(pages.METHODS, key=mean)
    bars = [x["letters"] for x in section["lines"] if x["block"] == "label-free"]
    shared = {letter for own in bars for letter in own if sum(letter in b for b in bars) > 1}
    assert names[len(pages.METHODS) :] == sorted(shared)
    assert view_of(board, section_of(board, 1.0)).ranks == []


# ----------------------------------------------------------------------------- a foreign name


def test_a_name_is_never_markup():
    files = pages.files_of(methods={"mae": 0.0, NASTY: 0.1}, fractions=(1.0, 0.1))
    board = document(files, pages.info_of(files), None)
    own = cost_page([board], costs(files))
    for text in (page([board], {}), own):
        assert text.count("<script>") == 1
        assert "<img" not in text
        assert "&lt;script&gt;alert(1)" in text


def test_the_policy_allows_the_page_s_own_script_and_nothing_else(text):
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert "innerHTML" not in script


def test_the_page_loads_nothing_and_holds_nothing_like_an_id(text):
    assert not re.search(r"https?:|//[a-z]|\bsrc=|url\(|@import|<link|<iframe|<object", text)
    assert not re.search(r"(?<!\d)[1-6]\d{6}(?!\d)", text)


def contrast(one, other):
    """Ratio of WCAG 2.1 between two colours as ``#rrggbb`` or ``#rgb``."""
    lights = []
    for colour in (one, other):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        lights.append(np.dot([0.2126, 0.7152, 0.0722], linear) + 0.05)
    return max(lights) / min(lights)


def test_colours_have_the_contrast_that_reading_needs(text):
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    schemes = re.findall(r":root\{(.*?)\}", style, re.DOTALL)
    assert len(schemes) == 3  # light, dark, print
    light = dict(re.findall(r"--([\w-]+):(#\w+)", schemes[0]))
    for scheme in schemes:
        colour = light | dict(re.findall(r"--([\w-]+):(#\w+)", scheme))
        grounds = ("bg", "soft", "top", "warn", "alarm", "p1", "p2", "p3", "n1", "n2", "n3")
        pairs = [("ink", ground) for ground in grounds] + [("on-accent", "accent")]
        pairs += [("muted", ground) for ground in ("bg", "soft", "top")] + [("accent", "bg")]
        figures = ("curve", "other", "chance", "ceiling", "top-line")
        for front, ground in pairs:
            assert contrast(colour[front], colour[ground]) >= 4.5, (front, ground)
        for front in figures:
            assert contrast(colour[front], colour["bg"]) >= 3, front
    assert contrast("#000", "#ffffff") == pytest.approx(21)


# ----------------------------------------------------------------------------- figures


def svg(markup):
    return ElementTree.fromstring(str(markup))


def xs(root, kind):
    """Where each mark of a kind starts, in thousandths of the plot."""
    paths = [p.get("d") for p in root.iter("path") if p.get("class") == kind]
    return [float(x) for d in paths for x in re.findall(r"M([\d.]+) ", d)]


def test_a_forest_plot_puts_every_mark_where_it_belongs():
    marks = [
        Mark("a", "label-free", 0.6, 0.5, 0.7, (0.55, 0.65)),
        Mark("b", "label-free", 0.5, 0.4, 0.6, (0.5, 0.5)),
    ]
    root = svg(forest({"Ranked": marks}, [("chance", 0.3, "chance"), ("top", 0.9, "ceiling")], "t"))
    values, intervals = xs(root, "value label-free"), xs(root, "interval label-free")
    (chance,), (ceiling,) = xs(root, "chance"), xs(root, "ceiling")

    def value(x):  # two known levels give the scale
        return 0.3 + 0.6 * (x - chance) / (ceiling - chance)

    assert list(map(value, values)) == pytest.approx([0.6, 0.5], abs=1e-3)
    assert list(map(value, intervals)) == pytest.approx([0.5, 0.4], abs=1e-3)
    found = list(map(value, xs(root, "replicate")))
    assert found == pytest.approx([0.55, 0.65, 0.5, 0.5], abs=1e-3)
    assert [t.text for t in root.iter("text") if t.get("class") == "name"] == ["a", "b"]


def test_published_and_ours_are_drawn_on_the_line_where_they_are_equal():
    points = [Point(0.2, 0.1, 0.2, 0.1, 0.4), Point(0.6, None, 0.5, None, None)]
    root = svg(agreement(points, "t"))
    (path,) = (p.get("d") for p in root.iter("path") if p.get("class") == "equal")
    x0, y0, x1, y1 = map(float, re.findall(r"[\d.]+", path))
    (marks,) = (p.get("d") for p in root.iter("path") if p.get("class") == "value")
    (ax, ay), (bx, by) = (map(float, re.findall(r"[\d.]+", m)[:2]) for m in marks.split("M")[1:])
    slope = (y1 - y0) / (x1 - x0)
    assert ay == pytest.approx(y0 + slope * (ax - x0), abs=0.2)
    assert by > y0 + slope * (bx - x0), "below the line: ours is smaller"
    (bars,) = (p.get("d") for p in root.iter("path") if p.get("class") == "interval")
    assert bars.count("M") == 2, "only the first has intervals"


def test_one_replicate_is_not_drawn_twice_and_a_missing_interval_not_at_all():
    root = svg(forest({"R": [Mark("a", "unranked", 0.6, replicates=(0.6,))]}, [], "t"))
    assert xs(root, "replicate") == []
    assert xs(root, "interval unranked") == []
    assert len(xs(root, "value unranked")) == 1


def test_chance_and_ceilings_are_lines_of_the_forest_plot():
    files = pages.files_of(fractions=(1.0,))
    info = pages.info_of(files, ceilings=True)
    oracle = {"status": "ok", "value": 0.8, "lo": 0.7, "hi": 0.9, "se": 0.05, "chance": 0.3}
    where = {"modality": "ecg", "target": "mean", "metric": "R2", "targets": list(pages.TARGETS)}
    other = where | {"targets": ["one"]}
    ceilings = {
        "cohort_fingerprint": info.fingerprint or pages.hexdigest("cohort"),
        "tasks": {
            "toy": {
                "version": 1,
                "people": 10,
                "endpoint": list(pages.TARGETS),
                "ceilings": [
                    {**oracle, **where, "digest": "d"},
                    {**oracle, **other, "digest": "e", "value": 0.9},
                ],
            }
        },
    }
    board = document(files, info, ceilings)
    labels = [t.text for t in svg(view_of(board, board["sections"][0]).forest).iter("text")]
    assert "chance 0.3" in labels
    assert "ceiling of the ECG 0.8" in labels
    assert not any("0.9" in label for label in labels if "ceiling" in label)  # other targets' mean


@pytest.mark.parametrize("values", [[0.5, 0.51], [-3, 40], [0.2], [0.0, 0.0], [1e-4, 2e-4]])
def test_axes_are_labelled_inside_their_range(values):
    axis = Axis.over(values)
    assert axis.lo < min(values) <= max(values) < axis.hi
    assert 1 <= len(axis.ticks) <= 7
    for at, label in axis.ticks:
        assert axis.lo <= at <= axis.hi
        assert float(label) == pytest.approx(at, abs=1e-9)


def test_low_data_curves_join_the_fractions_of_a_method(board):
    (panels,) = low_data_curves(board)
    assert panels.where == {"task": "toy", "modality": "ecg", "head": "linear"}
    names = [name for name, _ in panels.panels]
    assert names == [x["method"] for x in section_of(board, 1.0)["lines"]]
    roots = {name: svg(markup) for name, markup in panels.panels}
    kinds = [path.get("class") for path in roots["better"].iter("path")]
    assert kinds.count("thin") == 1
    assert {"curve", "band", "chance", "other", "value"} <= set(kinds)
    assert "other" not in [path.get("class") for path in roots["mae"].iter("path")]
    assert len(xs(roots["better"], "value")) == 3
    assert len(xs(roots["better"], "thin")) == 3  # one line per replicate
    assert list(low_data_curves(pages.board(fractions=(1.0,)))) == []
    # Nobody run at all labels.
    few = pages.board(fractions=(0.1, 0.01), changes={"fractions": (1.0, 0.1, 0.01)})
    assert few["sections"][0]["fraction"] == 1.0
    (panels,) = low_data_curves(few)
    assert {len(xs(svg(markup), "value")) for _, markup in panels.panels} == {2}
    assert "Left out" not in panels.text


def test_a_mean_over_fewer_targets_is_no_point_of_a_curve(board):
    board = copy.deepcopy(board)
    section_of(board, 0.01)["endpoint"] = ["one"]
    (panels,) = low_data_curves(board)
    assert "Left out: 1% of labels, where the mean is over one." in panels.text
    assert {len(xs(svg(markup), "value")) for _, markup in panels.panels} == {2}


def test_precision_at_several_cut_offs_becomes_a_figure_with_its_random_line():
    metrics = ("P@10", "P@1", "P@3", "P@1+self", "MnR")
    board = pages.board(metrics=metrics, fractions=(1.0,), head="none")
    text = page([board], {})
    assert text.count("P@k against k") == 1
    panels = text.split("P@k against k")[1]
    assert panels.count("<figure>") == len(board["sections"][0]["lines"])
    assert "the exact expectation of chance" in panels
    chance = {c["chance"] for c in board["sections"][0]["cells"]}
    assert chance == {0.3}
    assert panels.count('class="chance"') == panels.count("<figure>")


# ----------------------------------------------------------------------------- published


def published(target="one", group="", kind="reproducible", mean="55.0", method="mae", remarks=()):
    printed = {"mean": mean, "std": "0.5", "metric": "R2 [%]", "method": "Net", "target": target}
    line = Line(
        printed=printed,
        kind=kind,
        methods={"harmonised": method} if method else {},
        without="" if method else "no such loss here",
        head="linear",
        modality="ecg",
        task="toy",
        target="" if group else target,
        group=group,
        title=target,
        metric="R2",
        factor=100.0,
        remarks=remarks,
    )
    table = Table(
        name="NET Table 1",
        title="nets",
        citation="Net et al.",
        rows=("method",),
        columns=("target",),
        blocks=(),
        groups=False,
        lines=(line, line) if remarks else (line,),
    )
    return {table.name: table}


def cell_of(board, method, target):
    cells = section_of(board, 1.0)["cells"]
    return next(
        c for c in cells if (c["method"], c["target"], c["metric"]) == (method, target, "R2")
    )


def test_published_numbers_stand_beside_ours_in_the_printed_unit(board):
    (table,) = beside([board], published())
    (pair,) = table.pairs
    cell = cell_of(board, "mae", "one")
    assert pair.published == "55.0 ± 0.5"
    assert (
        pair.ours == f"{100 * cell['value']:.1f} [{100 * cell['lo']:.1f}, {100 * cell['hi']:.1f}]"
    )
    assert float(pair.difference) == pytest.approx(100 * cell["value"] - 55, abs=0.05)
    (table,) = beside([board], published(target="all", group="all"))
    assert float(table.pairs[0].ours.split()[0]) == pytest.approx(
        100 * cell_of(board, "mae", "mean")["value"], abs=0.05
    )


def test_what_must_not_be_compared_is_shown_with_the_reason(board):
    remark = Remark("their R2 is a squared correlation", compare=False)
    tables = published(remarks=(remark,))
    (line, _), (name,) = tables["NET Table 1"].lines, tables
    other = Line(**{**vars(line), "remarks": ()})
    mixed = {name: Table(**{**vars(tables[name]), "lines": (line, other)})}
    (table,) = beside([board], mixed)
    assert table.pairs[0].difference == "not compared"
    assert [table.notes[i - 1] for i in table.pairs[0].notes] == [remark.text]
    assert table.pairs[1].compare
    assert "their R2 is a squared correlation" in page([board], mixed)


@pytest.mark.parametrize(
    ("change", "ours", "note"),
    [
        ({"method": ""}, "not run", "no counterpart: no such loss here"),
        ({"method": "unknown"}, "not run", None),
        ({"target": "ten"}, "not run", None),
        ({"target": "some", "group": "some"}, "not run", "the cohorts have no such target"),
        ({"kind": "chance"}, "30.0", None),
        ({"kind": "quoted"}, None, "quoted in that paper, from elsewhere"),
    ],
)
def test_a_published_number_without_ours_says_why(board, change, ours, note):
    (table,) = beside([board], published(**change))
    (pair,) = table.pairs
    if ours:
        assert pair.ours == ours
        assert (pair.difference == "-") == (ours == "not run")
    assert [table.notes[i - 1] for i in pair.notes] == ([note] if note else [])


def test_ours_under_another_head_says_so():
    (table,) = beside([pages.board(head="mlp", changes={"heads": ("linear",)})], published())
    (pair,) = table.pairs
    assert pair.ours != "not run"
    assert [table.notes[i - 1] for i in pair.notes] == ["ours: mlp head"]


def test_z_counts_the_errors_of_both_numbers(board):
    tables = published()
    (name,) = tables
    (line,) = tables[name].lines
    known = dataclasses.replace(line, people=1_000, seeds=5)
    (table,) = beside([board], {name: dataclasses.replace(tables[name], lines=(known,) * 3)})
    cell = cell_of(board, "mae", "one")
    variance = 4 * 0.55 * 0.45**2 / 1_000 + 0.005**2 / 5 + cell["se"] ** 2
    expected = (cell["value"] - 0.55) / variance**0.5
    assert float(table.pairs[0].z) == pytest.approx(expected, abs=0.051)
    assert [metric for metric, _ in table.figures] == [line.printed["metric"]]
    (unknown,) = beside([board], tables)
    assert (unknown.pairs[0].z, unknown.figures) == ("-", [])


def test_facts_about_networks_are_in_no_board_and_left_out(board):
    assert beside([board], published(kind="architecture")) == []


# ----------------------------------------------------------------------------- cost


def test_cost_is_of_one_replicate_and_every_number_names_a_method(board, files):
    text = cost_page([board], costs(files))
    rows = [cells for _, _, cells in Rows(text).rows if len(cells) == 11]
    body = [cells for cells in rows if cells[0][1] != "no."]
    (first, *_) = body
    assert first[3][1] == "30.2"  # (90 + 0.5) s of three replicates
    count = len(board["sections"][0]["lines"])
    numbers = re.findall(r'class="number"[^>]*>(\d+)<', text)
    assert numbers == [str(i + 1) for _ in board["sections"] for i in range(count)]


def test_devices_that_shared_a_training_are_paid_for_each(board, files):
    files = copy.deepcopy(files)
    for file in files:
        for row in file["rows"]:
            if file["method"] == "mae":
                row["run"] |= {"devices": 2, "device_seconds": 180.5}
    text = cost_page([board], costs(files))
    rows = [cells for _, _, cells in Rows(text).rows if len(cells) == 12]
    found = {cells[1][1].split()[0]: [cells[i][1] for i in (3, 4, 10)] for cells in rows}
    assert found["method"] == ["device time [s]", "pretraining [s]", "devices"]
    assert found["mae"] == ["60.2", "30.0", "2"]
    assert found["same"] == ["30.2", "30.0", "1"]
    assert "device seconds of pretraining and head, one replicate" in text


def test_boards_do_not_depend_on_cost(text, files):
    files = copy.deepcopy(files)
    for file in files:
        for row in file["rows"]:
            row["run"] = dict.fromkeys(row["run"])
    again = document(files, pages.info_of(files), None)
    assert page([again], {}) == text
    assert "<section" not in cost_page([again], [])
