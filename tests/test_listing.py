"""What ``ecgcmr list`` tells of methods, above all their parameters."""

import functools

import pytest
import torch

from benchmark.api import UserError
from benchmark.engine.training import build
from benchmark.evaluation.finetune import FineTune
from benchmark.listing import count_parameters, listing, text
from benchmark.registry import registry, track_module
from benchmark.stage import bind

DEFAULT_SCALES = {"harmonised": "tiny", "paper": "full"}
TRACKS = tuple(DEFAULT_SCALES)
UNTRAINED = {"random-init", "supervised", "cmr-random-init", "cmr-supervised"}
CLOSED_FORM = {"tabular", "ecg-features"}

# Encoders without their position tables; after the plus, what the table has.
PUBLISHED = {
    "supervised@mmcl": ("ecg", 5_363_328, 115_584),
    "mae@mmcl": ("ecg", 5_363_328, 0),
    "mmcl": ("ecg", 5_363_328, 115_584),
    "mae@eccl": ("ecg", 85_134_336, 0),
    "supervised@eccl": ("ecg", 85_134_336, 461_568),
    "ptacl": ("ecg", 18_941_952, 307_712),
    "cmr-mae@ptacl": ("cmr", 12_759_040, 326_656),
    "mae@dual-tiny": ("ecg", 5_358_336, 0),
    "mae@dual-small": ("ecg", 21_333_504, 0),
    "mae@dual-medium": ("ecg", 47_925_504, 0),
    "mae@dual-base": ("ecg", 85_134_336, 0),
    "dual-phase": ("ecg", 47_925_504, 346_176),
    # torchvision's ResNet50 without its 1000-class layer.
    "cmr-supervised@mmcl": ("cmr", 25_557_032 - 2_049_000, 0),
    # torchvision's Swin-T without its 1000-class layer, its 4 x 4 patches of 50 frames, not of 3.
    "cmr-swin": ("cmr", 28_288_354 - 769_000 + 47 * 16 * 96, 0),
}

# What stands beside the encoder; MAE's similarity heads are those of its reference code.
BESIDE = {
    "mae@mmcl": 1_704_548,
    "mae@dual-small": 1_704_548 + 887_040,
    "mae@dual-medium": 1_753_700 + 1_329_408,
    "byol@mmcl": 2_629_888 + 2_105_600 + 5_363_328 + 2_629_888,  # the last two are the copy
    "barlowtwins@mmcl": 70_279_168,
    "simclr@mmcl": (384 + 1) * 512 + (512 + 1) * 128,
}


@functools.cache
def rows(track):
    return listing("methods", parameters=True, track=track)["methods"]


