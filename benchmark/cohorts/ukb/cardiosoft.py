"""Resting ECG from UK Biobank's field 20205: the XML of GE's CardioSoft.

The element names are those that genomisc, ml4h and other public readers of these files agree on.
Only the ten-second strip and the device's measurements are kept: name, ids, dates and free text
are not.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from benchmark.cohorts.cohort import ECG_MILLIVOLT, ECG_RATE, ECG_SAMPLES, LEADS
from benchmark.cohorts.ukb.reasons import Flag, Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from xml.etree.ElementTree import Element

MAX_BYTES = 20 << 20  # a genuine file has 0.7 MB
MAX_MARKUP = 200_000  # of < and =: elements and attributes take a hundred times their text's memory
MAX_MILLIVOLT = 50.0  # ten times the highest QRS complexes

NAMES = [lead.lower() for lead in LEADS]  # versions of the software differ in case

MEASUREMENTS = MappingProxyType(
    {
        "ventricular_rate": "VentricularRate",  # beats per minute
        "p_duration": "PDuration",  # ms, as are the next six
        "pq_interval": "PQInterval",
        "qrs_duration": "QRSDuration",
        "qt_interval": "QTInterval",
        "qtc_interval": "QTCInterval",
        "rr_interval": "RRInterval",
        "pp_interval": "PPInterval",
        "p_axis": "PAxis",  # degrees, as are the next two
        "r_axis": "RAxis",
        "t_axis": "TAxis",
    }
)
"""What the device measured: our name and the file's."""


@dataclass(frozen=True, kw_only=True)
class CardioSoftECG:
    """A resting ECG of ten seconds at 500 Hz.

    Attributes
    ----------
    ecg
        (12, 5000) int16 in steps of 5 uV, leads ordered as `benchmark.cohorts.cohort.LEADS`.
    measurements
        Those of `MEASUREMENTS` that the file states.
    flags
        What is odd about the file.
    """

    ecg: np.ndarray
    measurements: Mapping[str, float]
    flags: frozenset[Flag] = frozenset()


def read_ecg(content: bytes) -> CardioSoftECG:
    """Read a resting ECG.

    Parameters
    ----------
    content
        Of the XML file. Bytes, because the file itself declares its encoding (ISO-8859-1).

    Returns
    -------
    CardioSoftECG
        Strip and measurements.

    Raises
    ------
    Refused
        With the reason, for anything but twelve complete leads at 500 Hz.
    """
    root = _parse(content)
    if root.tag != "CardiologyXML":
        raise Refused(Reason.NOT_CARDIOSOFT)
    kind = root.findtext("ObservationType")
    if kind is not None and kind.strip().lower() != "restecg":
        raise Refused(Reason.NOT_RESTING)
    # Not any WaveformData of the tree: the median beat has twelve too.
    strip = root.find("StripData")
    if strip is None:
        strip = root.find("Strip/StripData")
    if strip is None:
        raise Refused(Reason.NO_STRIP)
    if _number(strip.findtext("SampleRate")) != ECG_RATE:
        raise Refused(Reason.WRONG_RATE)

    leads = _leads(strip)
    with np.errstate(over="ignore"):
        millivolt = np.stack([_samples(leads[name]) for name in NAMES]) * _resolution(strip) / 1000
    if (np.abs(millivolt) > MAX_MILLIVOLT).any():
        raise Refused(Reason.IMPLAUSIBLE_AMPLITUDE)
    ecg = np.rint(millivolt / ECG_MILLIVOLT).astype(np.int16)
    if (np.ptp(ecg, axis=1) == 0).any():
        raise Refused(Reason.FLAT_LEAD)

    found = root.find("RestingECGMeasurements")
    measurements = {}
    for name, tag in MEASUREMENTS.items():
        value = None if found is None else _number(found.findtext(tag))
        if value is not None:
            measurements[name] = value
    return CardioSoftECG(
        ecg=ecg,
        measurements=measurements,
        flags=frozenset({Flag.POOR_QUALITY} if _poor_quality(root) else ()),
    )


