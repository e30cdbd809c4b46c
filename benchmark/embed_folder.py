"""``ecgcmr embed``: recordings in, a table of features out."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import UserError
from benchmark.cohorts.recordings import RecordingError, read_recording
from benchmark.cohorts.views import ECGView, prepare_recording
from benchmark.engine.progress import Reporter
from benchmark.engine.store import Store
from benchmark.names import file_name
from benchmark.planning import Request
from benchmark.privacy import mask
from benchmark.trained import check_private, encoder_stage, open_encoder, write_private

BATCH = 128
SHOWN = 10
"""Recordings that cannot be used and are named on the screen; all of them are in a file."""
ENDINGS = (".hea", ".mat", ".xml")
FORMATS = (".parquet", ".csv")


@dataclass
class Embedded:
    """What became of the recordings.

    Attributes
    ----------
    out
        The table, None where no recording could be used: ``recording`` (path as given or found)
        and ``f0``, ``f1``, ...
    recordings, width
        Rows and features of it.
    skipped
        Path and reason of what could not be used, also in ``skipped_file``.
    """

    out: Path | None
    recordings: int
    width: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    skipped_file: Path | None = None


def embed(
    paths: Sequence[Path],
    method: str,
    out: Path | None,
    request: Request,
    store: Store,
    *,
    replicate: int = 0,
    task: str = "",
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Embedded:
    """Encode every recording; trains the method where that has not been done.

    Recordings are treated like those of the training. The table appears whole or not at all, and
    nobody but its owner may read it. What is no usable recording is skipped, with its path and the
    reason in a table of its own.

    Parameters
    ----------
    paths
        Folders, searched at any depth for WFDB records, ``.mat`` and UK Biobank's ``.xml`` files,
        and single recordings.
    out
        A ``.parquet`` or ``.csv`` file; None is ``exports/features-<method>.parquet``.

    Raises
    ------
    UserError
        When nothing is there to read, the method has no ECG encoder for single recordings, or the
        table may not be where it is to be.
    """
    reporter = reporter or Reporter()
    out = out or Path("exports") / f"features-{file_name(method)}.parquet"
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"{out} ends in neither {' nor '.join(FORMATS)}")
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file")
    check_private(out, "features")
    stage, modality = encoder_stage(method, request, replicate, "ecg", task)
    view = stage.views()[modality]
    if not isinstance(view, ECGView):
        raise UserError(f"{method} reads a view that a single recording cannot be given")
    found = find_recordings(paths)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from None
    encoders = open_encoder(stage, modality, store, device)
    skipped: list[tuple[str, str]] = []
    reporter.begin(f"features of {counted(len(found))} by {method}")
    try:
        names, features = _encode(found, encoders, view, skipped, reporter)
    finally:
        reporter.stop()
    done = Embedded(None, len(names), 0, skipped)
    listed = out.with_name(f"{out.stem}.skipped.csv")
    if skipped:
        done.skipped_file = listed
        write_private(listed, lambda part: _write_skipped(part, skipped))
    else:
        listed.unlink(missing_ok=True)  # an earlier run's
    if names:
        done.out, done.width = out, features.shape[1]
        about = {"method": method, "stage": stage.digest, "track": request.track}
        about |= {"cohort": request.make_cohort().title, "scale": request.scale}
        write_private(out, lambda part: _write_table(part, names, features, about))
    return done


def find_recordings(paths: Iterable[Path]) -> list[Path]:
    """Return the recordings at these places, each once, in order of their paths.

    A ``.mat`` or signal file beside a header of its name belongs to the header's record.

    Raises
    ------
    UserError
        When a path does not exist, or there is no recording at all.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS)
            headers = {p.with_suffix("") for p in files if p.suffix.lower() == ".hea"}
            found.update(
                (p, None)
                for p in files
                if p.is_file() and (p.suffix.lower() == ".hea" or p.with_suffix("") not in headers)
            )
        elif path.exists() or path.with_name(path.name + ".hea").exists():
            found[path] = None
        else:
            raise UserError(f"{path}: no such file, record or folder")
    if not found:
        raise UserError(
            f"no recordings below {', '.join(map(str, paths))}: WFDB headers (.hea), .mat and .xml "
            "files are looked for"
        )
    return list(found)


def _encode(
    found: Sequence[Path],
    encoders: Any,
    view: ECGView,
    skipped: list[tuple[str, str]],
    reporter: Reporter,
) -> tuple[list[str], np.ndarray | None]:
    from benchmark.evaluation.embed import encode

    names: list[str] = []
    features: list[np.ndarray] = []
    read = 0
    for batch in _batches(_readable(found, view, skipped), BATCH):
        values = np.concatenate([value for _, value in batch])
        pooled, _ = encode(encoders, "ecg", values, view.crops(), "cpu")
        names += [name for name, _ in batch]
        features.append(pooled)
        read = len(names) + len(skipped)
        reporter.progress(read, len(found), "recordings")
    return names, np.concatenate(features) if features else None


def _readable(
    found: Iterable[Path], view: ECGView, skipped: list[tuple[str, str]]
) -> Iterator[tuple[str, np.ndarray]]:
    for path in found:
        try:
            recording = read_recording(path)
            yield str(path), prepare_recording(recording.ecg_mv, recording.rate, view)
        except RecordingError as error:
            skipped.append((str(path), error.detail))
        except UserError as error:  # too short for the view
            skipped.append((str(path), str(error)))


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _write_table(
    path: Path, names: Sequence[str], features: np.ndarray, about: dict[str, str]
) -> None:
    import pandas as pd

    columns = [f"f{place}" for place in range(features.shape[1])]
    table = pd.DataFrame(features, columns=columns)
    table.insert(0, "recording", list(names))
    table.attrs = about  # Parquet keeps it: whose features these are
    if path.suffix.lower() == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)


def _write_skipped(path: Path, skipped: Iterable[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("recording", "reason"), *skipped])


def summary(done: Embedded) -> list[str]:
    """Return what a person is told, without any id: first what was skipped, then the table."""
    lines = [mask(f"skipped {path}: {reason}") for path, reason in done.skipped[:SHOWN]]
    if len(done.skipped) > SHOWN:
        reasons = Counter(reason for _, reason in done.skipped).most_common(3)
        common = "; ".join(f"{count:,} x {reason}" for reason, count in reasons)
        lines.append(f"... and {len(done.skipped) - SHOWN:,} more; most often {common}")
    if done.skipped:
        lines.append(f"{counted(len(done.skipped))} skipped, listed in {done.skipped_file}")
    return lines


def counted(number: int) -> str:
    """Return the number of recordings in words."""
    return f"{number:,} recording{'' if number == 1 else 's'}"
