from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wfdb
from scipy.io import savemat

from benchmark.api import UserError
from benchmark.cohorts.cohort import LEADS
from benchmark.cohorts.recordings import read_recording

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples/ptbdb_s0010_re"
RATE = 500


@pytest.fixture
def ecg() -> np.ndarray:
    """(5000, 12) in mV, on the 5 uV grid, every lead different."""
    steps = np.random.default_rng(3).integers(-200, 200, (5000, 12)) + 10 * np.arange(12)
    return steps * 0.005


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, ecg: np.ndarray) -> Write:
    """Write a WFDB record and return its path without ending."""

    def write(
        signals: np.ndarray = ecg,
        leads: tuple[str, ...] = LEADS,
        rate: float = RATE,
        unit: str = "mV",
        gain: float = 200.0,
    ) -> Path:
        count = len(leads)
        wfdb.wrsamp(
            "rec",
            fs=rate,
            units=[unit] * count,
            sig_name=list(leads),
            p_signal=signals,
            fmt=["16"] * count,
            adc_gain=[gain] * count,
            baseline=[0] * count,
            write_dir=str(tmp_path),
        )
        return tmp_path / "rec"

    return write


def reason(path: Path) -> str:
    """The error for a file: one line that begins with it."""
    with pytest.raises(UserError) as caught:
        read_recording(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("ending", ["", ".hea", ".dat", ".xyz"])
def test_example_is_found_under_each_of_its_names(ending: str) -> None:
    recording = read_recording(EXAMPLE / f"s0010_re{ending}")
    assert (recording.name, recording.rate) == ("s0010_re", 1000.0)
    assert recording.ecg_mv.shape == (12, 38_400)
    assert recording.ecg_mv.dtype == np.float32
    one, two, three, avr, avl, avf = recording.ecg_mv[:6]
    assert np.abs(one + three - two).max() < 2e-3  # rounding of three leads
    assert np.abs(avr + avl + avf).max() < 2e-3
    # Lead II of the file's first sample: -458 steps of 0.5 uV.
    assert two[0] == pytest.approx(-0.229)


def test_mat_is_read_in_standard_order() -> None:
    recording = read_recording(HERE / "data/code15/code15_04.mat")
    assert (recording.name, recording.rate) == ("code15_04", 400.0)
    assert recording.ecg_mv.shape == (12, 4096)
    assert np.abs(recording.ecg_mv[0] + recording.ecg_mv[2] - recording.ecg_mv[1]).max() < 1e-5


def test_values_survive_writing_and_reading(write: Write, ecg: np.ndarray) -> None:
    assert np.array_equal(read_recording(write()).ecg_mv, ecg.T.astype(np.float32))


def test_leads_are_found_by_name(write: Write, ecg: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(12)
    leads = tuple(LEADS[k].upper() if k % 2 else f"{LEADS[k].lower()}" for k in order)
    extra = np.column_stack([np.zeros(5000), ecg[:, order], np.zeros(5000)])
    read = read_recording(write(extra, ("vx", *leads, "resp")))
    assert np.array_equal(read.ecg_mv, ecg.T.astype(np.float32))


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1000.0), ("V", 0.001), ("MV", 1.0)])
def test_units_are_converted(write: Write, ecg: np.ndarray, unit: str, factor: float) -> None:
    read = read_recording(write(ecg * factor, unit=unit, gain=200.0 / factor))
    assert read.ecg_mv == pytest.approx(ecg.T, abs=1e-6)


def test_unknown_unit(write: Write) -> None:
    assert reason(write(unit="mmHg")) == "lead I is in 'mmHg', not in mV, uV or V"


def test_nothing_there(tmp_path: Path) -> None:
    assert "no such recording" in reason(tmp_path / "nothing")
    assert "no such recording" in reason(tmp_path / "nothing.hea")
    assert "no such recording" in reason(tmp_path / "nothing.mat")
    assert "folder" in reason(tmp_path)


def test_header_missing(write: Write) -> None:
    record = write()
    record.with_suffix(".hea").unlink()
    assert "rec.hea is missing" in reason(record.with_suffix(".dat"))
    assert "rec.hea" in reason(record)


def test_signal_file_missing(write: Write) -> None:
    record = write()
    record.with_suffix(".dat").unlink()
    assert reason(record) == "the signal file rec.dat is missing"


@pytest.mark.parametrize(
    "content", [b"", b"# only a comment\n", b"rec twelve 500 5000\n", b"\xff\xfe\x00\x01" * 50]
)
def test_header_unreadable(write: Write, content: bytes) -> None:
    record = write()
    record.with_suffix(".hea").write_bytes(content)
    assert "header" in reason(record)


def test_header_cut_short(write: Write) -> None:
    header = write().with_suffix(".hea")
    header.write_text("\n".join(header.read_text().splitlines()[:5]) + "\n")
    assert reason(header) == "the header rec.hea announces 12 signals and describes 4"


