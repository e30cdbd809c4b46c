"""Pictures at the scale smoke: what each shows, of whom, and that the page shows no other."""

import json
import re
import shutil

import numpy as np
import pytest

from benchmark import cli
from benchmark.api import Predictions, UserError
from benchmark.cli.common import ROOT
from benchmark.cohorts.cohort import ECG_MILLIVOLT, ECG_RATE
from benchmark.cohorts.ecg import clean, resample
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.engine.store import Store
from benchmark.evaluation.diagnostics import _TIED
from benchmark.pictures import (
    KINDS,
    choose_kinds,
    common,
    draw,
    latent,
    low_data,
    predicted,
    usual_methods,
)
from benchmark.pictures.common import Subject, encoded, new_figure, style
from benchmark.pictures.reconstruction import _to_millivolt
from benchmark.planning import Request
from benchmark.privacy import ids_in
from benchmark.registry import registry
from benchmark.reports.page import page
from benchmark.reports.page.pictures import galleries
from benchmark.runner import bring

METHODS = ("mae", "ptacl")
COMMITTED = sorted((ROOT / "leaderboards").glob("*/pictures/low-data-*.json"))
NO_ROWS = "no row of it has scores at two shares of the labels"


def request(*methods):
    return Request(methods=methods, tasks=(), scale="smoke", fractions=(1.0,))


@pytest.fixture(scope="module")
def store(shared_store):
    return Store(shared_store)


@pytest.fixture(scope="module")
def made(store, tmp_path_factory):
    """Everything there is of two methods without rows, and the folder it is in."""
    boards = tmp_path_factory.mktemp("boards")
    return draw(request(*METHODS), tuple(KINDS.values()), store, boards), boards


def words(path):
    return json.loads(path.with_suffix(".json").read_text())


def subject(name, store, rows=()):
    return Subject(registry().method(name), request(name), store, tuple(rows))


# ------------------------------------------------------------------------------------- all kinds


def test_every_kind_is_drawn_of_the_methods_that_it_applies_to(made):
    found, _ = made
    assert [path.name for path in found.files] == [
        "predicted-mae.svg",
        "predicted-ptacl.svg",
        "similarity-ptacl.png",
        "alignment-ptacl.svg",
        "reconstruction-mae.png",
        "latent-ptacl.png",
    ]
    assert not found.failed
    reasons = {(kind, method): reason for kind, method, reason in found.skipped}
    assert reasons["low-data", "mae"] == NO_ROWS
    assert reasons["alignment", "mae"] == "it does not bring ECG and CMR together"
    assert reasons["reconstruction", "ptacl"] == "it fills in no hidden parts of an ECG"
    assert len(found.files) + len(found.skipped) == len(KINDS) * len(METHODS)


def test_files_are_small_and_say_what_they_show(made):
    found, _ = made
    for path in found.files:
        told = words(path)
        assert path.stat().st_size < 150_000
        assert told["file"] == path.name
        assert told["method"] in told["alt"]
        assert told["people"] >= 1
        assert len(told["recipes"]) == 1
        assert KINDS[told["kind"]].source in told["caption"]


def test_equal_artifacts_give_equal_bytes(made, store, tmp_path):
    found, _ = made
    again = draw(request("ptacl"), choose_kinds("similarity,alignment"), store, tmp_path).files
    assert {path.suffix for path in again} == {".png", ".svg"}
    first = {path.name: path for path in found.files}
    for path in again:
        assert first[path.name].read_bytes() == path.read_bytes(), path.name
        assert words(first[path.name]) == words(path)


def test_files_name_no_date_and_no_program(made):
    found, _ = made
    for path in found.files:
        content = path.read_bytes()
        assert b"tEXt" not in content
        assert b"dc:date" not in content
        assert b"creator" not in content.lower()
        assert not list(ids_in(content.decode("utf-8", "replace")))
        if path.suffix == ".svg":
            # What is embedded, and names made of hashes, may look like a person's id by chance.
            assert b"base64" not in content
            assert len(re.findall(rb' id="e\d+"', content)) == content.count(b' id="')


def test_of_real_people_only_aggregates_are_drawn(made, store, tmp_path, monkeypatch):
    monkeypatch.setattr(SimulatedCohort, "simulated", False)
    found = draw(request("ptacl"), tuple(KINDS.values()), store, tmp_path)
    assert {path.name.split("-")[0] for path in found.files} == {"predicted", "alignment"}
    single = {kind for kind, _, reason in found.skipped if "are real" in reason}
    assert single == {"similarity", "reconstruction", "latent"}
    # No word that describes what is left names a person.
    assert not any("SIM-" in path.with_suffix(".json").read_text() for path in found.files)


