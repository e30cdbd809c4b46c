from __future__ import annotations

import copy

import numpy as np
import pytest
from ukb_files import ecg_steps, leads_with, numbers, xml

from benchmark.cohorts.cohort import LEADS
from benchmark.cohorts.ukb.cardiosoft import read_ecg
from benchmark.cohorts.ukb.reasons import Flag, Reason, Refused


def test_reads_strip_and_measurements():
    read = read_ecg(xml())
    assert read.ecg.dtype == np.int16
    np.testing.assert_array_equal(read.ecg, ecg_steps())
    assert dict(read.measurements) == {
        "ventricular_rate": 61,
        "pq_interval": 166,
        "qrs_duration": 92,
        "t_axis": -12,
    }
    assert read.flags == frozenset()


@pytest.mark.parametrize("name", [str.upper, str.lower, lambda lead: f" {lead} "])
def test_leads_are_ordered_by_name_in_any_case(name):
    leads = [(name(lead), text) for lead, text in reversed(leads_with())]
    np.testing.assert_array_equal(read_ecg(xml(leads)).ecg, ecg_steps())


def test_further_leads_are_ignored():
    np.testing.assert_array_equal(read_ecg(xml([*leads_with(), ("X", "1,2")])).ecg, ecg_steps())


def test_nested_strip_and_comma_at_the_end():
    leads = [(lead, text + ",\n") for lead, text in leads_with()]
    np.testing.assert_array_equal(read_ecg(xml(leads, strip="Strip/StripData")).ecg, ecg_steps())


def test_other_resolutions_are_rescaled():
    np.testing.assert_array_equal(read_ecg(xml(resolution="10")).ecg, 2 * ecg_steps())
    read = read_ecg(xml(resolution="4.88")).ecg
    assert np.abs(read * 5 - ecg_steps() * 4.88).max() <= 2.5


@pytest.mark.parametrize(
    ("declaration", "encoding"),
    [
        ('<?xml version="1.0" encoding="UTF-8"?>', "utf-8"),
        ('<?xml version="1.0" encoding="UTF-16"?>', "utf-16"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?>', "utf-8-sig"),
        ("", "utf-8"),
    ],
)
def test_other_encodings(declaration, encoding):
    content = xml(declaration=declaration, encoding=encoding).lstrip()
    np.testing.assert_array_equal(read_ecg(content).ecg, ecg_steps())


def test_poor_quality_is_flagged():
    content = xml(conclusion="*** Poor data quality, interpretation may be affected")
    assert read_ecg(content).flags == {Flag.POOR_QUALITY}


def test_nothing_else_of_the_person_is_kept():
    read = read_ecg(xml())
    assert set(vars(read)) == {"ecg", "measurements", "flags"}
    assert "ller" not in repr(read)


def test_samples_of_50_mv_are_the_last_to_be_believed():
    samples = ecg_steps()[0]
    samples[7] = 10_000
    assert read_ecg(xml(leads_with(V1=numbers(samples)))).ecg[LEADS.index("V1"), 7] == 10_000


def test_refusal_survives_a_process_pool():
    refused = copy.deepcopy(Refused(Reason.WRONG_LENGTH, "4999 samples"))
    assert (refused.reason, refused.detail) == (Reason.WRONG_LENGTH, "4999 samples")
    assert str(refused) == "ECG lead without exactly 5,000 samples (4999 samples)"
