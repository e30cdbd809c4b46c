"""An exported encoder stands on its own, says what it is, and stays at home where it must."""

import json
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmark.api import UserError
from benchmark.cohorts.cohort import ECG_MILLIVOLT, ECG_RATE, CohortData
from benchmark.cohorts.simulated.cohort import SimulatedCohort
from benchmark.cohorts.views import prepare_recording
from benchmark.engine.store import Store
from benchmark.engine.training import load_encoders
from benchmark.evaluation.embed import Embed, encode
from benchmark.export import folder as exporter
from benchmark.export import standalone
from benchmark.export.card import scores_of
from benchmark.export.folder import Wanted, export
from benchmark.export.networks import (
    example_of,
    networks_of,
    pooled_only,
    weights_of,
    write_program,
)
from benchmark.export.standalone import Encoder, Program
from benchmark.planning import Request, jobs_of
from benchmark.recording import own_files, record
from benchmark.registry import registry
from benchmark.runner import bring
from benchmark.trained import check_private, encoder_stage
from methods.blocks.backbones import CMRViT, ECGViT, PhasesViT
from methods.blocks.linear_map import LinearMap

METHOD = "random-init"
REQUEST = Request(methods=(METHOD,), tasks=("phenotype",), scale="smoke", fractions=(1.0,))

ALONE = """\
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("benchmark", "methods", "tasks"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
sys.path.insert(0, sys.argv[1])
import numpy as np
from load import features, load, prepare

given = np.load(sys.argv[2])
encoder = load()
inputs = [prepare(given[name], int(name.split("@")[1])) for name in sorted(given)]
np.save(sys.argv[3], features(encoder, np.stack(inputs)))
"""


@pytest.fixture(scope="module")
def store(shared_store):
    return Store(shared_store)


@pytest.fixture
def unverified(monkeypatch):
    """Leave out the process that verifies an export: it imports torch and timm, for seconds."""
    monkeypatch.setattr(exporter, "_verify", lambda folder: None)


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "encoder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "_verify", lambda folder: None)
        return export(Wanted(method=METHOD, out=out), REQUEST, store, out.parent / "none", "cpu")


def test_features_are_those_of_the_harness(exported, store, tmp_path):
    method, modality = encoder_stage(METHOD, REQUEST)
    embedding = Embed(method=method)
    assert bring([embedding, method, method.cohort], store, device="cpu").ok
    people = CohortData(store.open(method.cohort)).ecg[:12] * ECG_MILLIVOLT
    given = {f"{n:02}@{ECG_RATE}": ecg.astype(np.float32) for n, ecg in enumerate(people)}
    wanted = [np.load(store.open(embedding) / "ecg.npy")[:12]]

    # What a cohort has none of: other rates, too few seconds, an artefact, a flat group of leads.
    spoilt = people[0].copy()
    spoilt[3, 1000:1020] += 30
    spoilt[6:] = 0.4
    others = {"90@400": people[1][:, ::2][:, :2400], "91@250": people[2], f"92@{ECG_RATE}": spoilt}
    view = method.views()[modality]
    encoders = load_encoders(method, store.open(method))
    for name, ecg in others.items():
        prepared = prepare_recording(ecg, float(name.split("@")[1]), view)
        wanted.append(encode(encoders, modality, prepared, view.crops(), "cpu")[0])

    np.savez(tmp_path / "given.npz", **given, **others)
    arguments = [exported, tmp_path / "given.npz", tmp_path / "found.npy"]
    script = [sys.executable, "-c", ALONE, *map(str, arguments)]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npy")
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(found, np.concatenate(wanted), rtol=0, atol=1e-5)