def counted(name):
    return next(row["parameters"] for row in rows("paper") if row["name"] == name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_encoders_are_as_large_as_published(name):
    part, parameters, table = PUBLISHED[name]
    count = counted(name)[part]
    assert (count["parameters"], count["positions"]) == (parameters, table)


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_the_encoder_is_as_large_as_published(name):
    count = counted(name)
    assert count["all"]["parameters"] - count["ecg"]["parameters"] == BESIDE[name]


def test_mmcl_has_two_projectors():
    count = counted("mmcl")
    encoders = count["ecg"]["parameters"] + count["cmr"]["parameters"]
    assert count["all"]["parameters"] - encoders == 262_784 + 1_114_752


@pytest.mark.parametrize("name", ["ptacl", "ptacl-global", "ptacl@retrieval"])
def test_ptacl_trains_all_but_embeddings_tables_and_two_blocks(name):
    count = counted(name)
    # The paper's 12.6 M and 6.3 M are the blocks that are left; the final norm is trained with
    # them, a scale and a shift for each of 512 values.
    assert count["ecg"]["trained"] == 12_609_536 + 2 * 512
    assert count["cmr"]["trained"] == 6_304_768 + 2 * 512
    random = counted("ptacl-wo-smp")
    assert random["ecg"]["trained"] == 18_941_952 + 307_712


def test_a_model_fine_tuned_as_mmcls_has_the_published_size():
    method = registry().method("supervised@mmcl").on_track("paper", "full")
    disease = registry().task("cvd").replace(only=("CAD",))
    head = bind(FineTune(), method=method, modality="ecg", task=disease, seed=0, fraction=1.0)
    with torch.device("meta"):
        parts = head.build({})
    idle = {p for module in head.frozen(parts) for p in module.parameters()}
    trained = sum(p.numel() for p in parts.parameters() if p not in idle)
    attention = sum(p.numel() for p in parts.pooling.attention.parameters())
    assert attention == 591_360
    # Published: encoder, table, attention, and a softmax over two classes where we have one logit.
    assert 5_363_328 + 115_584 + attention + 2 * (384 + 1) == 6_071_042
    assert trained == 6_071_042 - (384 + 1)
    # The encoder's own norm of the mean, which is not read where attention pools.
    assert sum(p.numel() for p in idle) == 2 * 384


@pytest.mark.parametrize("track", TRACKS)
def test_every_method_can_be_counted_before_anything_is_bound(track):
    for row in rows(track):
        count, name = row["parameters"], row["name"].partition("@")[0]
        assert count.keys() == {*row["modality"].split("+"), "all"}, row["name"]
        total = count["all"]
        assert (total["parameters"] > 0) == (name not in CLOSED_FORM), row["name"]
        assert total["trained"] <= total["parameters"] + total["positions"]
        for part in count.keys() - {"all"}:
            assert count[part]["parameters"] <= total["parameters"]
        if name in UNTRAINED | CLOSED_FORM:
            assert total["trained"] == 0


@pytest.mark.parametrize("name", ["byol", "ptacl", "eccl", "cmr-supervised"])
def test_counting_agrees_with_the_networks_that_are_trained(name):
    entry = registry().method(name)
    bound = {"cohort": registry().cohort("simulated").at("smoke"), "seed": 0, "fraction": 1.0}
    task = next(task for task in registry().tasks.values() if not task.supervision)
    encoders = build(bind(entry.on_track("harmonised", "smoke"), **bound, task=task))
    count = count_parameters(entry, "smoke")["all"]
    assert count["parameters"] + count["positions"] == sum(p.numel() for p in encoders.parameters())


def test_a_track_lists_its_own_methods():
    everything = {row["name"] for row in listing("methods")["methods"]}
    assert everything == set(registry().methods)
    for track in TRACKS:
        names = {row["name"] for row in listing("methods", track=track)["methods"]}
        has = {n for n, entry in registry().methods.items() if track in entry.variant.tracks}
        assert names == has
    with pytest.raises(UserError, match="did you mean paper"):
        listing("methods", track="papers")
    with pytest.raises(UserError, match="no scale is called 'tiny'"):
        listing("methods", parameters=True, track="paper", scale="tiny")


def test_a_scale_lists_the_methods_that_have_it():
    small = listing("methods", scale="tiny")["methods"]
    assert {row["name"] for row in small} == {
        name for name, entry in registry().methods.items() if "harmonised" in entry.variant.tracks
    }
    with pytest.raises(UserError, match="did you mean full"):
        listing("methods", scale="ful")


def test_scales_of_every_track_are_listed():
    tracks = {row["name"]: row["tracks"] for row in listing("scales")["scales"]}
    assert tracks["smoke"] == ["harmonised", "paper"]
    assert tracks["tiny"] == ["harmonised"]
    assert tracks["full"] == ["paper"]
    assert set(tracks) == {scale for track in TRACKS for scale in track_module(track).SCALES}


def test_rows_name_the_paper_that_has_them():
    papers = {row["name"]: row["paper"] or "" for row in listing("methods")["methods"]}
    for name, author in {
        "supervised@mmcl": "Turgut",
        "clocs@mmcl": "Turgut",
        "mae@eccl": "Ding",
        "eccl-scratch": "Ding",
        "simclr@ptacl": "Selivanov",
        "cmr-supervised@ptacl": "Selivanov",
        "mae@dual-medium": "Alvarez-Florez",
    }.items():
        assert papers[name].startswith(author), name
    assert not papers["mmcl-permuted-pairs"], "no paper has the controls"


def test_the_table_shows_parameters_labels_and_paper():
    lines = text({"methods": rows("paper")}).splitlines()
    of = {line.split()[0]: line for line in lines if line}
    for shown in ("ecg+cmr", "18,941,952 + 307,712", "12,610,560", "6,305,792", "Selivanov"):
        assert shown in of["ptacl"]
    assert " labels " in of["dual-phase"]
    assert " labels " not in of["mmcl"]