def test_signals_cut_short(write: Write) -> None:
    record = write()
    data = record.with_suffix(".dat")
    data.write_bytes(data.read_bytes()[:1001])
    assert "cannot read the signals" in reason(record)


@pytest.mark.parametrize("gone", [("V4",), ("aVR", "V6")])
def test_lead_missing(write: Write, ecg: np.ndarray, gone: tuple[str, ...]) -> None:
    kept = [k for k, lead in enumerate(LEADS) if lead not in gone]
    text = reason(write(ecg[:, kept], tuple(LEADS[k] for k in kept)))
    assert ("lead V4 is missing" if len(gone) == 1 else "leads aVR, V6 are missing") in text


def test_lead_twice(write: Write, ecg: np.ndarray) -> None:
    both = np.column_stack([ecg, ecg[:, 6]])
    assert reason(write(both, (*LEADS, "v1"))) == "lead V1 is there more than once"


def test_nan_says_where_and_how_many(write: Write, ecg: np.ndarray) -> None:
    ecg[10:17, 3] = np.nan
    ecg[0, 11] = np.nan
    text = reason(write(ecg))
    assert text == "samples missing (NaN), by lead: aVR 7, V6 1 of 5000"


def test_rate_missing(write: Write) -> None:
    header = write().with_suffix(".hea")
    first, *rest = header.read_text().splitlines()
    header.write_text("\n".join([" ".join(first.split()[:2]), *rest]) + "\n")
    assert reason(header) == "the header gives no sampling rate"


def test_rate_too_low(write: Write) -> None:
    assert reason(write(rate=99)) == "sampled at 99 Hz; at least 100 Hz is needed"


def test_too_short(write: Write, ecg: np.ndarray) -> None:
    assert reason(write(ecg[:2400])) == "4.8 s of signal; at least 5 s is needed"
    assert read_recording(write(ecg[:2500])).ecg_mv.shape == (12, 2500)


def test_flat_lead(write: Write, ecg: np.ndarray) -> None:
    ecg[:, 8] = 0.7
    assert reason(write(ecg)) == "lead V3 is flat (under 20 uV)"


def mat(path: Path, **content: object) -> Path:
    savemat(path, content)
    return path


def test_mat_in_microvolts(tmp_path: Path, ecg: np.ndarray) -> None:
    path = mat(tmp_path / "a.mat", feats=ecg.T * 1000, curr_sample_rate=400)
    assert "are these mV?" in reason(path)


def test_mat_without_the_array(tmp_path: Path, ecg: np.ndarray) -> None:
    path = mat(tmp_path / "a.mat", val=ecg.T, curr_sample_rate=400)
    assert reason(path) == "no numeric array 'feats' (it holds val, curr_sample_rate)"


@pytest.mark.parametrize("feats", [{"a": 1}, np.array([[1], ["x"]], dtype=object), "text"])
def test_mat_with_something_else_than_numbers(tmp_path: Path, feats: object) -> None:
    assert "no numeric array" in reason(mat(tmp_path / "a.mat", feats=feats, curr_sample_rate=400))


@pytest.mark.parametrize("shape", [(11, 5000), (5000, 12), (12, 10, 500)])
def test_mat_of_the_wrong_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = mat(tmp_path / "a.mat", feats=np.ones(shape), curr_sample_rate=400)
    assert " x ".join(map(str, shape)) in reason(path)


def test_mat_without_a_rate(tmp_path: Path, ecg: np.ndarray) -> None:
    assert "no sampling rate" in reason(mat(tmp_path / "a.mat", feats=ecg.T))
    nan = mat(tmp_path / "b.mat", feats=ecg.T, curr_sample_rate=np.nan)
    assert "sampled at nan Hz" in reason(nan)


def test_mat_falls_back_on_the_original_rate(tmp_path: Path, ecg: np.ndarray) -> None:
    path = mat(tmp_path / "a.mat", feats=ecg.T, org_sample_rate=400)
    assert read_recording(path).rate == 400


def test_mat_damaged_at_any_place(tmp_path: Path) -> None:
    whole = (HERE / "data/code15/code15_04.mat").read_bytes()
    path = tmp_path / "a.mat"
    for cut in (0, 3, 127, 130, 200, len(whole) // 2):
        path.write_bytes(whole[:cut])
        assert reason(path)
    rng = np.random.default_rng(0)
    for _ in range(30):
        spoilt = bytearray(whole)
        for place in rng.integers(0, 400, 8):
            spoilt[place] = rng.integers(256)
        path.write_bytes(spoilt)
        # Damage to the text that such a file begins with does no harm.
        with contextlib.suppress(UserError):
            assert read_recording(path).ecg_mv.shape == (12, 4096)


def test_header_beside_a_mat_makes_it_wfdb(tmp_path: Path) -> None:
    shutil.copy(HERE / "data/code15/code15_04.mat", tmp_path / "a.mat")
    (tmp_path / "a.hea").write_text("a 12 500 5000\n")
    with pytest.raises(UserError):
        read_recording(tmp_path / "a.mat")
