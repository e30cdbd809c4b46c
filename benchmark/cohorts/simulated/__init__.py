"""Simulated people whose ECG, cine CMR, phenotypes and diagnoses follow from one cardiac state."""

from benchmark.cohorts.simulated.cohort import SimulatedCohort

__all__ = ["SimulatedCohort"]
