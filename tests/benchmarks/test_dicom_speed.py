"""Reading one person's short-axis zip, 10 slices x 50 frames: `pytest tests/benchmarks`."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from ukb_files import dicom, tags, write_zip

from benchmark.cohorts.ukb.dicom import read_short_axis

SLICES, FRAMES, ROWS, COLUMNS = 10, 50, 208, 180


@pytest.fixture(scope="module")
def bulk(tmp_path_factory) -> Path:
    """About 27 MB, as a scanner's images with their noise."""
    generator = np.random.default_rng(1)
    row, column = np.mgrid[:ROWS, :COLUMNS]
    distance = np.hypot(row - 100, column - 90)
    beat = 1 - 0.25 * np.sin(np.pi * np.arange(FRAMES) / FRAMES) ** 2
    files = {}
    for slice_ in range(SLICES):
        for frame in range(FRAMES):
            blood = np.clip((25 - 2 * slice_) * beat[frame] - distance + 0.5, 0, 1)
            noise = generator.normal(0, 12, (ROWS, COLUMNS))
            pixels = np.clip(300 + 900 * blood + noise, 0, 4095).astype(np.uint16)
            files[f"{slice_}.{frame}.dcm"] = dicom(tags(pixels, slice_, frame, frames=FRAMES))
    return write_zip(tmp_path_factory.mktemp("bulk") / "sa.zip", files)


def with_plain_pydicom(path: Path) -> np.ndarray:
    """What a script does: everything of every file, sorted by place and time."""
    images = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            read = pydicom.dcmread(io.BytesIO(archive.read(name)))
            images.append((read.SeriesDescription, read.TriggerTime, name, read.pixel_array))
    return np.stack([pixels for *_, pixels in sorted(images, key=lambda image: image[:3])])


@pytest.mark.parametrize("read", [read_short_axis, with_plain_pydicom])
def test_dicom_zip(benchmark, bulk, read):
    benchmark(read, bulk)
