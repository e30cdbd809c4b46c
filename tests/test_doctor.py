"""``ecgcmr doctor`` finds what is wrong with an installation, and says what to do."""

import io
import json
import os
import subprocess
import sys

import pytest

import benchmark.doctor as doctor
from benchmark.doctor import examine, text
from benchmark.engine.limits import cpu_limit, memory_limit
from benchmark.engine.store import Store
from benchmark.registry import registry


@pytest.fixture
def quick(monkeypatch):
    """Leave out the process that imports torch."""
    monkeypatch.setattr(doctor, "TORCH_PROBE", 'print("{}")')
    monkeypatch.setattr(doctor, "_torch", lambda probe: probe.communicate() and ())


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def of(check, findings):
    return [finding for finding in findings if finding.check == check]


def test_this_installation_is_in_order(ecgcmr, tmp_path):
    done = ecgcmr("doctor", "--json", "--leaderboards", tmp_path, store=tmp_path / "store")
    findings = json.loads(done.stdout)
    assert {"python", "packages", "libraries", "torch", "device", "store"} <= {
        finding["check"] for finding in findings
    }
    assert not [finding for finding in findings if finding["state"] == "problem"]
    (pair,) = (finding for finding in findings if finding["check"] == "torch")
    assert "fit together" in pair["detail"]
    assert not (tmp_path / "store").exists(), "it makes nothing"


def test_every_line_that_is_not_ok_says_what_to_do(quick, root, tmp_path, monkeypatch):
    root.mkdir(mode=0o755)
    (root / "done").mkdir()
    root.chmod(0o755)
    (root / "thesis.tex").touch()
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setattr(doctor, "ROOM", 1e30)
    monkeypatch.setattr(doctor, "LITTLE_ROOM", 1e30)
    monkeypatch.setattr(type(registry()), "broken", {"methods.x": "Traceback\nSyntaxError: no"})
    (tmp_path / "file").touch()
    findings = examine(tmp_path / "file")
    wrong = [finding for finding in findings if finding.state != "ok"]
    assert {finding.check for finding in wrong} >= {
        "store", "room", "threads", "plugins", "leaderboards"
    }  # fmt: skip
    assert all(finding.todo for finding in wrong)
    assert "chmod 700" in text(findings)
    assert "SyntaxError: no" in text(findings)
    assert "thesis.tex" in text(findings)


def test_a_sound_store_is_left_as_it_was(quick, root, tmp_path):
    Store(root)
    before = sorted(root.rglob("*"))
    (found,) = of("store", examine(tmp_path))
    assert found.state == "ok"
    assert sorted(root.rglob("*")) == before


def test_a_store_that_is_a_file(quick, root, tmp_path):
    root.touch()
    (found,) = of("store", examine(tmp_path))
    assert (found.state, "is no folder" in found.detail) == ("problem", True)


@pytest.mark.parametrize("call", ["rename", "flock"])
def test_a_disk_that_cannot_do_what_the_store_needs(quick, root, tmp_path, monkeypatch, call):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    target = doctor.Path if call == "rename" else doctor.fcntl
    monkeypatch.setattr(target, call, refuse)
    (found,) = of("store", examine(tmp_path))
    assert found.state == "problem"
    assert "two runs would not be safe" in found.detail


def test_a_folder_of_our_names_first_on_the_path_is_found(tmp_path):
    (tmp_path / "methods").mkdir()
    code = "from benchmark import doctor; [print(f.state, f.detail) for f in doctor._names()]"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("problem not ours: methods")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit('operator torchvision::nms does not exist')", "nms does not exist"),
        ("import os; os._exit(132)", "ended with 132"),
        ('print(\'{"torch": "2", "torchvision": "1", "error": "RuntimeError: nms", "cuda": false, '
         '"mps": false, "built_for": null}\')', "do not fit together: RuntimeError: nms"),
    ],
)  # fmt: skip
def test_a_torch_that_does_not_work_is_a_problem_and_no_crash(
    root, tmp_path, monkeypatch, code, words
):
    monkeypatch.setattr(doctor, "TORCH_PROBE", code)
    (found,) = of("torch", examine(tmp_path))
    assert found.state == "problem"
    assert words in found.detail
    assert "pip install" in found.todo


def test_a_gpu_that_torch_cannot_use_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    found = {"cuda": False, "mps": False, "built_for": None}
    (finding,) = doctor._device(found)
    assert finding.state == "warning"
    assert "without CUDA" in finding.detail


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({"cpu.max": "150000 100000\n", "memory.max": "2000000000\n"}, 1.5, 2_000_000_000),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ({"cpu.max": "nonsense"}, None, None),
        ({}, None, None),
    ],
)
def test_limits_of_a_container(tmp_path, files, cores, memory):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu_limit(tmp_path) == cores
    assert memory_limit(tmp_path) == memory


def test_a_terminal_that_prints_no_unicode_is_a_warning(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert [finding.state for finding in doctor._python()] == ["ok", "warning"]


def test_missing_and_old_libraries_are_named(monkeypatch):
    needed = ["numpy>=999", "no-such-package>=1", "left-out>=1; extra == 'dev'"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: needed)
    (finding,) = doctor._libraries()
    assert finding.state == "problem"
    assert "no-such-package is missing" in finding.detail
    assert "needed >=999" in finding.detail
    assert "left-out" not in finding.detail
