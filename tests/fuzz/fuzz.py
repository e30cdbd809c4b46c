"""Coverage-guided fuzzing of one reader: see README.md beside this file."""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

with atheris.instrument_imports(include=["benchmark", "pydicom", "nibabel", "defusedxml", "csv"]):
    from ukb_targets import TARGETS

    from benchmark.cohorts.ukb import dicom

# Of ten files of a series one is damaged; the others need not be parsed every time.
dicom.DicomImage = functools.lru_cache(64)(dicom.DicomImage)


def main() -> None:
    """Fuzz the reader named first; everything else is libFuzzer's."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz.py TARGET [libFuzzer options]; targets: {', '.join(TARGETS)}")
    name = sys.argv.pop(1)
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        folder, corpus = Path(scratch) / "work", Path(scratch) / "corpus"
        folder.mkdir()
        corpus.mkdir()
        for number, seed in enumerate(target.seeds(folder)):
            target.read(seed, folder)
            (corpus / f"seed{number}").write_bytes(seed)
        atheris.Setup([*sys.argv, str(corpus)], lambda content: target(content, folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
