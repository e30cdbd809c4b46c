"""The worked example: found by its entry points and, at night, in an environment of its own."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from benchmark.registry import registry

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "plugin-package"
PROJECT = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
ADDED = {
    kind: set(PROJECT["entry-points"][f"ecgcmr_bench.{kind}"]) for kind in ("methods", "tasks")
}
COHORTS = set(PROJECT["entry-points"]["ecgcmr_bench.cohorts"])


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """Folders in which the package is found as an installed one, without pip: a search path."""
    described = tmp_path / "site" / "ecgcmr_example-0.1.0.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n"
    )
    groups = PROJECT["entry-points"].items()
    (described / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in e.items()) for group, e in groups
        )
    )
    return os.pathsep.join([str(tmp_path / "site"), str(EXAMPLE / "src")])


def test_everything_it_names_is_found(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = registry()
    for folder in reversed(installed.split(os.pathsep)):
        monkeypatch.syspath_prepend(folder)
    found = registry.__wrapped__()  # a scan of its own: other tests share the cached one
    assert not found.broken
    assert {*found.methods} - {*own.methods} == ADDED["methods"]
    assert {*found.tasks} - {*own.tasks} == ADDED["tasks"]
    assert {*found.cohorts} - {*own.cohorts} == COHORTS
    assert found.package(found.methods["mmcl-sigmoid"].cls) == "ecgcmr-example 0.1.0"


def test_a_method_of_sixty_lines() -> None:
    assert len((EXAMPLE / "src/ecgcmr_example/method.py").read_text().splitlines()) < 60


def test_the_line_counts_of_the_readme_are_those_of_the_files() -> None:
    rows = re.findall(r"\| `(src/\S+\.py)` \|.*\| (\d+) \|", (EXAMPLE / "README.md").read_text())
    assert len(rows) == 4
    for file, lines in rows:
        assert len((EXAMPLE / file).read_text().splitlines()) == int(lines), file


def test_loss_falls_when_pairs_match(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    from benchmark.api import Batch
    from benchmark.encoders import Encoders, Features

    class Given(nn.Module):
        def forward(self, x: torch.Tensor) -> Features:
            return Features(x)

    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    cls = importlib.import_module("ecgcmr_example.method").SigmoidMMCL
    monkeypatch.setattr(cls, "ecg_input", lambda self, batch: batch.ecg)
    monkeypatch.setattr(cls, "cmr_input", lambda self, batch: batch.cmr)
    line = nn.Linear(1, 1)
    nn.init.constant_(line.weight, 10.0)
    nn.init.constant_(line.bias, -3.0)
    same = {"project_ecg": nn.Identity(), "project_cmr": nn.Identity()}
    encoders = Encoders(ecg=Given(), cmr=Given(), logit=line, **same)

    def loss(cmr: torch.Tensor) -> float:
        batch = Batch({"ecg": 2 * torch.eye(4), "cmr": cmr}, training=False, progress=0.0)
        return cls().loss(encoders, batch)["sigmoid"].item()

    # Four orthogonal pairs: one match at logit 7 and three strangers at -3 each, by hand.
    softplus = nn.functional.softplus
    expected = softplus(torch.tensor(-7.0)) + 3 * softplus(torch.tensor(-3.0))
    assert loss(torch.eye(4)) == pytest.approx(expected.item(), rel=1e-5)
    assert loss(torch.eye(4).roll(1, 0)) > 7


def test_prepared_from_the_command_line(
    installed: str, ecgcmr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    importlib.import_module("ecgcmr_example.imitate").write_code15(tmp_path / "raw", 40)
    done = ecgcmr(
        *("prepare", "code15", "--raw", tmp_path / "raw", "--workers", 1),
        store=tmp_path / "store",
        PYTHONPATH=installed,
    )
    assert re.search(r"left out: recording too short +4\n", done.stdout)
    assert "run: ecgcmr run --cohort code15" in done.stderr


# ------------------------------------------------------------------------------ its own environment


def _commands(text: str) -> list[str]:
    """Return the commands of a document's ``sh`` blocks, one a line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.nightly
def test_readme_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """Install project and example with pip, then type what the README says."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("benchmark", "methods", "tasks", "examples"):
        skip = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        shutil.copytree(ROOT / name, clone / name, ignore=skip)
    (clone / "leaderboards").mkdir()
    files = ["pyproject.toml", "README.md", "LICENSE"]
    for name in (*files, "leaderboards/published.csv", "leaderboards/published.toml"):
        shutil.copy2(ROOT / name, clone / name)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["ECGCMR_STORE"] = str(tmp_path / "store")

    def call(command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=clone, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    call([sys.executable, "-m", "venv", "--without-pip", ".venv"])
    python = clone / ".venv/bin/python"
    site = Path(
        call([str(python), "-c", "import sysconfig as s; print(s.get_path('purelib'))"]).strip()
    )
    # The libraries of this environment, without what it has installed as editable: no network.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    offline = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"

    said: dict[str, str] = {}
    for line in _commands((EXAMPLE / "README.md").read_text()):
        words = shlex.split(line)
        if words[0] in ("python3", "source"):
            continue  # done above
        if "pip" in words:
            assert words[:4] == [".venv/bin/python", "-m", "pip", "install"]
            call([*words[:4], *offline, *words[4:]])
            continue
        said[line] = call(words)

    listed = json.loads(call(["ecgcmr", "list", "methods", "--json"]))
    assert any(row["name"] == "mmcl-sigmoid" for row in listed)
    board = (clone / "build/boards/simulated-smoke/phenotype.md").read_text()
    assert re.search(r"^\| \S+ +\| \S+ +\| mmcl-sigmoid +\| -?0\.\d+ \[", board, re.MULTILINE)
    assert (clone / "build/boards/simulated-smoke/index.html").is_file()
    board = (clone / "build/boards/code15-smoke/findings.md").read_text()
    assert re.search(r"\| mae +\| 0\.\d+ \[", board)
    (tests,) = (text for line, text in said.items() if "pytest" in line)
    assert re.search(r"\b\d+ passed\b", tests)
    assert "failed" not in tests
