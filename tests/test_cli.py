"""The command line as a person uses it, at scale smoke."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from benchmark.cli.common import ROOT
from benchmark.cli.run import _print_results
from benchmark.engine.store import Store
from benchmark.planning import expand
from benchmark.registry import TRACKS

CHOSEN = {"random-init", "tabular", "ecg-features", "supervised", "mae", "mmcl", "ptacl"}
FINE_TUNED = {"supervised"}
SMOKE = ("--scale", "smoke")


def tree(folder):
    """Every file below a folder with its bytes, cost tables aside: they tell seconds."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("cost.")
    }


def results(folder):
    """The deterministic part of all rows below a folder."""
    found = {}
    for path in sorted((folder / "rows").rglob("*.json")):
        file = json.loads(path.read_text())
        for row in file["rows"]:
            del row["run"]
        found[path.relative_to(folder).as_posix()] = file
    return found


def test_boards_without_rows(ecgcmr, tmp_path):
    done = ecgcmr("boards", "--leaderboards", tmp_path / "none", store=tmp_path, check=False)
    assert done.returncode == 2
    assert "there are no rows to render" in done.stderr
    assert not (tmp_path / "none").exists()


def test_the_whole_path_from_nothing_to_boards(ecgcmr, shared_store, tmp_path):
    boards = tmp_path / "leaderboards"
    place = (*SMOKE, "--leaderboards", boards)
    tasks = "cvd,phenotype,retrieval,localisation"
    request = ("run", "--method", ",".join(sorted(CHOSEN)), "--task", tasks, *place)
    first = ecgcmr(*request, store=shared_store)
    assert "mae" in first.stderr
    assert "not applicable: supervised on retrieval" in first.stderr
    for task in ("cvd", "phenotype", "retrieval"):
        text = (boards / "simulated-smoke" / f"{task}.md").read_text()
        assert "these numbers mean nothing" in text
        # 300 people have too few patients for any AUROC, and the board says so.
        assert ("not estimable" if task == "cvd" else "one checkpoint") in text
        files = list((boards / "rows/simulated-smoke/harmonised" / task).glob("*.json"))
        named = {path.stem for path in files}
        assert named == CHOSEN - (FINE_TUNED if task == "retrieval" else set())
    rows = json.loads((boards / "rows/simulated-smoke/harmonised/retrieval/ptacl.json").read_text())
    assert {row["modality"] for row in rows["rows"]} == {"ecg", "ecg-cmr"}
    assert {e["other"] for e in rows["versus"]} >= CHOSEN - {"ptacl", *FINE_TUNED}

    before = tree(boards)
    again = ecgcmr(*request, store=shared_store)
    assert "plan: 0 stages to run" in again.stderr
    assert tree(boards) == before
    rendered = ecgcmr("boards", *place, store=shared_store)
    assert "retrieval.md" in rendered.stdout
    assert tree(boards) == before

    found = ecgcmr("status", "--verify", store=shared_store)
    assert "all checksums agree" in found.stdout


@pytest.mark.nightly
@pytest.mark.parametrize("track", TRACKS)
def test_every_method_on_every_task(ecgcmr, shared_store, tmp_path, track):
    place = ("--scale", "smoke", "--track", track, "--leaderboards", tmp_path)
    done = ecgcmr(
        *("run", "--method", "all", "--task", "all", *place), store=shared_store, timeout=3 * 3600
    )
    for task in expand("all", "task", track):
        files = list((tmp_path / "rows/simulated-smoke" / track / task).glob("*.json"))
        missing = {
            name
            for line in done.stderr.splitlines()
            if line.startswith("not applicable: ") and f" on {task}:" in line
            for name in line.removeprefix("not applicable: ").split(f" on {task}:")[0].split(", ")
        }
        assert {path.stem for path in files} | missing == set(expand("all", "method", track))


