"""Make up the predictions that the frozen metrics are computed from; nobody stands behind them.

    python tests/golden/make_predictions.py

writes ``predictions/<kind>.csv`` beside this file: 80 people, three methods of different skill, two
replicates each. Values are rounded to two decimals, so that some tie, and some are missing. A
diagnostic has no targets: one number for each person and measure, and what chance would give.
"""

from pathlib import Path

import numpy as np
import pandas as pd

PEOPLE, REPLICATES, TARGETS = 80, 2, ("first", "second")
SKILL = {"weak": 0.3, "fair": 0.9, "strong": 2.0}
MISSING = 0.1
MEASURES = {"error": -0.2, "own": 0.1, "own_projected": 0.15, "inside": 0.05}
"""Of diagnostics, and what skill does to them."""
FOLDER = Path(__file__).parent / "predictions"


def main() -> None:
    """Write the tables."""
    rng = np.random.default_rng(20)
    latent = rng.normal(size=(PEOPLE, len(TARGETS)))
    missing = rng.random(latent.shape) < MISSING
    for kind in ("classification", "regression", "retrieval"):
        true = latent if kind != "classification" else (latent > 0.7).astype(float)
        table = {
            f"true/{n}": c for n, c in zip(TARGETS, np.where(missing, np.nan, true).T, strict=True)
        }
        for method, skill in SKILL.items():
            person = rng.normal(size=latent.shape)  # the same error in every replicate
            for replicate in range(REPLICATES):
                noise = 0.8 * person + 0.6 * rng.normal(size=latent.shape)
                guess = (skill * latent + noise) * skill / (skill**2 + 1)
                names = TARGETS
                if kind == "retrieval":
                    other = (skill * latent + rng.normal(size=latent.shape)) / (skill + 1)
                    guess = np.concatenate([guess, other], axis=1)
                    names = [f"{m}{d}" for m in ("ecg", "cmr") for d in range(len(TARGETS))]
                table |= {
                    f"{method}/{replicate}/{n}": c for n, c in zip(names, guess.T, strict=True)
                }
        write(kind, table)
    chance = 0.2 + 0.1 * rng.random(PEOPLE)
    missing = rng.random(PEOPLE) < MISSING  # of a person nothing can be measured by anybody
    table = {"true/chance": chance}
    for method, skill in SKILL.items():
        person = rng.normal(size=PEOPLE)
        for replicate in range(REPLICATES):
            for measure, gain in MEASURES.items():
                noise = 0.1 * person + 0.05 * rng.normal(size=PEOPLE)
                value = (0.3 if gain > 0 else 1.0) + gain * skill + noise
                table[f"{method}/{replicate}/{measure}"] = np.where(missing, np.nan, value)
    write("diagnostic", table)


def write(kind: str, table: dict[str, np.ndarray]) -> None:
    """Write the predictions of one kind of task."""
    text = pd.DataFrame(table).round(2).to_csv(index=False, lineterminator="\n")
    (FOLDER / f"{kind}.csv").write_text(text)


if __name__ == "__main__":
    main()
