"""Board documents of made-up methods, for the tests of the page."""

import hashlib

import numpy as np

from benchmark.reports.boards import Expected, TaskInfo, document
from benchmark.reports.rows import Cell, row_of, versus_of

METHODS = {"mae": 0.0, "worse": -0.08, "same": 0.0, "better": 0.15}
REFERENCES = {"random": -0.1, "tabular": 0.05}
LABELLED = {"labelled": 0.1}
TARGETS = ("one", "two", "three")
RUN = {
    "pretraining_seconds": 90.0,
    "embedding_seconds": 2.0,
    "head_seconds": 0.5,
    "peak_memory_bytes": 2**30,
    "device": "cpu",
    "git_sha": "f" * 40,
}


def hexdigest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def cells(method, skill, targets, metrics, fraction, replicates, head="linear", people=120):
    """Cells whose people are noise, the same for all methods but for a little."""
    own = np.random.default_rng(int(hexdigest(f"{method}{fraction}")[:8], 16))
    common = np.random.default_rng(0).normal(size=(people, len(targets), 1))
    found = []
    for metric in metrics:
        theta = (
            0.5
            + skill
            + 0.1 * np.log10(fraction)
            + 0.01 * own.normal(size=(len(targets), replicates))
        )
        psi = 0.3 * (common + 0.3 * own.normal(size=(people, len(targets), replicates)))
        shared = {
            "method": method,
            "head": head,
            "modality": "ecg",
            "metric": metric,
            "fraction": fraction,
            "task_version": 1,
            "cohort_fingerprint": hexdigest("cohort"),
            "recipe_digest": hexdigest(method),
            "replicates": tuple(range(replicates)),
            "score_digests": tuple(hexdigest(f"{method}{fraction}{r}") for r in range(replicates)),
            "n": people,
            "chance": 0.3,
        }
        for i, target in enumerate(targets):
            found.append(Cell(target=target, theta=theta[i], psi=psi[:, i], **shared))
        found.append(
            Cell(target="mean", theta=theta.mean(0), psi=psi.mean(1), targets=targets, **shared)
        )
    return found


def files_of(
    task="toy",
    methods=METHODS,
    references=REFERENCES,
    labelled=LABELLED,
    targets=TARGETS,
    metrics=("R2", "r"),
    fractions=(1.0, 0.1, 0.01),
    replicates=3,
    head="linear",
):
    """Rows files, each method compared with those before it."""
    done, files = [], []
    for name, skill in {**methods, **labelled, **references}.items():
        own = [
            cell
            for fraction in fractions
            for cell in cells(name, skill, targets, metrics, fraction, replicates, head)
        ]
        versus = [
            versus_of(a, b)
            for other in done
            for a, b in zip(own, other, strict=True)
            if a.metric == metrics[0] and (a.target == "mean" or "mae" in (a.method, b.method))
        ]
        files.append(
            {
                "method": name,
                "task": task,
                "cohort": "simulated",
                "preset": None,
                "scale": "smoke",
                "track": "harmonised",
                "role": "reference" if name in references else "ranked",
                "uses_labels": name in labelled,
                "rows": [row_of(cell, RUN) for cell in own],
                "versus": versus,
            }
        )
        done.append(own)
    return files


def info_of(files, task="toy", title="Toy task", head="linear", **changes):
    """What the board of `files_of` is told."""
    rows = [row for file in files for row in file["rows"]]
    metric = rows[0]["metric"]
    return TaskInfo(
        **{
            "name": task,
            "title": title,
            "version": 1,
            "simulated": True,
            "kind": "regression",
            "primary": {"ecg": metric},
            "metrics": tuple(dict.fromkeys(row["metric"] for row in rows)),
            "reference": {"ecg": "mae"},
            "methods": tuple(
                Expected(name=f["method"], role=f["role"], uses_labels=f["uses_labels"])
                for f in files
            ),
            "fractions": tuple(dict.fromkeys(row["fraction"] for row in rows)),
            "heads": (head,),
        }
        | changes
    )


def board(task="toy", title="Toy task", changes=None, **files):
    """Document of made-up rows; the keywords are those of `files_of`."""
    found = files_of(task, **files)
    head = files.get("head", "linear")
    return document(found, info_of(found, task, title, head, **(changes or {})), None)
