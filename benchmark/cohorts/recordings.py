"""Reading a single 12-lead recording: WFDB, ``.mat`` of ECG foundation models, CardioSoft's XML."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.api import UserError
from benchmark.cohorts.cohort import LEADS

MINIMUM_RATE = 100.0  # Hz
MINIMUM_SECONDS = 5.0
FLAT_MV = 0.02  # peak to peak; the smallest QRS complex anyone calls one is 0.1 mV
ARTEFACT_MV = 5.0  # the limit of the cleaning; a .mat in uV lies beyond it most of the time
MILLIVOLTS = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}


class Fault(enum.StrEnum):
    """What is wrong with a recording, of the kinds that are worth counting."""

    MISSING = "no such recording"
    FORMAT = "neither a WFDB record nor a .mat file of this form"
    HEADER = "header damaged"
    SIGNALS = "signals damaged or missing"
    LEADS = "one of the twelve leads missing or there twice"
    UNIT = "lead not in volts"
    RATE = "no sampling rate, or below 100 Hz"
    SHORT = "recording too short"
    SAMPLES_MISSING = "samples missing"
    FLAT = "flat lead"
    SCALE = "amplitudes that cannot be mV"


class RecordingError(UserError):
    """A recording that cannot be used.

    Parameters
    ----------
    path
        As asked for.
    fault
        What is counted.
    detail
        What a person is told, after the path.
    """

    def __init__(self, path: Path, fault: Fault, detail: str) -> None:
        super().__init__(path, fault, detail)
        self.path, self.fault, self.detail = path, fault, detail

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


@dataclass(frozen=True)
class Recording:
    """A 12-lead recording.

    Attributes
    ----------
    ecg_mv
        (12, samples) float32 in mV, leads ordered as `benchmark.cohorts.cohort.LEADS`.
    rate
        Hz.
    name
        Of the record, without folder and ending.
    """

    ecg_mv: np.ndarray
    rate: float
    name: str


def read_recording(path: str | Path) -> Recording:
    """Read one recording and make sure that it can be used.

    Parameters
    ----------
    path
        A WFDB record (its ``.hea``, its signal file, or neither ending), leads found by name
        whatever their case and order and others left out; or a ``.mat`` of CODE-15% as ECG-FM
        keeps it: ``feats`` (12, samples) in standard lead order, taken as mV, and
        ``curr_sample_rate``; or the XML of UK Biobank's field 20205.

    Returns
    -------
    Recording

    Raises
    ------
    RecordingError
        One line with the file and the reason: not there, unreadable, a lead missing, flat or with
        missing samples, a unit that cannot be, no sampling rate or one below 100 Hz, less than 5 s.
    """
    path = Path(path)
    if path.is_dir():
        raise RecordingError(path, Fault.FORMAT, "this is a folder; name the record inside it")
    # A header beside a .mat makes it a WFDB signal file (PhysioNet Challenges 2020 and 2021).
    for record in (path, path.with_suffix("")):
        header = record.with_name(record.name + ".hea")
        if header.is_file():
            ecg_mv, rate = _read_wfdb(path, record, header)
            return checked(path, ecg_mv, rate, record.name)
    if not path.is_file():
        header = path if path.suffix == ".hea" else path.with_name(path.name + ".hea")
        raise RecordingError(
            path, Fault.MISSING, f"no such recording (neither this file nor {header.name})"
        )
    if path.suffix.lower() == ".xml":
        return checked(path, *_read_xml(path), path.stem)
    if path.suffix.lower() != ".mat":
        header = path.with_suffix(".hea").name
        raise RecordingError(
            path,
            Fault.FORMAT,
            f"neither a .mat or .xml file nor a WFDB record ({header} is missing)",
        )
    ecg_mv, rate = _read_mat(path)
    return checked(path, ecg_mv, rate, path.stem)


def _read_wfdb(path: Path, record: Path, header: Path) -> tuple[np.ndarray, float]:
    import wfdb

    # wfdb reads a missing rate as 250 Hz, WFDB's default of 1990; a guess is worth an error here.
    if len(_record_line(path, header)) < 3:
        raise RecordingError(path, Fault.RATE, "the header gives no sampling rate")
    try:
        described = wfdb.rdheader(str(record))
        names = described.sig_name or []
    except Exception as error:  # a damaged header raises anything from ValueError to TypeError
        raise RecordingError(
            path, Fault.HEADER, f"cannot read the header {header.name}: {_line(error)}"
        ) from None
    if len(names) != described.n_sig:
        raise RecordingError(
            path,
            Fault.HEADER,
            f"the header {header.name} announces {described.n_sig} signals "
            f"and describes {len(names)}",
        )
    channels = _find_leads(path, names)
    try:
        read = wfdb.rdrecord(str(record), channels=channels)
        signals = np.asarray(read.p_signal, dtype=np.float64).T
    except FileNotFoundError as error:
        missing = Path(error.filename).name if error.filename else "a signal file"
        raise RecordingError(path, Fault.SIGNALS, f"the signal file {missing} is missing") from None
    except Exception as error:  # as does a damaged or truncated signal file
        raise RecordingError(
            path, Fault.SIGNALS, f"cannot read the signals: {_line(error)}"
        ) from None
    # wfdb returns channels in the order of the file.
    by_name = {name.strip().lower(): row for row, name in enumerate(read.sig_name)}
    rows = [by_name[lead.lower()] for lead in LEADS]
    scale = []
    for lead, row in zip(LEADS, rows, strict=True):
        unit = (read.units[row] or "").strip()
        if unit.lower() not in MILLIVOLTS:
            raise RecordingError(
                path, Fault.UNIT, f"lead {lead} is in {unit!r}, not in mV, uV or V"
            )
        scale.append(MILLIVOLTS[unit.lower()])
    return signals[rows] * np.array(scale)[:, None], float(read.fs)


def _record_line(path: Path, header: Path) -> list[str]:
    """Words of the header's first line that is not a comment: name, signals, rate, samples."""
    try:
        lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RecordingError(
            path, Fault.HEADER, f"cannot read the header {header.name}: {_line(error)}"
        ) from None
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if not words:
        raise RecordingError(
            path, Fault.HEADER, f"cannot read the header {header.name}: it is empty"
        )
    return words[0]