def test_the_card_says_what_it_is(exported):
    about, card = json.loads((exported / "config.json").read_text()), (exported / "README.md")
    text = card.read_text()
    assert set(about["files"]) == {p.name for p in exported.iterdir()} - {"config.json"}
    for name in about["files"]:
        assert f"`{name}`" in text or name == "README.md"
    method, _ = encoder_stage(METHOD, REQUEST)
    assert about["stage"].replace("-", "") == method.digest
    assert about["stage"] in text
    assert "simulated hearts only" in text
    assert "Apache-2.0" in text
    assert "Not a medical device" in text
    assert "None is recorded" in text
    assert "I, II, III, aVR" in text
    assert about["input"]["shape"] == list(method.views()["ecg"].shape)
    assert about["recipe"]["name"] == type(method).__name__


def test_scores_are_those_of_this_recipe_alone(store, tmp_path):
    entry, task = registry().method(METHOD), registry().task("phenotype")
    method, _ = encoder_stage(METHOD, REQUEST)
    [job] = jobs_of(entry, task, REQUEST.make_cohort(), 0, REQUEST)
    assert bring([job.score], store, device="cpu").ok
    [file] = own_files(REQUEST, task, store, None)
    record([file], tmp_path)
    [score] = [
        s for s in scores_of(method, Wanted(method=METHOD), REQUEST, tmp_path) if s["fraction"] == 1
    ]
    [row] = [
        r["result"]
        for r in file["rows"]
        if (r["target"], r["metric"], r["fraction"]) == ("mean", "R2", 1.0)
    ]
    assert (score["value"], score["lo"], score["n"]) == (row["value"], row["lo"], row["n"])
    assert score["one_checkpoint"] == (row["replicates"] == 1)
    other, _ = encoder_stage("mae", REQUEST)
    assert scores_of(other, Wanted(method=METHOD), REQUEST, tmp_path) == []
    for changed in ("recipe_digest", "cohort_fingerprint", "task_version"):
        spoilt = json.loads(json.dumps(file))
        for r in spoilt["rows"]:
            r["result"][changed] = 7 if changed == "task_version" else "another"
        record([spoilt], tmp_path / changed)
        assert scores_of(method, Wanted(method=METHOD), REQUEST, tmp_path / changed) == []


@pytest.fixture
def real(monkeypatch):
    """The simulated people, taken for real ones."""
    monkeypatch.setattr(SimulatedCohort, "simulated", False)


def test_weights_of_real_people_stay_unless_somebody_permits(real, store, tmp_path, unverified):
    for text in ("", "  \n"):
        with pytest.raises(UserError, match=r"data officer.*--permitted-by"):
            export(
                Wanted(method=METHOD, out=tmp_path / "x", permitted_by=text),
                REQUEST,
                store,
                tmp_path,
            )
    assert list(tmp_path.iterdir()) == []
    wanted = Wanted(method=METHOD, out=tmp_path / "x", permitted_by="A. Person,\nref. 9")
    out = export(wanted, REQUEST, store, tmp_path, "cpu")
    card = (out / "README.md").read_text()
    assert "Export permitted by: A. Person, ref. 9" in card
    assert "simulated hearts" not in card
    assert "Simulated people" not in card
    assert "Apache" not in card
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in out.iterdir()} == {0o600}


def test_what_git_would_see_is_no_place_for_people(tmp_path):
    repository = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", repository], check=True)
    (repository / ".gitignore").write_text("private/\n")
    check_private(repository / "private" / "new" / "f.csv", "features")
    check_private(tmp_path / "elsewhere" / "f.csv", "features")
    with pytest.raises(UserError, match="git would see"):
        check_private(repository / "new" / "f.csv", "features")


def test_nothing_is_overwritten_that_no_export_wrote(exported, store, tmp_path, unverified):
    out = tmp_path / "out"

    def again():
        return export(Wanted(method=METHOD, out=out), REQUEST, store, tmp_path / "none", "cpu")

    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.txt, which no export wrote"):
        again()
    (out / "thesis.txt").rename(out / "config.json")
    with pytest.raises(UserError, match=r"config\.json, which no export wrote"):
        again()
    assert (out / "config.json").read_text() == "mine"
    shutil.rmtree(out)
    shutil.copytree(exported, out)
    (out / "load.py").write_text("stale")
    again()
    assert (out / "load.py").read_text() == exporter.LOADER.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (out / "notes.md").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.md"):
        again()


