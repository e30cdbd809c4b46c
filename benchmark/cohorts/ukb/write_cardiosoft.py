"""Writes resting ECGs as UK Biobank's devices do: GE CardioSoft XML, field 20205.

The tree is the one of the public readers (the structs of carbocation/genomisc are its fullest
description), with what makes reading it hard: ISO-8859-1, line breaks and tabs inside the numbers,
a median beat and a full disclosure with elements of the same name as the ten-second strip.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np

from benchmark.cohorts.cohort import ECG_MILLIVOLT, ECG_RATE, ECG_SAMPLES, LEADS
from benchmark.cohorts.simulated.ecg import DOWER, Parameters

MEDIAN_SAMPLES = 600
_MEDIAN_R = 225  # sample of the R peak in the median beat
_MICROVOLT = round(1000 * ECG_MILLIVOLT)
_PER_LINE = 25


@dataclass(frozen=True)
class Recording:
    """One ECG and whose it is.

    Attributes
    ----------
    eid
        Stands where the device keeps the patient's id.
    ecg
        (12, 5000) int16 in steps of 5 uV, leads ordered as `LEADS`.
    r_peaks
        (beats,) seconds, NaN after the last one.
    measurements
        What the device prints, in ms, 1/min or degrees, by the name of its element.
    born, age, male, height, weight, pressure
        Day, years, whether a man, cm, kg, mmHg systolic.
    taken
        Date and time.
    """

    eid: int
    ecg: np.ndarray
    r_peaks: np.ndarray
    measurements: Mapping[str, int]
    born: date
    age: int
    male: bool
    height: float
    weight: float
    pressure: float
    taken: datetime


def median_beat(ecg: np.ndarray, r_peaks: np.ndarray) -> np.ndarray:
    """Return the median of all whole beats, (12, 600) int16 with the R peak at 450 ms."""
    starts = np.rint(r_peaks[np.isfinite(r_peaks)] * ECG_RATE).astype(int) - _MEDIAN_R
    whole = starts[(starts >= 0) & (starts + MEDIAN_SAMPLES <= ECG_SAMPLES)]
    beats = np.stack([ecg[:, start : start + MEDIAN_SAMPLES] for start in whole])
    return np.rint(np.median(beats, axis=0)).astype(np.int16)


def measure_ecg(parameters: Parameters, row: int, heart_rate: float) -> dict[str, int]:
    """Return the rate and the intervals the device would measure on one person of a block.

    Without a P wave, as in atrial fibrillation, there are no intervals of it.
    """
    rr = 60_000 / heart_rate
    found = {
        "VentricularRate": heart_rate,
        "QRSDuration": parameters.qrs[row],
        "QTInterval": parameters.qt[row],
        "QTCInterval": parameters.qtc[row],
        "RRInterval": rr,
    }
    if parameters.p_amplitude[row]:
        found |= {
            "PQInterval": parameters.pr[row],
            "PDuration": parameters.p_duration[row],
            "PPInterval": rr,
        }
    return {name: round(float(value)) for name, value in found.items()}


def cardiosoft_xml(recording: Recording) -> bytes:
    """Return the file of a recording."""
    r, beat = recording, median_beat(recording.ecg, recording.r_peaks)
    found = dict(r.measurements)
    onsets = _onsets(found)
    for wave, (start, stop) in _windows(onsets).items():
        found[f"{wave}Axis"] = _axis(beat, start, stop)
    root = _element(
        "CardiologyXML",
        _element("ObservationType", "RestECG"),
        _element("ObservationDateTime", *_numbers(r.taken, "Hour Minute Second Day Month Year")),
        _element("UID", _element("DICOMStudyUID", f"1.2.840.113619.2.{r.eid}")),
        _element(
            "ClinicalInfo",
            _element("ReasonForStudy"),
            _element(
                "Technician", _element("FamilyName", "Zoë"), _element("GivenName"), _element("ID")
            ),
            _element("ObservationComment"),
            _element(
                "DeviceInfo",
                _element("Desc", "CardioSoft"),
                _element("SoftwareVer", "V6.73"),
                _element("AnalysisVer", "12SL V21"),
            ),
        ),
        _element(
            "PatientVisit",
            _element("PatientClass", "O"),
            _element("SysBP", round(r.pressure), units="mmHg"),
            _element("DiaBP", units="mmHg"),
        ),
        _element(
            "PatientInfo",
            _element("PID", r.eid),
            _element("Name", _element("FamilyName", r.eid), _element("GivenName")),
            _element("Age", r.age, units="Years"),
            _element("BirthDateTime", *_numbers(r.born, "Day Month Year")),
            _element("Gender", "MALE" if r.male else "FEMALE"),
            _element("Race"),
            _element("Height", round(r.height), units="cm"),
            _element("Weight", round(r.weight), units="kg"),
            _element("PaceMaker", "NO"),
        ),
        _element(
            "FilterSetting",
            _element("CubicSpline", "No"),
            _element("Filter50Hz", "Yes"),
            _element("Filter60Hz", "No"),
            _element("LowPass", 100, units="Hz"),
            _element("HighPass", 0.01, units="Hz"),
        ),
        _element("Device-Type", "CS"),
        _element(
            "Interpretation",
            _element("Diagnosis", _element("DiagnosisText", _rhythm(found))),
            _element("Conclusion", _element("ConclusionText", _rhythm(found))),
        ),
        _element(
            "RestingECGMeasurements",
            _element("DiagnosisVersion", "12SL V21"),
            *(_element(name, value, units=_unit(name)) for name, value in found.items()),
            _element("QRSNum", int(np.isfinite(r.r_peaks).sum())),
            _element(
                "MeasurementTable",
                _element("LeadOrder", ", ".join(LEADS)),
                *_lead_table(beat, onsets),
                Creation="",
            ),
            *(_element(name, value, units="ms") for name, value in onsets.items()),
            _element(
                "MedianSamples",
                _element("NumberOfLeads", len(LEADS)),
                _element("SampleRate", ECG_RATE, units="Hz"),
                _element("ChannelSampleCountTotal", MEDIAN_SAMPLES),
                _element("Resolution", _MICROVOLT, units="uVperLsb"),
                _element("FirstValid", 0),
                _element("LastValid", MEDIAN_SAMPLES - 1),
                *_waveforms(beat),
            ),
        ),
        _vector_loops(beat, onsets),
        _element(
            "StripData",
            _element("NumberOfLeads", len(LEADS)),
            _element("SampleRate", ECG_RATE, units="Hz"),
            _element("ChannelSampleCountTotal", ECG_SAMPLES),
            _element("Resolution", _MICROVOLT, units="uVperLsb"),
            *_waveforms(r.ecg),
            _element("ArrhythmiaResults", *_beats(r.r_peaks)),
        ),
        _element(
            "FullDisclosure",
            _element("NumberOfChannels", len(LEADS)),
            _element("SampleRate", ECG_RATE, units="Hz"),
            _element("Resolution", _MICROVOLT, units="uVperLsb"),
            _element("LeadOrder", ", ".join(LEADS)),
            _element(
                "FullDisclosureData",
                _element("SampleCountTotal", r.ecg.size),
                _samples(r.ecg.T.ravel()),
            ),
            _element("EventList"),
            _element("ArrhythmiaResults", *_beats(r.r_peaks)),
        ),
        _element("Export"),
        _element("CSWeb"),
    )
    ET.indent(root, "\t")
    return ET.tostring(root, encoding="ISO-8859-1")


def _element(tag: str, *content: ET.Element | str | float, **attributes: str) -> ET.Element:
    element = ET.Element(tag, attributes)
    for part in content:
        if isinstance(part, ET.Element):
            element.append(part)
        elif len(element):
            element[-1].tail = str(part)
        else:
            element.text = str(part)
    return element


def _numbers(moment: date, names: str) -> list[ET.Element]:
    return [_element(name, getattr(moment, name.lower())) for name in names.split()]


def _samples(values: Iterable[int]) -> str:
    """Return numbers between commas, with line breaks and tabs as the device puts them."""
    text = [str(value) for value in values]
    lines = [",".join(text[k : k + _PER_LINE]) for k in range(0, len(text), _PER_LINE)]
    return "\n\t\t\t" + ",\n\t\t\t".join(lines) + "\n\t\t"


def _waveforms(signal: np.ndarray) -> list[ET.Element]:
    return [
        _element("WaveformData", _samples(values.tolist()), lead=lead)
        for lead, values in zip(LEADS, signal, strict=True)
    ]


def _beats(r_peaks: np.ndarray) -> list[ET.Element]:
    parts = []
    for peak in r_peaks[np.isfinite(r_peaks)]:
        parts += [_element("Time", round(1000 * float(peak)), units="ms"), _element("BeatClass", 0)]
    return parts


def _unit(name: str) -> str:
    return "BPM" if name == "VentricularRate" else "degrees" if name.endswith("Axis") else "ms"


def _rhythm(measurements: Mapping[str, int]) -> str:
    if "PQInterval" not in measurements:
        return "Atrial fibrillation"
    rate = measurements["VentricularRate"]
    if rate < 60:
        return "Sinus bradycardia"
    return "Normal sinus rhythm" if rate <= 100 else "Sinus tachycardia"


def _onsets(measurements: Mapping[str, int]) -> dict[str, int]:
    """Return where the waves of the median beat begin and end, in ms from its start."""
    q = round(1000 * _MEDIAN_R / ECG_RATE - measurements["QRSDuration"] / 2)
    onsets = {}
    if "PQInterval" in measurements:
        p = max(q - measurements["PQInterval"], 0)
        onsets = {"POnset": p, "POffset": min(p + measurements["PDuration"], q)}
    last = 1000 * (MEDIAN_SAMPLES - 1) // ECG_RATE
    return onsets | {
        "QOnset": q,
        "QOffset": q + measurements["QRSDuration"],
        "TOffset": min(q + measurements["QTInterval"], last),
    }


def _windows(onsets: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return the samples of the P wave (where there is one), the QRS complex and the T wave."""
    samples = {name: value * ECG_RATE // 1000 for name, value in onsets.items()}
    windows = {
        "R": (samples["QOnset"], samples["QOffset"]),
        "T": (samples["QOffset"] + 10, samples["TOffset"]),
    }
    if "POnset" in samples:
        windows["P"] = (samples["POnset"], samples["POffset"])
    return windows


def _axis(beat: np.ndarray, start: int, stop: int) -> int:
    """Return the direction of a wave in the frontal plane, in degrees, from its areas."""
    wave = beat[:, start:stop] - beat[:, start : start + 1].astype(float)
    one, avf = wave[LEADS.index("I")].sum(), wave[LEADS.index("aVF")].sum()
    return round(float(np.degrees(np.arctan2(2 * avf, np.sqrt(3) * one))))


def _lead_table(beat: np.ndarray, onsets: Mapping[str, int]) -> list[ET.Element]:
    """Return amplitudes in uV per lead; what is not measured is blank, as the device leaves it."""
    windows = _windows(onsets)
    baseline = beat[:, [windows["R"][0]]]
    rows = {}
    for name, wave, extreme in (
        ("PAmplitude", "P", np.max),
        ("RAmplitude", "R", np.max),
        ("SAmplitude", "R", np.min),
        ("TAmplitude", "T", np.max),
    ):
        values = [""] * len(LEADS)
        if wave in windows:
            start, stop = windows[wave]
            values = _MICROVOLT * extreme(beat[:, start:stop] - baseline, axis=1)
        rows[name] = ",".join(map(str, values))
    blank = "QDuration RDuration SDuration QAmplitude JAmplitude R1Amplitude S1Amplitude"
    rows |= dict.fromkeys(blank.split(), "," * (len(LEADS) - 1))
    return [_element(name, text) for name, text in rows.items()]


def _vector_loops(beat: np.ndarray, onsets: Mapping[str, int]) -> ET.Element:
    """Return the heart vector's loops, found from the leads by the inverse of Dower's matrix."""
    independent = [k for k, lead in enumerate(LEADS) if lead in ("I", "II") or lead[0] == "V"]
    loops = np.linalg.pinv(DOWER) @ beat[independent, :-1]
    x, y, z = np.rint(loops).astype(int).tolist()
    return _element(
        "VectorLoops",
        _element("Resolution", _MICROVOLT, units="uVperLsb"),
        _element("ChannelSampleCountTotal", len(x)),
        *(_element(name, value * ECG_RATE // 1000) for name, value in onsets.items()),
        *(
            _element(plane, _samples(values), Lead=lead)
            for plane, lead, values in (
                ("Frontal", "X", x),
                ("Frontal", "Y", y),
                ("Horizontal", "X", x),
                ("Horizontal", "Z", z),
                ("Sagittal", "Y", y),
                ("Sagittal", "Z", z),
            )
        ),
    )
