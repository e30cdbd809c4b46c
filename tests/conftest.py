import os
import subprocess
import sys
from pathlib import Path

import pytest

# As the command line does, and before torch is loaded: spinning threads of libgomp make a training
# step many times slower as soon as something else uses a core.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # a core each; threads of several would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent


def pytest_make_parametrize_id(val, argname):
    """Name bytes after their argument: archives hold the time, workers have to agree on names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory):
    """One store for every test that trains at smoke: what one has made, the next one finds."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if WORKER else base) / "shared" / "store"


@pytest.fixture
def ecgcmr(tmp_path):
    """Run the command line in a process of its own."""

    def call(*arguments, store, check=True, timeout=300, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "benchmark", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "ECGCMR_STORE": str(store), **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return call
