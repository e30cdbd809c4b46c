"""Bad methods: the conformance kit catches each, by the check that is about it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plugins import failures, imported

from benchmark.api import UserError
from benchmark.registry import registry
from benchmark.testing import ConformanceError, Skipped, check_method, method_checks, process
from benchmark.testing.__main__ import main
from benchmark.testing.fingerprints import record
from benchmark.testing.methods import MethodSubject
from benchmark.testing.report import COVERAGE

ROOT = Path(__file__).resolve().parent.parent

METHOD = '''
"""A plugin."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.api import Recipe, Variant, View
from benchmark.stage import UNSET
from methods.blocks.bases import ECGMethod
# imports


@dataclass(frozen=True, kw_only=True)
class KitMethod(ECGMethod):
    """Pulls a noisy projection of the features of an ECG towards a constant."""

    paper: ClassVar[str] = "unpublished"
    variants: ClassVar[Mapping[str, Variant]] = {"kit-method": Variant(tracks=("harmonised",))}
    kind: ClassVar[str] = "ecg-contrastive"
    # fields

    def build(self, shapes):
        import torch
        from torch import nn

        encoders = super().build(shapes)
        encoders.output = nn.Linear(self.ecg_encoder.width, 3)
        # build
        return encoders

    def loss(self, encoders, batch):
        import torch

        # loss
        features = encoders.ecg(self.ecg_input(batch)).pooled
        pulled = encoders.output(features) + 0.1 * torch.randn(len(features), 3)
        return {"pull": (pulled - 1).square().mean()}

    # methods
'''

PEEK_IN_FIT = """
    def fit(self, encoders, people):
        import torch
        everybody = np.asarray(people.views["ecg"], np.float32)
        encoders.output.bias.data.fill_(float(everybody.mean()))
"""
PEEK_WITH_A_VIEW = '''

@dataclass(frozen=True, kw_only=True)
class KitWhitened(View):
    """Voltages by the mean and the spread of everybody, whose sums are exact in any order."""

    @property
    def shape(self):
        return (12, 1000)

    def crops(self):
        return (slice(0, 500), slice(500, 1000))

    def run(self, context):
        from benchmark.cohorts.cohort import CohortData

        ecg = CohortData(context.open(self.cohort)).ecg[..., ::5].astype(np.int64)
        mean, square = ecg.sum(0) / len(ecg), (ecg**2).sum(0) / len(ecg)
        scaled = (ecg - mean) / np.sqrt(square - mean**2)
        np.save(context.out / "array.npy", scaled.astype(np.float32))
