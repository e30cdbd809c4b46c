"""Simulated people in the files of CODE-15% and EchoNext, to rehearse ``ecgcmr prepare`` with.

python -m ecgcmr_example.imitate code15 FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from benchmark.cohorts.cohort import ECG_MILLIVOLT, ECG_RATE
from benchmark.cohorts.ecg import resample
from benchmark.cohorts.simulated.ecg import draw_ecg
from benchmark.cohorts.simulated.population import Block, draw_block
from benchmark.cohorts.simulated.presets import PRESETS
from ecgcmr_example.cohort import CODE15, EchoNext

SAMPLES = 4096  # of every row of CODE-15%, whatever it holds


def people(number: int) -> tuple[Block, np.ndarray, np.ndarray]:
    """Return simulated people, their ECGs (people, 12, 5000) in mV, and their rates a minute."""
    preset = PRESETS["default"]
    block = draw_block(0, 0, preset, people=number)
    steps, r_peaks = draw_ecg(block, 0, 0, preset)
    rates = 60 / np.nanmedian(np.diff(r_peaks, axis=1), axis=1)
    return block, steps * ECG_MILLIVOLT, rates


def write_code15(folder: Path, number: int) -> None:
    """Write ``exams.csv`` and two parts, in another order than the table's.

    Two in ten ECGs last seven seconds, one in four people has two, and the last row of a part is
    empty, as in the original.
    """
    folder.mkdir(parents=True, exist_ok=True)
    block, ecgs, rates = people(number)
    seconds = np.where(np.isin(np.arange(number) % 10, (0, 3)), 7, 10)
    person = np.where(np.arange(number) % 5 == 1, np.arange(number) - 1, np.arange(number))
    state = block.recorded
    flags = dict.fromkeys(CODE15.flags, np.zeros(number, bool))
    flags |= {"SB": rates < 60, "ST": rates > 100, "AF": state.af_rhythm.astype(bool)}
    exams = pd.DataFrame(
        {
            "exam_id": 100 + np.arange(number),
            "age": state.age[person].astype(int) + (np.arange(number) != person),
            "is_male": state.male[person].astype(bool),
            **flags,
            "patient_id": 900 + person,
        }
    )
    exams.to_csv(folder / "exams.csv", index=False)
    order = np.random.default_rng(0).permutation(number)
    for part, rows in enumerate(np.array_split(order, 2)):
        tracings = np.zeros((len(rows) + 1, SAMPLES, 12), np.float32)
        for tracing, row in zip(tracings, rows, strict=False):
            ecg = resample(ecgs[row], ECG_RATE, CODE15.rate)[:, : round(CODE15.rate * seconds[row])]
            first = (SAMPLES - ecg.shape[1]) // 2
            tracing[first : first + ecg.shape[1]] = ecg.T
        with h5py.File(folder / f"exams_part{part}.hdf5", "w") as file:
            file["tracings"] = tracings
            file["exam_id"] = np.append(exams["exam_id"].to_numpy()[rows], 0)


def write_echonext(folder: Path, number: int) -> None:
    """Write the metadata and three splits' waveforms, standardised over all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    block, ecgs, rates = people(number)
    state = block.recorded
    split = np.array(["train", "val", "test"])[np.arange(number) % 3]
    waveforms = resample(ecgs, ECG_RATE, EchoNext.rate).transpose(0, 2, 1)[:, None]
    waveforms = (waveforms - waveforms.mean()) / waveforms.std()
    metadata = pd.DataFrame(
        {
            "patient_key": 900 + np.arange(number),
            "split": split,
            "age_at_ecg": state.age.astype(int),
            "sex": np.where(state.male == 1, "Male", "Female"),
            "ventricular_rate": rates.round(),
            "qrs_duration": 0,  # as what was not measured is written
            "lvef_lte_45_flag": state.lvef <= 45,
            "lvwt_gte_13_flag": False,
        }
    )
    metadata.to_csv(folder / "echonext_metadata_100k.csv", index=False)
    for name in ("train", "val", "test"):
        np.save(folder / f"EchoNext_{name}_waveforms.npy", waveforms[split == name])


def main() -> None:
    """Write what the command line asks for."""
    writers = {"code15": write_code15, "echonext": write_echonext}
    parser = argparse.ArgumentParser(prog="python -m ecgcmr_example.imitate", description=__doc__)
    parser.add_argument("source", choices=writers)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=600, metavar="N", help="default 600")
    options = parser.parse_args()
    writers[options.source](options.folder, options.people)
    print(f"now run: ecgcmr prepare {options.source} --raw {options.folder}")


if __name__ == "__main__":
    main()