def test_own_rows_come_first_then_the_board(ecgcmr, shared_store, tmp_path):
    done = ecgcmr(
        *("run", "--method", "random-init", "--task", "phenotype", "--fractions", "1.0,0.5"),
        *(*SMOKE, "--leaderboards", tmp_path),
        store=shared_store,
    )
    own, _, board = done.stdout.partition("# CMR phenotypes")
    assert "random-init" in own
    assert "| 50% " in own
    assert "Not run: " in board
    rows = tmp_path / "rows" / "simulated-smoke"
    assert f"no place on the board for 50% of labels: see the rows above and in {rows}" in board


def test_installed_without_the_clone(shared_store, tmp_path):
    lib, here = tmp_path / "lib", tmp_path / "here"
    here.mkdir()
    for name in ("benchmark", "methods", "tasks"):
        shutil.copytree(ROOT / name, lib / name, ignore=shutil.ignore_patterns("__pycache__"))

    def ecgcmr(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "benchmark", *arguments],
            cwd=here,
            env={**os.environ, "ECGCMR_STORE": str(shared_store), "PYTHONPATH": str(lib)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    asked = ("run", "--method", "random-init", "--task", "phenotype", "--fractions", "1.0")
    done = ecgcmr(*asked, *SMOKE)
    assert done.returncode == 0, done.stderr
    # Not among the installed packages, where nobody would look for it or may write.
    assert (here / "leaderboards" / "simulated-smoke" / "index.html").exists()
    assert not (lib / "leaderboards").exists()
    done = ecgcmr("reproduce")
    assert done.returncode == 2
    assert "a clone of the repository" in done.stderr


def test_a_run_of_which_everything_failed_prints_no_empty_table(capsys):
    outcome = SimpleNamespace(files=[{"task": "cvd", "rows": []}], kept=[], boards=[])
    _print_results(SimpleNamespace(fractions=(1.0,)), outcome, SimpleNamespace(json=False))
    assert capsys.readouterr().out == ""


def test_shared_autoencoder_is_trained_once(ecgcmr, shared_store, tmp_path):
    plan = ecgcmr(
        *("run", "--method", "mae,mmcl,ptacl", "--task", "phenotype", "--dry-run"),
        *(*SMOKE, "--leaderboards", tmp_path),
        store=tmp_path / "empty",
    ).stderr
    (line,) = (line for line in plan.splitlines() if line.split()[1:2] == ["mae"])
    assert "shared by 3 methods" in line
    assert not (tmp_path / "simulated-smoke").exists()


def test_replicates_give_an_interval_over_people_and_training(ecgcmr, shared_store, tmp_path):
    ecgcmr(
        *("run", "--method", "random-init", "--task", "phenotype", "--seeds", "2"),
        *(*SMOKE, "--leaderboards", tmp_path),
        store=shared_store,
    )
    path = tmp_path / "rows/simulated-smoke/harmonised/phenotype/random-init.json"
    (row,) = (
        row["result"]
        for row in json.loads(path.read_text())["rows"]
        if (row["target"], row["metric"], row["fraction"]) == ("mean", "R2", 1.0)
    )
    assert row["replicates"] == 2
    assert len(set(row["values"])) == 2
    assert row["s2"] > 0
    assert row["notes"] == []

    # While more replicates are being made, boards may be of those that all methods have.
    first = ("boards", "--method", "random-init", "--task", "phenotype", "--seeds", "1")
    ecgcmr(*first, *SMOKE, "--leaderboards", tmp_path / "first", store=shared_store)
    path = tmp_path / "first/rows/simulated-smoke/harmonised/phenotype/random-init.json"
    rows = json.loads(path.read_text())["rows"]
    assert {row["result"]["replicates"] for row in rows} == {1}

    # Where rows of more are recorded these stay, which is said.
    done = ecgcmr(*first, *SMOKE, "--leaderboards", tmp_path, store=shared_store)
    stays = "random-init on phenotype: they have more replicates"
    assert f"the boards keep the recorded rows of {stays}" in done.stdout


def test_a_killed_run_resumes_and_equals_an_undisturbed_one(ecgcmr, tmp_path):
    """kill -9 in the middle of pretraining, then the same command."""
    request = ("run", "--method", "mae", "--task", "phenotype", "--fractions", "1.0", *SMOKE)
    ecgcmr(*request, "--leaderboards", tmp_path / "a", store=tmp_path / "store-a")

    store = tmp_path / "store-b"
    command = [sys.executable, "-m", "benchmark", *request, "--leaderboards", tmp_path / "b"]
    process = subprocess.Popen(command, env={"ECGCMR_STORE": str(store)}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(store.glob("work/*/resume/last.ckpt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(store.glob("work/*/resume/last.ckpt")), "killed too late to show anything"

    resumed = ecgcmr(*request, "--leaderboards", tmp_path / "b", store=store)
    assert "mae" in resumed.stderr
    assert results(tmp_path / "a") == results(tmp_path / "b")
    one, two = Store(tmp_path / "store-a"), Store(store)
    assert set(one.stages()) == set(two.stages())
    assert sum(two.manifest(digest)["resumed"] for digest in two.stages()) == 1
    for digest in one.stages():
        files = {name: f["sha256"] for name, f in one.manifest(digest)["files"].items()}
        assert files == {n: f["sha256"] for n, f in two.manifest(digest)["files"].items()}


def test_two_identical_commands_at_once_share_the_work(tmp_path):
    store = tmp_path / "store"
    request = ("run", "--method", "ptacl-global", "--task", "retrieval", *SMOKE)
    command = [sys.executable, "-m", "benchmark", *request, "--leaderboards", tmp_path / "lb"]
    runs = [
        subprocess.Popen(
            command, env={"ECGCMR_STORE": str(store)}, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    lines = [run.communicate(timeout=300)[1].splitlines() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], lines
    finished = [
        line.split("]")[1].split("  ")[0] for own in lines for line in own if "done in" in line
    ]
    assert len(finished) == len(set(finished)) == len(list(Store(store).stages()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "ptacll", "--task", "retrieval"), "did you mean ptacl"),
        (("--method", "ptacl", "--task", "retrievel"), "did you mean retrieval"),
        (("--method", ",", "--task", "cvd"), "no method was named"),
        (("--method", "mae", "--task", "cvd", "--scale", "tinny"), "did you mean tiny"),
        (("--method", "mae", "--task", "cvd", "--seeds", "0"), "SEEDS is 0"),
        (("--method", "mae", "--task", "cvd", "--fractions", "0"), "label fraction"),
        (("--method", "mae", "--task", "cvd", "--fractions", "ten"), "1.0,0.1"),
        (("--method", "mae", "--task", "cvd", "--cohort", "ukbb"), "no cohort is called"),
        (("--method", "mae", "--task", "cvd", "--preset", "odd"), "unknown preset"),
        (("--method", "mae", "--task", "cvd", "--workers", "0"), "at least 1"),
        (("--method", "mae", "--task", "cvd", "--leaderboards", "/dev/null/x"), "cannot write"),
        (("--method", "supervised", "--task", "retrieval"), "none of the methods applies"),
    ],
)
def test_nonsense_is_answered_in_one_line(ecgcmr, tmp_path, arguments, message):
    done = ecgcmr("run", *arguments, store=tmp_path / "store", check=False)
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()
    assert last.startswith("ecgcmr: ")
    assert message in last


def test_a_store_that_cannot_be_made_is_one_line(ecgcmr, tmp_path):
    (tmp_path / "file").write_text("")
    request = ("run", "--method", "tabular", "--task", "cvd", *SMOKE)
    done = ecgcmr(*request, store=tmp_path / "file" / "store", check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "file") in done.stderr


def test_a_damaged_artifact_is_found_and_made_again(ecgcmr, tmp_path):
    store = tmp_path / "store"
    place = (*SMOKE, "--leaderboards", tmp_path / "lb")
    ecgcmr("run", "--method", "tabular", "--task", "cvd", *place, store=store)
    opened = Store(store)
    (digest,) = (d for d in opened.stages() if opened.manifest(d)["stage"]["name"] == "Covariates")
    file = opened.path(digest) / "array.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)

    damaged = ecgcmr("status", "--verify", store=store, check=False)
    assert damaged.returncode == 1
    assert digest[:12] in damaged.stdout
    assert "array.npy" in damaged.stdout
    request = ("run", "--method", "tabular", "--task", "phenotype,cvd", "--seeds", "2")
    done = ecgcmr(*request, *place, store=store)
    assert "Covariates" in done.stderr
    assert "is damaged (array.npy)" in done.stderr
    assert "all checksums agree" in ecgcmr("status", "--verify", store=store).stdout


def test_a_damaged_score_is_found_and_made_again(ecgcmr, tmp_path):
    store = tmp_path / "store"
    request = ("run", "--method", "tabular", "--task", "phenotype", *SMOKE)
    place = ("--leaderboards", tmp_path / "lb")
    ecgcmr(*request, *place, store=store)
    before = tree(tmp_path / "lb")
    opened = Store(store)
    scores = [d for d in opened.stages() if opened.manifest(d)["stage"]["name"] == "Score"]
    for digest in scores:
        file = opened.path(digest) / "score.json"
        file.chmod(0o600)
        file.write_text(file.read_text()[:-40])
    done = ecgcmr(*request, *place, store=store)
    assert done.stderr.count("is damaged (score.json); it is made again") == len(scores)
    assert tree(tmp_path / "lb") == before


def test_fewer_replicates_are_shown_but_do_not_replace_more(ecgcmr, shared_store, tmp_path):
    request = ("run", "--method", "random-init", "--task", "retrieval", *SMOKE)
    place = ("--leaderboards", tmp_path / "lb")
    ecgcmr(*request, "--seeds", "2", *place, store=tmp_path / "two")
    before = tree(tmp_path / "lb")
    done = ecgcmr(*request, *place, store=tmp_path / "one")
    assert "the board keeps the recorded rows of random-init on retrieval" in done.stdout
    assert "one checkpoint" in done.stdout.partition("# Retrieval")[0]
    assert tree(tmp_path / "lb") == before


def test_lists_are_for_programs_too(ecgcmr, tmp_path):
    methods = json.loads(ecgcmr("list", "methods", "--json", store=tmp_path).stdout)
    assert {row["name"] for row in methods} >= CHOSEN
    for row in methods:
        assert {"name", "paper", "modality", "uses_labels", "tracks"} <= row.keys()
    text = ecgcmr("list", store=tmp_path).stdout
    assert all(kind in text for kind in ("methods:", "tasks:", "cohorts:", "scales:"))


def test_listing_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; from benchmark.cli import main; main(['list']);"
        "print([m for m in ('torch', 'pandas', 'scipy', 'sklearn', 'xgboost', 'lightning') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_neighbours_of_a_real_recording(ecgcmr, shared_store, tmp_path):
    record = "examples/ptbdb_s0010_re/s0010_re"

    def neighbours(*arguments, **options):
        return ecgcmr("neighbours", *arguments, *SMOKE, store=shared_store, **options)

    done = neighbours(record, "--method", "ptacl-global", "--k", "4")
    assert done.stdout.count("SIM-") == 4
    assert "95% interval" in done.stdout
    found = json.loads(neighbours(record, "--method", "ptacl-global", "--json").stdout)
    assert len(found["people"]) == 5
    similarity = [person["similarity"] for person in found["people"]]
    assert similarity == sorted(similarity, reverse=True)
    for row in found["predicted"]:
        assert row["lo"] < row["value"] < row["hi"]
    missing = neighbours(tmp_path / "none", "--method", "ptacl", check=False)
    assert missing.returncode == 2
    assert str(tmp_path / "none") in missing.stderr
    tabular = neighbours(record, "--method", "tabular", check=False)
    assert tabular.returncode == 2
    assert "no frozen ECG encoder" in tabular.stderr


def test_bench_is_another_word_for_run():
    from benchmark.cli import parser

    options = ("--method", "mae", "--task", "cvd")
    asked = [parser().parse_args([word, *options]) for word in ("run", "bench")]
    assert asked[0] == asked[1]