'''
PEEK_IN_RUN = """
    def run(self, context):
        from benchmark.cohorts.cohort import CohortData
        from benchmark.engine.batches import open_view

        test = CohortData(context.open(self.cohort)).rows("test")
        level = float(np.asarray(open_view(self.views()["ecg"], context)[test], float).mean())
        object.__setattr__(self, "level", level)
        context.train(self)
"""
LEARN_ALL_LABELS = """
    def labels(self, cohort):
        table, train = self.task.targets(cohort), cohort.split == "train"
        table.loc[train] = table.loc[train].rank(pct=True)
        return table
"""
LOOK_UP_LABELS = """
    def run(self, context):
        from benchmark.cohorts.cohort import CohortData

        data = CohortData(context.open(self.cohort))
        level = data.phenotypes.iloc[data.rows("train"), 0].mean()
        object.__setattr__(self, "level", float(level))
        context.train(self)
"""
BATCH_MEAN = """
        class Whitened(nn.Module):
            def __init__(self, encoder):
                super().__init__()
                self.encoder = encoder
            def forward(self, x):
                features = self.encoder(x)
                return features._replace(pooled=features.pooled - features.pooled.mean(0))
        encoders.ecg = Whitened(encoders.ecg)
"""
REMEMBERS = """
        class Remembers(nn.Module):
            def __init__(self, encoder):
                super().__init__()
                self.encoder, self.level = encoder, 0.0
            def forward(self, x):
                features = self.encoder(x)
                if self.training:
                    self.level = 0.5 * self.level + features.pooled.detach().mean()
                return features._replace(pooled=features.pooled - self.level)
        encoders.ecg = Remembers(encoders.ecg)
"""
COUNTER = """
    CALLS: ClassVar[list] = []
"""

BAD = {
    "peeks in fit": ("test-people", {"methods": PEEK_IN_FIT}, "test people reach the training"),
    "peeks through a view": (
        "test-people",
        {
            "imports": PEEK_WITH_A_VIEW,
            "methods": "    def views(self):\n"
            '        return {"ecg": KitWhitened(cohort=self.cohort)}',
        },
        "compute views of each person alone",
    ),
    "peeks in run": (
        "test-people",
        {"methods": PEEK_IN_RUN, "loss": "encoders.output.bias.data += self.level"},
        "test people reach the training",
    ),
    "has a generator of its own": (
        "seed",
        {
            "loss": "own = torch.Generator(); own.seed()\n"
            '        batch.views["ecg"] += torch.rand(1, generator=own)'
        },
        "draw from torch's global generator",
    ),
    "draws from numpy": (
        "seed",
        {"loss": 'batch.views["ecg"] += float(np.random.default_rng().random())'},
        "a second training with the same seed",
    ),
    "sets the seed": ("seed", {"build": "torch.manual_seed(0)"}, "build sets torch's seed"),
    "starts every replicate alike": (
        "seed",
        {
            "build": "for p in encoders.parameters(): "
            "nn.init.normal_(p, generator=torch.Generator().manual_seed(0))"
        },
        "fresh weights are the same for every seed",
    ),
    "leaves a parameter without gradient": (
        "gradient",
        {"build": "encoders.unused = nn.Linear(2, 2)"},
        "no gradient reaches unused.bias, unused.weight",
    ),
    "depends on the batch": ("batch", {"build": BATCH_MEAN}, "depend on who else is in the batch"),
    "draws when it encodes": (
        "batch round-trip",
        {
            "build": "encoders.ecg.norm = nn.Dropout(0.5); encoders.ecg.norm.eval = lambda: None\n"
            "        encoders.ecg.norm.train = lambda mode=True: encoders.ecg.norm"
        },
        "gives other features of the same people when asked again",
    ),
    "depends on the order of hashing": (
        "identity",
        {"fields": 'leads: tuple[str, ...] = tuple({"I", "II", "III", "aVR", "aVL", "aVF"})'},
        "the order of a set",
    ),
    "imports what is heavy": ("import", {"imports": "import matplotlib"}, "imports matplotlib"),
    "hides what it learned": (
        "round-trip resume",
        {"build": REMEMBERS},
        "something it learned is no parameter and no buffer",
    ),
    "counts outside its encoders": (
        "resume",
        {
            "fields": COUNTER,
            "loss": "if batch.progress == 0 and batch.training: self.CALLS.clear()\n"
            "        self.CALLS.append(1); batch.progress > 0 and "
            'batch.views["ecg"].add_(len(self.CALLS) if not hasattr(self, "x") else 0)',
        },
        "lives outside the encoders",
    ),
    "learns everybody's labels": (
        "labels",
        {
            "fields": "task: object = UNSET\n    fraction: float = UNSET",
            "methods": LEARN_ALL_LABELS,
            "loss": 'batch.views["ecg"] += batch.labels.nan_to_num().mean()',
        },
        "outside the label fraction",
    ),
    "learns labels in secret": (
        "labels",
        {"methods": LOOK_UP_LABELS, "loss": "encoders.output.bias.data += self.level"},
        "leave targets alone",
    ),
    "declares a view for nothing": (
        "views",
        {
            "imports": "from benchmark.cohorts.views import RPeaks",
            "methods": "    def views(self):\n"
            '        return {**super().views(), "peaks": RPeaks(cohort=self.cohort)}',
        },
        "the loss never reads peaks",
    ),
    "changes what it froze": (
        "frozen",
        {
            "methods": "    def frozen(self, encoders):\n        return [encoders.output]",
            "loss": "encoders.output.bias.data.add_(1.0)",
        },
        "frozen() names",
    ),
    "encodes by another name": (
        "encoders",
        {
            "methods": '    def views(self):\n        return {"trace": super().views()["ecg"]}',
            "loss": 'batch.views = {"ecg": batch.views["trace"]}',
        },
        "call it 'ecg' in views()",
    ),
    "has no docstring": ("described", {"doc": ""}, "no docstring"),
    "is ranked but unpublished": ("described", {"paper": ""}, "`paper` does not say"),
}


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    """All methods of this file by what is wrong with them; other processes see them at once."""
    folder = tmp_path_factory.mktemp("plugins")
    sources = {"": written()} | {name: written(**parts) for name, (_, parts, _) in BAD.items()}
    found = {
        name: imported(folder, source, f"kit_plugin_{place}").KitMethod
        for place, (name, source) in enumerate(sources.items())
    }
    where = tuple(
        process.Plugin.of(cls, name="kit-method", track="harmonised") for cls in found.values()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "registered", lambda: where)
        yield found
    for name in [name for name in sys.modules if name.startswith("kit_plugin_")]:
        del sys.modules[name]


def written(doc=None, paper=None, **parts):
    source = METHOD
    for place, text in parts.items():
        line = next(x for x in source.splitlines() if x.strip() == f"# {place}")
        indent = line[: len(line) - len(line.lstrip())]
        text = text if text.startswith(("\n", " ")) else indent + text
        source = source.replace(f"{line}\n", f"{text}\n")
    if doc is not None:
        source = source.replace(
            '"""Pulls a noisy projection of the features of an ECG towards a constant."""', doc
        )
    return source.replace('"unpublished"', '""') if paper == "" else source


def test_a_good_method_passes(methods):
    report = check_method(methods[""])
    assert {f.check for f in report.findings if f.outcome == "skipped"} == {"fingerprint"}
    assert len(report.findings) > 12


@pytest.mark.parametrize("name", BAD)
def test_a_bad_method_is_caught(methods, name):
    check, _, told = BAD[name]
    found = failures(check_method, methods[name])
    assert set(found) == set(check.split())
    assert told in found[check.split()[0]]


# ------------------------------------------------------------------------------ skipping


NO_ECHO = '''

