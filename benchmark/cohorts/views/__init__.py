"""What methods see of a cohort: cleaned ECG, R peaks, beats, cines, phases, stacks, covariates.

An array of uint8 stands for numbers in [0, 1]: its value x means x / 255.

Method files import this package to name their views, so it imports numpy and nothing heavier; the
rest is loaded by the work itself.
"""

from benchmark.cohorts.views.blockwise import BlockwiseView
from benchmark.cohorts.views.cmr import (
    EDESVolumes,
    ImageView,
    LeftVentricle,
    LongAxisCine,
    MidSliceCine,
    ThreePhases,
    end_systole,
    resample_cycle,
)
from benchmark.cohorts.views.covariates import Covariates
from benchmark.cohorts.views.ecg import (
    BeatFeatures,
    CleanECG,
    ECGView,
    MedianBeat,
    RPeaks,
    prepare_recording,
)

__all__ = [
    "BeatFeatures",
    "BlockwiseView",
    "CleanECG",
    "Covariates",
    "ECGView",
    "EDESVolumes",
    "ImageView",
    "LeftVentricle",
    "LongAxisCine",
    "MedianBeat",
    "MidSliceCine",
    "RPeaks",
    "ThreePhases",
    "end_systole",
    "prepare_recording",
    "resample_cycle",
]
