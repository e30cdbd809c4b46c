"""The ways from encoder to predictions of the paper track."""

import pytest
from toy import COHORT, ToyLabelled, ToyMethod, bring

from benchmark.api import Recipe
from benchmark.engine.store import Store
from benchmark.evaluation.finetune import FineTune
from benchmark.evaluation.selected import Selected
from benchmark.evaluation.separate import Separately
from benchmark.registry import registry
from benchmark.stage import Spec, bind, identity_fields
from methods.blocks.paper import MMCL_GRID, MMCL_POINTS, PROTOCOLS, heads
from tasks.cvd import CVD
from tasks.phenotype import EveryPhenotype, Phenotype, ShortAxisPhenotype

PAPER = {n: e for n, e in registry().methods.items() if "paper" in e.variant.tracks}


def nested(spec, kind):
    """Yield all specs of a kind inside a spec."""
    if isinstance(spec, kind):
        yield spec
    for field in identity_fields(spec):
        value = getattr(spec, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Spec):
                yield from nested(item, kind)


@pytest.mark.parametrize("name", sorted(PAPER))
def test_every_variant_has_its_protocol(name):
    entry = PAPER[name]
    full, smoke = heads(entry, "full"), heads(entry, "smoke")
    assert full == PROTOCOLS[entry.variant.protocol], "the papers' sizes are the prototypes"
    assert full.keys() == smoke.keys()


def test_no_protocol_is_left_over():
    assert {entry.variant.protocol for entry in PAPER.values()} | {""} == PROTOCOLS.keys()


def test_mmcls_points_are_of_its_grid_and_drawn_once():
    assert len(set(MMCL_GRID)) == 648
    (selected,) = nested(PROTOCOLS["mmcl"]["finetune"], Selected)
    points = {
        (
            head.recipe.batch_size,
            round(head.recipe.learning_rate * 4 / head.recipe.batch_size, 12),
            head.layer_decay,
            head.drop_path,
            head.smoothing,
            head.recipe.weight_decay,
        )
        for head in selected.candidates
    }
    assert len(points) == MMCL_POINTS == 12
    assert points <= set(MMCL_GRID)


@pytest.mark.parametrize(
    ("protocol", "task", "sizes"),
    [
        ("mmcl", CVD(), [1] * 6),
        ("mmcl", ShortAxisPhenotype(), [6, 4, 17, 17, 17]),
        ("eccl", CVD(), [1] * 6),
        ("eccl", EveryPhenotype(), [82]),
        ("eccl-finetune", CVD(), [1] * 6),
        ("eccl-finetune", EveryPhenotype(), [82]),
    ],
)
def test_papers_train_as_many_models(protocol, task, sizes):
    (how,) = PROTOCOLS[protocol].values()
    found = how.bound(task, lambda part: ToyLabelled(task=part))
    assert [len(part.task.names) for part in getattr(found, "parts", (found,))] == sizes


def test_learning_rates_are_those_that_the_code_arrives_at():
    for name, rate in {"eccl-finetune": 8e-6, "eccl-cmr": 3.2e-5, "cmae-vit": 4e-5}.items():
        (recipe,) = nested(PROTOCOLS[name]["finetune"], Recipe)
        assert recipe.learning_rate == pytest.approx(rate), name


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("protocols") / "store")


@pytest.mark.parametrize("task", [CVD(only=("AF", "CAD")), Phenotype(only=("LVEDV", "RVEF"))])
@pytest.mark.parametrize("protocol", sorted(PROTOCOLS.keys() - {""}))
def test_a_rehearsal_of_every_protocol_predicts(store, protocol, task):
    """From an encoder to predictions through all stages, at the size of tests."""
    entry = next(entry for entry in PAPER.values() if entry.variant.protocol == protocol)
    for head in heads(entry, "smoke").values():
        for recipe in nested(head, Recipe):
            assert recipe.updates == 6 or not (recipe.updates or recipe.epochs)
        for selected in nested(head, Selected):
            assert len(selected.candidates) == 2

        def make(part, head=head):
            label = {"task": part, "fraction": 1.0}
            kind = ToyLabelled if protocol == "eccl" else ToyMethod
            method = bind(kind(cohort=COHORT, seed=0), **label)
            prototype = head.head if isinstance(head, Separately) else head
            return bind(prototype, method=method, modality="ecg", cohort=COHORT, seed=0, **label)

        stage = head.bound(task, make) if isinstance(head, Separately) else make(task)
        (folder,) = bring(store, stage)
        assert {"test.npy", "validation.npy", "fit.json"} <= {f.name for f in folder.iterdir()}


def test_full_size_heads_are_not_rehearsals():
    for protocol in PROTOCOLS.values():
        for head in protocol.values():
            for tuned in nested(head, FineTune):
                assert tuned.recipe.epochs >= 100