def _find_leads(path: Path, names: Sequence[str | None]) -> list[int]:
    found = [(name or "").strip().lower() for name in names]
    missing = [lead for lead in LEADS if lead.lower() not in found]
    if missing:
        raise RecordingError(
            path, Fault.LEADS, f"{_leads(missing)} missing (it has {', '.join(map(str, names))})"
        )
    twice = [lead for lead in LEADS if found.count(lead.lower()) > 1]
    if twice:
        raise RecordingError(path, Fault.LEADS, f"{_leads(twice)} there more than once")
    return sorted(found.index(lead.lower()) for lead in LEADS)


def _read_mat(path: Path) -> tuple[np.ndarray, float]:
    from scipy.io import loadmat, whosmat

    keys = ("feats", "curr_sample_rate", "org_sample_rate")
    try:
        # Looked up first: loadmat would build whatever objects a file holds.
        kinds = {name: kind for name, _, kind in whosmat(path)}
        numeric = [key for key in keys if kinds.get(key) in _NUMERIC]
        content = loadmat(path, variable_names=numeric)
    except Exception as error:  # a damaged file raises anything from ValueError to zlib.error
        raise RecordingError(
            path, Fault.FORMAT, f"cannot read it as a MATLAB file: {_line(error)}"
        ) from None
    if "feats" not in numeric:
        held = ", ".join(kinds) or "nothing"
        raise RecordingError(path, Fault.FORMAT, f"no numeric array 'feats' (it holds {held})")
    feats = content["feats"]
    if feats.ndim != 2 or feats.shape[0] != len(LEADS):
        shape = " x ".join(map(str, feats.shape))
        raise RecordingError(
            path, Fault.FORMAT, f"'feats' is {shape}; {len(LEADS)} leads x samples are expected"
        )
    rate = next((content[key] for key in keys[1:] if key in numeric), None)
    if rate is None or rate.size != 1:
        raise RecordingError(path, Fault.RATE, "no sampling rate ('curr_sample_rate')")
    if np.iscomplexobj(feats) or np.iscomplexobj(rate):
        raise RecordingError(path, Fault.FORMAT, "holds complex numbers")
    return feats.astype(np.float64), float(rate.item())


