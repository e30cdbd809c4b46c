"""What the harmonised track holds equal, and that the documentation says what it does not."""

import re
from pathlib import Path

import pytest
import torch

from benchmark.api import Batch, Trainable
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.registry import TRACKS, registry
from benchmark.stage import bind, topological
from methods.blocks.harmonised import SCALES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reading.md"
BOUND = {
    "cohort": SimulatedCohort(people=300),
    "seed": 0,
    "task": registry().task("phenotype"),
    "fraction": 1.0,
}
OWN = {n: e for n, e in registry().methods.items() if e.origin.startswith("methods.")}
CASES = [(track, n) for track in TRACKS for n, e in OWN.items() if track in e.variant.tracks]
HARMONISED = [n for track, n in CASES if track == "harmonised"]
SEES_NO_SIGNAL = {"tabular", "ecg-features"}


def make(name, track="harmonised", scale="tiny"):
    return bind(OWN[name].on_track(track, scale), **BOUND)


def trainings(name, scale="tiny"):
    """Every stage with an optimiser that stands behind a row."""
    stages = topological([make(name, scale=scale)])
    return [s for s in stages if isinstance(s, Trainable) and s.trained]


@pytest.mark.parametrize("scale", SCALES)
def test_stages_of_a_kind_have_one_recipe_and_one_list_of_augmentations(scale):
    seen = {}
    for name in HARMONISED:
        for stage in trainings(name, scale):
            for field in ("recipe", "ecg_augment", "cmr_augment", "hidden", "embedding", "decoder"):
                if hasattr(stage, field):
                    kind = stage.kind if field == "recipe" else ""
                    seen.setdefault((field, kind), set()).add(getattr(stage, field))
    kinds = {kind for field, kind in seen if field == "recipe"}
    assert kinds == {"ecg-pretraining", "cmr-pretraining", "ecg-contrastive", "alignment"}
    assert {key: found for key, found in seen.items() if len(found) > 1} == {}


@pytest.mark.parametrize("scale", SCALES)
def test_every_method_reads_one_ecg_with_one_network(scale):
    encoders, views = set(), set()
    for name in HARMONISED:
        method = make(name, scale=scale)
        if name in SEES_NO_SIGNAL or "ecg" not in method.modalities:
            continue
        encoders |= {method.ecg_encoder, method.finetuned().ecg_encoder}
        views |= {method.views()["ecg"].digest, method.finetuned().views()["ecg"].digest}
    assert len(encoders) == len(views) == 1


def test_the_documentation_says_who_is_trained_for_how_long():
    said = {}
    for updates, names in re.findall(r"^\| ([\d,]+) \| (`.*) \|$", PAGE.read_text(), re.MULTILINE):
        for name in re.findall(r"`([\w-]+)`", names):
            assert name not in said
            said[name] = int(updates.replace(",", ""))
    found = {name: sum(s.recipe.updates for s in trainings(name)) for name in HARMONISED}
    ranked = {n: v for n, v in found.items() if OWN[n].variant.role != "reference"}
    assert said == ranked


@pytest.mark.parametrize(("track", "name"), CASES)
def test_nothing_is_augmented_where_rounds_are_compared(track, name):
    method = make(name, track, "smoke")
    generator = torch.Generator().manual_seed(0)
    shapes = {n: v.shape for n, v in method.views().items() if n in ("ecg", "cmr")}
    views = {n: torch.rand(2, *shape, generator=generator) for n, shape in shapes.items()}
    batch = Batch(views, training=False, progress=1.0)
    for version in (method, method.finetuned()):
        for modality, x in views.items():
            read = getattr(version, f"{modality}_input")(batch)
            torch.testing.assert_close(read, x[..., : read.shape[-1]], rtol=0, atol=0)