def test_a_loader_that_finds_other_features_says_so(exported, tmp_path, capsys):
    assert standalone.main(exported) == 0
    spoilt = tmp_path / "spoilt"
    shutil.copytree(exported, spoilt)
    weights = load_file(spoilt / "encoder.safetensors")
    weights["networks.0.norm.bias"] += 0.01
    save_file(weights, spoilt / "encoder.safetensors")
    assert standalone.main(spoilt) == 1
    assert "difference" in capsys.readouterr().out


def test_the_loader_refuses_what_is_no_recording(exported):
    whole = np.random.default_rng(0).normal(size=(12, 5000))
    missing = whole.copy()
    missing[3, 7] = np.nan
    for wrong in (whole[:8], whole.T, whole[None], missing):
        with pytest.raises(ValueError, match="12, samples"):
            standalone.prepare(wrong, 500, exported)
    prepared = standalone.prepare(whole, 500, exported)
    for wrong in (prepared, prepared[None, :8], prepared.T[None]):
        with pytest.raises(ValueError, match="the input is"):
            standalone.features(standalone.load(exported), wrong, exported)


def test_a_check_that_takes_too_long_is_told_in_one_line(exported, monkeypatch):
    monkeypatch.setattr(exporter, "VERIFY_SECONDS", 0.01)
    with pytest.raises(UserError, match=r"not checked within 0\.01 s"):
        exporter._verify(exported)


def test_an_export_that_fails_its_check_is_not_handed_out(store, tmp_path, monkeypatch):
    loader = tmp_path / "loader.py"
    loader.write_text("print('difference 1e-2'); raise SystemExit(1)")
    monkeypatch.setattr(exporter, "LOADER", loader)
    with pytest.raises(UserError, match=r"not give the features it should: difference 1e-2"):
        export(Wanted(method=METHOD, out=tmp_path / "x"), REQUEST, store, tmp_path / "none", "cpu")
    assert list(tmp_path.iterdir()) == [loader]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tabular", {}, "has no encoder"),
        ("supervised", {}, "fine-tuned only"),
        ("mae", {"modality": "cmr"}, "no encoder of 'cmr', only of ECG"),
        ("mae", {"task": "phenotype"}, "learns no labels"),
        ("mae", {"replicate": -1}, "count from 0"),
        ("eccl", {}, "learns labels: say with --task whose"),
        ("eccl", {"task": "nonsense"}, "no task is called"),
        ("nonsense", {}, "no method is called"),
    ],
)
def test_there_is_no_such_encoder(method, options, message):
    with pytest.raises(UserError, match=message):
        encoder_stage(method, REQUEST, **options)


@pytest.mark.parametrize("task", ["phenotype", "cvd"])
def test_a_method_that_learns_labels_is_the_one_the_rows_are_of(task):
    entry = registry().method("eccl")
    method, _ = encoder_stage("eccl", REQUEST, 1, task=task)
    jobs = list(jobs_of(entry, registry().task(task), REQUEST.make_cohort(), 1, REQUEST))
    assert {job.score.head.embedding.method.digest for job in jobs} == {method.digest}


def test_other_networks_need_a_program(store, tmp_path):
    with pytest.raises(UserError, match="LinearMap: ask for a program of it with --onnx"):
        export(Wanted(method="ecg-features", out=tmp_path / "x"), REQUEST, store, tmp_path, "cpu")
    assert not (tmp_path / "x").exists()