def test_the_few_real_people_without_a_value_are_not_told(store, monkeypatch):
    one = subject("mae", store)
    people = len(one.data.rows("test"))
    assert one.shown_people(people - 2) == people - 2
    monkeypatch.setattr(SimulatedCohort, "simulated", False)
    shown = [one.shown_people(people - without) for without in (0, 2, 5)]
    assert shown == [people, f">{people - 5}", people - 5]


def test_the_usual_methods_are_ranked_two_towers_and_what_all_are_compared_with():
    names = usual_methods()
    assert names[0] == "mae"
    entries = [registry().method(name) for name in names[1:]]
    assert entries
    assert all(e.cls.two_tower and e.variant.role == "ranked" for e in entries)


# ------------------------------------------------------------------------------------- one kind


def test_squares_of_fewer_than_five_real_people_stay_empty():
    x, y = np.random.default_rng(0).normal(size=(2, 400))
    counts, edges, _ = np.histogram2d(x, y, bins=predicted.BINS, range=[(-3, 3), (-3, 3)])
    shown = {}
    for steps in (predicted.STEPS, predicted.STEPS[1:]):
        corners = np.concatenate(predicted._squares(x, y, (-3, 3), steps))
        places = np.rint((corners - edges[0]) / (edges[1] - edges[0])).astype(int)
        shown[steps[0]] = counts[tuple(places.T)]
    assert shown[1].min() == 1
    assert shown[1].sum() == counts.sum()
    assert shown[5].min() == 5
    assert len(shown[5]) == (counts >= 5).sum()


def test_a_target_needs_five_people_and_a_spread():
    values = np.full((6, 3), np.nan)
    values[:4, 0], values[:5, 1], values[:, 2] = range(4), range(5), 1.0
    found = Predictions(("a", "b", "c"), {"target": values, "prediction": np.zeros((6, 3))})
    assert [predicted._pairs(found, t) is not None for t in range(3)] == [False, True, False]


def test_numbers_of_predicted_are_those_of_the_metrics(made, store):
    _, boards = made
    told = words(boards / "simulated-smoke" / "pictures" / "predicted-mae.svg")
    one = subject("mae", store)
    score = KINDS["predicted"].job(one).score
    bring([score], store)
    cells = json.loads((store.open(score) / "score.json").read_text())["cells"]
    expected = {
        (c["target"], c["metric"]): c["theta"] for c in cells if c["target"] in told["numbers"]
    }
    assert {
        (target, metric): told["numbers"][target][metric] for target, metric in expected
    } == pytest.approx(expected, abs=1e-4)
    assert len(expected) == 20


def test_the_matrices_are_those_that_the_diagnostic_counts(made, store):
    one = subject("ptacl", store)
    score = KINDS["alignment"].job(one).score
    bring([score], store)
    folder = store.open(KINDS["alignment"].stage(one))
    for name in ("own", "own_projected"):
        matrices = np.load(folder / f"{name}.npy")
        near = matrices >= matrices.max(-1, keepdims=True) - _TIED
        share = np.einsum("pkk->pk", near / near.sum(-1, keepdims=True)).mean(1)
        share[np.isnan(matrices).any((1, 2))] = np.nan
        np.testing.assert_allclose(share, np.load(store.open(score.head) / f"{name}.npy"))


def test_the_ecg_is_drawn_in_millivolt(made, store):
    one = subject("mae", store)
    stage = KINDS["reconstruction"].stage(one)
    view = stage.views()["ecg"]
    row = stage.rows(one.data)[0]
    true = np.load(store.open(stage) / "true.npy")[0]
    gain, level = _to_millivolt(one.data, row, view, true)
    recorded = clean(one.data.ecg[row] * ECG_MILLIVOLT, ECG_RATE)
    expected = resample(recorded, ECG_RATE, view.rate)[:, view.crops()[0]]
    # The view is stored in half precision.
    np.testing.assert_allclose(gain[:, None] * true + level[:, None], expected, atol=2e-3)
    assert np.ptp(expected) > 0.5


def test_hidden_patches_are_those_of_the_diagnostic(made, store):
    stage = KINDS["reconstruction"].stage(subject("mae", store))
    hidden = np.load(store.open(stage) / "hidden.npy")[0]
    assert hidden.mean() == pytest.approx(0.8)
    assert set(np.unique(hidden)) == {0, 1}


def test_before_alignment_is_not_after_it(made, store):
    folder = store.open(KINDS["latent"].stage(subject("ptacl", store)))
    before, after = (np.load(folder / f"{moment}.npy") for moment in latent.MOMENTS)
    assert before.shape == after.shape
    assert not np.allclose(before, after)