def _read_xml(path: Path) -> tuple[np.ndarray, float]:
    from benchmark.cohorts.cohort import ECG_MILLIVOLT, ECG_RATE
    from benchmark.cohorts.ukb.cardiosoft import MAX_BYTES, read_ecg
    from benchmark.cohorts.ukb.reasons import Refused

    try:
        with path.open("rb") as file:
            read = read_ecg(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise RecordingError(path, Fault.SIGNALS, f"cannot read it: {_line(error)}") from None
    except Refused as refused:
        raise RecordingError(path, Fault.FORMAT, str(refused.reason)) from None
    return read.ecg * ECG_MILLIVOLT, float(ECG_RATE)


_NUMERIC = {
    *("double", "single", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
}


def checked(path: Path, ecg_mv: np.ndarray, rate: float, name: str) -> Recording:
    """Make sure that a recording can be used, wherever it was read from.

    Parameters
    ----------
    path
        What errors call it.
    ecg_mv
        (12, samples) in mV, leads ordered as `benchmark.cohorts.cohort.LEADS`.
    rate
        Hz.
    name
        Of the record.

    Raises
    ------
    RecordingError
        For another shape, a lead that is flat or misses samples, amplitudes that cannot be mV, a
        sampling rate below 100 Hz, or less than 5 s.
    """
    if ecg_mv.ndim != 2 or ecg_mv.shape[0] != len(LEADS):
        shape = " x ".join(map(str, ecg_mv.shape))
        raise RecordingError(path, Fault.LEADS, f"{shape} values; {len(LEADS)} x samples expected")
    if not np.isfinite(rate) or rate < MINIMUM_RATE:
        raise RecordingError(
            path, Fault.RATE, f"sampled at {rate:g} Hz; at least {MINIMUM_RATE:g} Hz is needed"
        )
    seconds = ecg_mv.shape[1] / rate
    if seconds < MINIMUM_SECONDS:
        raise RecordingError(
            path,
            Fault.SHORT,
            f"{seconds:.1f} s of signal; at least {MINIMUM_SECONDS:g} s is needed",
        )
    bad = (~np.isfinite(ecg_mv)).sum(axis=1)
    if bad.any():
        counts = ", ".join(f"{lead} {k}" for lead, k in zip(LEADS, bad, strict=True) if k)
        raise RecordingError(
            path,
            Fault.SAMPLES_MISSING,
            f"samples missing (NaN), by lead: {counts} of {ecg_mv.shape[1]}",
        )
    flat = [lead for lead, x in zip(LEADS, np.ptp(ecg_mv, axis=1), strict=True) if x < FLAT_MV]
    if flat:
        raise RecordingError(path, Fault.FLAT, f"{_leads(flat)} flat (under {FLAT_MV * 1000:g} uV)")
    typical = np.median(np.abs(ecg_mv - np.median(ecg_mv, axis=1, keepdims=True)))
    if typical > ARTEFACT_MV:
        raise RecordingError(
            path, Fault.SCALE, f"typically {typical:.3g} mV from the baseline; are these mV?"
        )
    return Recording(ecg_mv.astype(np.float32), rate, name)


def _leads(names: Sequence[str]) -> str:
    return f"lead {names[0]} is" if len(names) == 1 else f"leads {', '.join(names)} are"


def _line(error: Exception) -> str:
    """First line of an error's text, or its type."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