SMALL = {"width": 16, "depth": 2, "heads": 2}
ECG = ECGViT(**SMALL, patch=50, rate=100)
CMR = CMRViT(**SMALL, patch=(2, 8, 8), frames=4, size=16)
NETWORKS = {
    "ecg": (ECG, (12, 500)),
    "without class token": (ECG.replace(cls_token=False), (12, 500)),
    "class token": (ECG.replace(pool="cls", positions="learned"), (12, 500)),
    "own norm": (ECG.replace(pool="mean-then-norm", positions="trained"), (12, 500)),
    "dropout": (ECG.replace(dropout=0.5, drop_path=0.5), (12, 500)),
    "cine": (CMR.replace(centred=True), (4, 16, 16)),
    "phases": (PhasesViT(**SMALL, patch=8, size=16, slices=2), (2, 2, 16, 16)),
    "one phase": (PhasesViT(**SMALL, patch=8, size=16, slices=2, phases=("es",)), (2, 2, 16, 16)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loader_builds_the_same_network(name):
    settings, shape = NETWORKS[name]
    torch.manual_seed(0)
    encoder = settings.build().eval()
    for parameter in encoder.parameters():  # zeros and ones would hide a mix-up
        torch.nn.init.normal_(parameter, std=0.3)
    alone = Encoder(json.loads(json.dumps(networks_of(encoder)))).eval()
    alone.load_state_dict(weights_of(encoder))
    x = torch.rand(3, *shape)
    with torch.inference_mode():
        torch.testing.assert_close(alone(x), encoder(x).pooled, rtol=0, atol=1e-5)


@pytest.mark.nightly
def test_programs_give_the_features_of_the_networks(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    encoder = ECG.build().eval()
    alone = Encoder(networks_of(encoder)).eval()
    alone.load_state_dict(weights_of(encoder))
    write_program(alone, (12, 500), tmp_path / "vit.onnx", batches=True)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "vit.onnx")
    x = torch.rand(5, 12, 500)
    with torch.inference_mode():
        wanted = encoder(x).pooled.numpy()
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], wanted, atol=1e-5)

    linear = LinearMap(6, 4)
    linear.set(np.arange(6.0), np.eye(6, 4))
    write_program(pooled_only(linear), (6,), tmp_path / "linear.onnx", batches=False)
    x = torch.rand(3, 6)
    x[1, 2] = torch.nan
    np.testing.assert_allclose(Program(tmp_path / "linear.onnx")(x), linear(x).pooled, atol=1e-6)


def test_a_program_without_the_libraries(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'ecgcmr-bench\[onnx\]'"):
        write_program(torch.nn.Linear(2, 2), (2,), tmp_path / "x.onnx", batches=True)


@pytest.mark.nightly
def test_a_network_that_cannot_be_traced_says_so(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Choosy(torch.nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    with pytest.raises(UserError, match="cannot be written as ONNX"):
        write_program(Choosy(), (2,), tmp_path / "x.onnx", batches=True)


def test_examples_hold_what_cleaning_is_for():
    view = encoder_stage(METHOD, REQUEST)[0].views()["ecg"]
    example = example_of(view)
    assert np.isfinite(example["input"]).all()
    assert np.abs(example["ecg_mv"]).max() > 5
    assert len(np.unique(example["input"])) > 1000


@pytest.mark.nightly
@pytest.mark.parametrize("options", [("mae", "--onnx"), ("ecg-features", "--onnx")])
def test_the_command_line(options, ecgcmr, shared_store, tmp_path):
    pytest.importorskip("onnxruntime")
    arguments = ("--method", *options, "--scale", "smoke", "--out", tmp_path / "out")
    done = ecgcmr("export", *arguments, "--json", store=shared_store)
    about = json.loads(done.stdout)
    assert "encoder.onnx" in about["files"]
    assert (about["networks"] is None) == (options[0] == "ecg-features")
    again = [sys.executable, "load.py"]
    subprocess.run(again, cwd=tmp_path / "out", check=True, capture_output=True)
