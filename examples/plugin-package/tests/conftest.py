import pytest

from ecgcmr_example.imitate import write_code15, write_echonext


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """A private store for each test."""
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def code15(tmp_path):
    """40 simulated people's ECGs in the files of CODE-15%."""
    write_code15(tmp_path / "code15", 40)
    return tmp_path / "code15"


@pytest.fixture
def echonext(tmp_path):
    """30 in those of EchoNext."""
    write_echonext(tmp_path / "echonext", 30)
    return tmp_path / "echonext"