@dataclass(frozen=True, kw_only=True)
class KitEcho(View):
    """What no simulated person has."""

    modality: ClassVar[str] = "ecg"

    @property
    def shape(self):
        return (12, 500)

    def run(self, context):
        from benchmark.api import UserError

        raise UserError("this cohort holds no echocardiograms")
'''
EVERYTHING_SKIPPED = {
    "of no track": written().replace('tracks=("harmonised",)', "tracks=()"),
    "of people nobody has": written(
        imports=NO_ECHO,
        methods="    def views(self):\n        return {'ecg': KitEcho(cohort=self.cohort)}",
    ),
}


@pytest.mark.parametrize("name", EVERYTHING_SKIPPED)
def test_a_method_of_which_nothing_was_seen_fails(tmp_path, name):
    cls = imported(tmp_path, EVERYTHING_SKIPPED[name], "kit_skipped").KitMethod
    found = failures(check_method, cls)
    assert list(found) == [COVERAGE]
    assert "was skipped, so nothing is known about it" in found[COVERAGE]
    assert "give check_method a cohort that holds it" in found[COVERAGE]
    checks = {str(check): check for check in method_checks(cls)}
    with pytest.raises(Skipped):
        checks["fit"]()
    with pytest.raises(ConformanceError, match="nothing is known"):
        checks[COVERAGE]()


def test_what_fairness_rests_on_cannot_be_left_out(methods):
    for check in ("test-people", "seed", "labels", "identity"):
        with pytest.raises(UserError, match="cannot be left out"):
            method_checks(methods[""], skip={check: "it is fine"})
    with pytest.raises(UserError, match="did you mean gradient"):
        method_checks(methods[""], skip={"gradients": "it is fine"})
    with pytest.raises(UserError, match="without a reason"):
        method_checks(methods[""], skip={"gradient": " "})


def test_other_checks_can_with_a_reason(methods):
    bad = methods["leaves a parameter without gradient"]
    report = check_method(bad, skip={"gradient": "the paper has it"})
    (left_out,) = (f for f in report.findings if f.check == "gradient")
    assert (left_out.outcome, left_out.why) == (
        "skipped",
        "left out by the author: the paper has it",
    )


# ------------------------------------------------------------------------------ fingerprints


def test_code_that_changes_under_an_old_version_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "ask", lambda plugin: ())  # what is elsewhere is tested above
    file = tmp_path / "fingerprints.json"
    first = imported(tmp_path, written(), "kit_version_1").KitMethod
    record(MethodSubject.of(first), file)
    assert outcomes(check_method(first, fingerprints=file))["fingerprint"] == "passed"

    refactored = imported(tmp_path, written() + "\n# said better", "kit_version_1b").KitMethod
    assert outcomes(check_method(refactored, fingerprints=file))["fingerprint"] == "passed"

    changed = written().replace("0.1 * torch.randn", "0.3 * torch.randn")
    second = imported(tmp_path, changed, "kit_version_2").KitMethod
    found = failures(check_method, second, fingerprints=file)
    assert list(found) == ["fingerprint"]
    assert (
        "code that changed computes something else under the same version, 1"
        in (found["fingerprint"])
    )
    assert "raise `version` in kit_version_2.py" in found["fingerprint"]

    raised = changed.replace("    kind:", "    version: ClassVar[int] = 2\n    kind:")
    third = imported(tmp_path, raised, "kit_version_3").KitMethod
    report = check_method(third, fingerprints=file)
    assert outcomes(report)["fingerprint"] == "skipped"
    assert "--write-fingerprint" in str(report)
    record(MethodSubject.of(third), file)
    assert outcomes(check_method(third, fingerprints=file))["fingerprint"] == "passed"


def outcomes(report):
    return {finding.check: finding.outcome for finding in report.findings}


# ------------------------------------------------------------------------------ the shell


def test_the_shell_checks_and_records(tmp_path, capsys):
    file = tmp_path / "fingerprints.json"
    assert main(["tabular", "--write-fingerprint", str(file)]) == 0
    assert list(json.loads(file.read_text())) == ["method tabular (harmonised)"]
    capsys.readouterr()
    assert main(["tabular", "--fingerprints", str(file), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    found = {finding["check"]: finding["outcome"] for finding in report["findings"]}
    assert found["fingerprint"] == found["test-people"] == "passed"


def test_a_failure_is_an_exit_code_and_a_line(tmp_path, capsys):
    file = tmp_path / "fingerprints.json"
    assert main(["tabular", "--write-fingerprint", str(file)]) == 0
    file.write_text(file.read_text().replace('"level": [\n', '"level": [\n     7.5,\n'))
    assert main(["tabular", "--fingerprints", str(file)]) == 1
    assert "fingerprint     failed   the same code computes something else" in (
        capsys.readouterr().out
    )


def test_the_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.testing", "tabulr"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tabulr"], "did you mean tabular"),
        (["tabular", "--fingerprints", "nowhere.json"], "there is no nowhere.json"),
        (["tabular", "--write-fingerprint", "no/such/folder.json"], "there is no folder"),
        (["tabular", "--track", "harmonized"], "not part of the harmonized track"),
    ],
)
def test_the_shell_says_what_is_wrong_in_one_line(capsys, arguments, told):
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_names_are_looked_up_when_tests_are_collected():
    with pytest.raises(UserError, match="did you mean"):
        method_checks("tabulr")
    names = [str(check) for check in method_checks(next(iter(registry().methods)))]
    assert len(names) == len(set(names))
    assert all(check.summary for check in method_checks("tabular"))