def test_mixing_is_none_of_two_clouds_and_half_of_one():
    cloud = np.random.default_rng(0).normal(size=(2, 200, 2))
    assert latent._mixed(cloud) == pytest.approx(0.5, abs=0.05)
    cloud[1] += 100
    assert latent._mixed(cloud) == 0


# ------------------------------------------------------------------------------------- from rows


def rows_file(method, values, targets=("CAD",)):
    rows = [
        {
            **{"target": "mean", "metric": "AUROC", "fraction": fraction},
            **{"head": "linear", "modality": "ecg"},
            "result": {
                **{"value": value, "lo": value - 0.05, "hi": value + 0.05, "chance": 0.5},
                **{"n": 900, "replicates": 1, "recipe_digest": f"recipe-{method}"},
                "cohort_fingerprint": "people",
                "targets": ["AF"] if fraction < 0.1 else list(targets),
            },
        }
        for fraction, value in values.items()
    ]
    head = dict.fromkeys(("cohort", "preset", "scale", "track", "role", "uses_labels"), "")
    return {**head, "method": method, "task": "cvd", "rows": rows, "versus": []}


@pytest.fixture
def rows(tmp_path):
    folder = tmp_path / "rows" / "simulated-smoke"
    for method, last in {"mae": 0.6, "ptacl": 0.7, "random-init": 0.52, "tabular": 0.65}.items():
        path = folder / "harmonised" / "cvd" / f"{method}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows_file(method, {0.01: 0.5, 0.1: 0.55, 1.0: last})))
    return folder


def test_low_data_curves_are_the_rows(rows, store, tmp_path):
    found = draw(request("ptacl"), choose_kinds("low-data"), store, tmp_path)
    told = words(found.files[0])
    # At 1% the mean is over another disease: no point of this curve.
    assert told["numbers"] == {
        "cvd: mean": {
            "0.1": {"value": 0.55, "lo": pytest.approx(0.5), "hi": pytest.approx(0.6)},
            "1": {"value": 0.7, "lo": pytest.approx(0.65), "hi": pytest.approx(0.75)},
        }
    }
    assert told["recipes"] == {"cvd": "recipe-ptacl"}
    drawn = found.files[0].read_text()
    for name in ("ptacl", "mae", "random-init", "tabular", "AUROC", "chance"):
        assert f">{name}<" in drawn


@pytest.mark.parametrize("described", COMMITTED, ids=lambda path: path.stem)
def test_committed_curves_are_the_committed_rows(described, store):
    told = json.loads(described.read_text())
    asked = Request(methods=(told["method"],), tasks=(), scale=told["scale"])
    rows = described.parents[2] / "rows" / described.parents[1].name
    panels = low_data._panels(Subject(registry().method(told["method"]), asked, store, (rows,)))
    for panel in panels:
        for fraction, result in panel.curves[told["method"]].items():
            drawn = told["numbers"][panel.title][f"{fraction:g}"]
            now = {key: pytest.approx(result[key]) for key in drawn}
            assert drawn == now, "draw them again: ecgcmr pictures"
    assert len(panels) == len(told["numbers"])


def test_curves_of_rows_whose_number_of_people_is_withheld(rows, store, tmp_path):
    path = rows / "harmonised" / "cvd" / "ptacl.json"
    path.write_text(path.read_text().replace("900", '">895"', 1))
    found = draw(request("ptacl"), choose_kinds("low-data"), store, tmp_path)
    assert words(found.files[0])["people"] == 900
    path.write_text(path.read_text().replace("900", '">895"'))
    found = draw(request("ptacl"), choose_kinds("low-data"), store, tmp_path)
    assert words(found.files[0])["people"] == ">895"
    assert "&gt;895 test people" in found.files[0].read_text()


def test_a_curve_needs_two_points(rows, store):
    path = rows / "harmonised" / "cvd" / "ptacl.json"
    path.write_text(json.dumps(rows_file("ptacl", {0.01: 0.5, 1.0: 0.7})))
    with pytest.raises(low_data.NotApplicable, match=re.escape(NO_ROWS)):
        KINDS["low-data"].recipes(subject("ptacl", store, [rows]))


# ------------------------------------------------------------------------------------- the page


@pytest.fixture
def beside(made, tmp_path):
    """A page's folder with the pictures, and rows that they are of."""
    found, boards = made
    shutil.copytree(boards / "simulated-smoke", tmp_path / "page")
    files = []
    for path in found.files:
        told = words(path)
        for task, recipe in told["recipes"].items():
            result = {
                "cohort_fingerprint": told["cohort_fingerprint"],
                "recipe_digest": recipe,
            }
            files.append({"task": task, "method": told["method"], "rows": [{"result": result}]})
    return tmp_path / "page", files