def _parse(content: bytes) -> Element:
    """Parse a file of bounded size without entities, which could make it unboundedly large."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    if not content:
        raise Refused(Reason.EMPTY_FILE)
    if len(content) > MAX_BYTES or content.count(b"<") + content.count(b"=") > MAX_MARKUP:
        raise Refused(Reason.TOO_LARGE)
    try:
        return ElementTree.fromstring(content, forbid_dtd=True)
    except DefusedXmlException:
        raise Refused(Reason.XML_DTD) from None
    except ParseError as error:
        wrong = _encoding_errors(content)
        reason = Reason.XML_ENCODING if error.code in wrong else Reason.XML_MALFORMED
        raise Refused(reason, f"expat error {error.code}") from None
    except (LookupError, ValueError):  # an encoding that Python does not know, or of many bytes
        raise Refused(Reason.XML_ENCODING) from None


def _encoding_errors(content: bytes) -> set[int]:
    """Return the parser's errors that mean a wrong encoding in this file."""
    from xml.parsers.expat import errors

    names = [errors.XML_ERROR_UNKNOWN_ENCODING, errors.XML_ERROR_INCORRECT_ENCODING]
    declared = re.match(rb"""\s*<\?xml[^>]*encoding\s*=\s*["']([^"']*)""", content)
    unspecified = declared is None and content.lstrip().startswith(b"<")
    if unspecified or (declared is not None and declared[1].lower() == b"utf-8"):
        try:
            content.decode()
        except UnicodeDecodeError:  # then any byte may be the one that the parser stopped at
            names += [errors.XML_ERROR_INVALID_TOKEN, errors.XML_ERROR_PARTIAL_CHAR]
    return {errors.codes[name] for name in names}


def _leads(strip: Element) -> dict[str, Element]:
    """Find the leads by name, whatever their order."""
    waveforms = [
        (one.get("lead", "").strip().lower(), one) for one in strip.findall("WaveformData")
    ]
    count = Counter(name for name, _ in waveforms)
    if missing := sum(count[name] == 0 for name in NAMES):
        raise Refused(Reason.MISSING_LEAD, f"{missing} missing")
    if any(count[name] > 1 for name in NAMES):
        raise Refused(Reason.DUPLICATE_LEAD)
    return dict(waveforms)


def _samples(waveform: Element) -> np.ndarray:
    """Read a lead's comma-separated numbers, which tabs and line ends may surround."""
    text = waveform.text or ""
    if text.count(",") > 2 * ECG_SAMPLES:
        raise Refused(Reason.WRONG_LENGTH)
    # Python's float takes underscores and the digits of all scripts; a genuine file has neither.
    if not text.isascii() or "_" in text:
        raise Refused(Reason.NOT_NUMERIC)
    parts = text.split(",")
    if not parts[-1].strip():
        parts.pop()  # a comma, or nothing at all, at the end
    if len(parts) != ECG_SAMPLES:
        raise Refused(Reason.WRONG_LENGTH, f"{len(parts)} samples")
    try:
        samples = np.array([float(part) for part in parts])
    except ValueError:
        raise Refused(Reason.NOT_NUMERIC) from None
    if not np.isfinite(samples).all():
        raise Refused(Reason.NOT_FINITE)
    return samples


def _resolution(strip: Element) -> float:
    """Return the uV of one step."""
    resolution = strip.find("Resolution")
    if resolution is not None and resolution.get("units", "").strip().lower() == "uvperlsb":
        value = _number(resolution.text)
        if value is not None and 0.01 <= value <= 1000:
            return value
    raise Refused(Reason.WRONG_RESOLUTION)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _poor_quality(root: Element) -> bool:
    """Whether the device says that the tracing is poor; the text itself is not kept."""
    interpretation = root.find("Interpretation")
    text = "" if interpretation is None else " ".join(interpretation.itertext())
    return "poor data quality" in text.lower()