def test_the_page_shows_pictures_of_its_own_rows(beside):
    folder, files = beside
    found = galleries(folder, files)
    kinds = [gallery.where["picture"] for gallery in found]
    assert kinds == ["predicted", "similarity", "alignment", "reconstruction", "latent"]
    assert [p.method for p in found[0].pictures] == list(METHODS)
    for gallery in found:
        assert not gallery.outdated
        for picture in gallery.pictures:
            assert (folder / picture.address).is_file()
            assert picture.width < 500
            assert picture.alt


def test_a_picture_of_other_people_or_an_earlier_recipe_is_left_out(beside):
    folder, files = beside
    for file in files:
        if (file["task"], file["method"]) == ("phenotype", "mae"):
            file["rows"][0]["result"]["recipe_digest"] = "another"
    found = galleries(folder, files)[0]
    assert [p.method for p in found.pictures] == ["ptacl"]
    assert found.outdated == ["mae"]
    for file in files:
        file["rows"][0]["result"]["cohort_fingerprint"] = "others"
    assert not any(gallery.pictures for gallery in galleries(folder, files))


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"file": "../../secret.png"}', '{"file": 3}'])
def test_a_description_of_nothing_is_refused(beside, damage):
    folder, files = beside
    path = folder / "pictures" / "predicted-mae.json"
    told = json.loads(path.read_text())
    try:
        path.write_text(json.dumps(told | json.loads(damage)) if "file" in damage else damage)
    except ValueError:
        path.write_text(damage)
    with pytest.raises(UserError, match="describes no picture"):
        galleries(folder, files)


def test_a_folder_without_pictures_has_no_galleries(tmp_path):
    assert galleries(tmp_path, []) == []


# ------------------------------------------------------------------------------------- asking


def test_nonsense_is_answered_in_one_line(capsys, tmp_path):
    asked = ["pictures", "--scale", "smoke", "--leaderboards", str(tmp_path)]
    assert cli.main([*asked, "--kind", "latnet"]) == 2
    assert capsys.readouterr().err == (
        "ecgcmr: no kind of picture is called 'latnet'; did you mean latent?\n"
    )
    assert cli.main([*asked, "--method", "ptcal"]) == 2
    assert "did you mean ptacl" in capsys.readouterr().err


def test_the_command_tells_programs_what_it_made(capsys, tmp_path, store, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(store.root))
    asked = ["pictures", "--method", "mae", "--kind", "reconstruction,alignment", "--json"]
    assert cli.main([*asked, "--scale", "smoke", "--leaderboards", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [path.rpartition("/")[2] for path in told["files"]] == ["reconstruction-mae.png"]
    assert [entry["kind"] for entry in told["skipped"]] == ["alignment"]
    assert told["failed"] == []
    asked = ["pictures", "--method", "mae", "--kind", "alignment"]
    assert cli.main([*asked, "--scale", "smoke", "--leaderboards", str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-2] == "no alignment of mae: it does not bring ECG and CMR together"
    assert error[-1].endswith("nothing was drawn")


def test_places_are_rounded_and_words_are_not():
    svg = '<g id="m0ab"><path d="M -1.23456 20.5L 3.999 4"/><use href="#m0ab"/>0.405</g>'
    assert common._plain(svg) == (
        '<g id="e0"><path d="M -1.23 20.5L 4.00 4"/><use href="#e0"/>0.405</g>'
    )


def test_a_users_own_style_changes_nothing(store):
    import matplotlib as mpl

    def picture():
        with style():
            figure = new_figure(2, "title", subject("mae", store), 1)
            figure.subplots().plot([0, 1])
            return encoded(figure, "svg")

    plain = picture()
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 20}):
        assert picture() == plain


@pytest.mark.nightly
def test_a_browser_shows_them_from_disk(beside):
    """The page's policy must let them in, from a folder and without any server."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    browser, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and chromedriver):
        pytest.skip("needs chromium and chromedriver")
    folder, files = beside
    (folder / "index.html").write_text(page([], {}, galleries(folder, files)), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        driver.set_window_size(500, 900)
        for kind in ("predicted", "latent"):
            driver.get("about:blank")
            address = (folder / "index.html").as_uri()
            driver.get(f"{address}#task=pictures&picture={kind}")
            seen = driver.execute_async_script(
                """const done = arguments[0];
                const images = [...document.images].filter(i => i.offsetParent);
                images.forEach(i => i.loading = "eager");
                Promise.allSettled(images.map(i => i.decode())).then(() => done(
                  images.map(i => [i.naturalWidth, i.clientWidth])))"""
            )
            assert seen
            assert all(natural > 0 and 0 < shown <= 500 for natural, shown in seen)
        assert driver.get_log("browser") == []
    finally:
        driver.quit()
