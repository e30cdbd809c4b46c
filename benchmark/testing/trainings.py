"""What is checked of every stage that is trained: of a method, and of what it starts from."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmark.api import Trainable
from benchmark.testing.people import FRACTION
from benchmark.testing.report import RuleError, Rules, Skipped, need
from benchmark.testing.tried import Tried, equal

SHOWN = 4  # names in a message

rules = Rules()


def listed(names: Any) -> str:
    """Return names for a message, not too many of them."""
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def of_stages(function: Callable[[Tried], None]) -> Callable[[Any], None]:
    """Turn a check of one stage into a check of a method: each of its stages has to pass."""

    @functools.wraps(function)
    def every(subject: Any) -> None:
        skipped: list[str] = []
        for place, stage in enumerate(subject.stages):
            try:
                function(stage)
            except Skipped as error:
                skipped.append(str(error))
            except RuleError as error:
                raise RuleError(f"{stage.stage.label}: {error}" if place else str(error)) from error
        if len(skipped) == len(subject.stages):
            raise Skipped(skipped[0])

    return every


# ------------------------------------------------------------------------------ training


@rules.add("fit")
@of_stages
def _fit(tried: Tried) -> None:
    """End two updates at scale smoke with finite losses and weights."""
    run = tried.run()
    lost = [name for name, value in run.weights.items() if not value.isfinite().all()]
    need(not lost, f"weights are not finite: {listed(lost)}")
    losses = [value for entry in run.history for value in entry.values()]
    need(all(map(math.isfinite, losses)), f"losses are not finite: {losses}")
    need(
        bool(run.history) == tried.stage.trained,
        "its recipe says it is trained, but there are no losses: its own run skips context.train",
    )


@rules.add("seed", essential=True)
@of_stages
def _seed(tried: Tried) -> None:
    """Give the same weights for the same seed, to the last bit, and others for another."""
    import torch

    from benchmark.engine.training import build

    run = tried.trained()
    if not tried.undisturbed():
        different = tried.unlike(again=True)
        need(
            not different,
            f"a second training with the same seed {different}: something is drawn that the seed "
            "does not decide; draw from torch's global generator, which the harness seeds before "
            "every step, never from a generator or numpy of its own",
        )
    need(
        not run.reseeded,
        f"{listed(run.reseeded)} sets torch's seed, so replicates are alike; draw from torch's "
        "global generator as it is",
    )
    if not tried.stage.trained and type(tried.stage).fit is not Trainable.fit:
        return  # found in closed form: there may be nothing random in it
    one, other = (build(tried.stage.replace(seed=seed)).state_dict() for seed in (0, 1))
    need(
        any(not torch.equal(one[name], other[name]) for name in one),
        "fresh weights are the same for every seed, so replicates are alike; draw them from "
        "torch's global generator",
    )


@rules.add("resume")
@of_stages
def _resume(tried: Tried) -> None:
    """End a training that was killed and goes on as an undisturbed one."""
    if not tried.stage.trained:
        raise Skipped("nothing is trained")
    tried.trained()
    if not tried.undisturbed() and not tried.unlike(again=True):
        different = tried.unlike(killed=True)
        need(
            not different,
            f"killed after a round and started again, it {different}: something that training "
            "changes lives outside the encoders; make it a parameter or buffer of a part",
        )


@rules.add("test-people", essential=True)
@of_stages
def _test_people(tried: Tried) -> None:
    """Stay the same when what test people hold is poisoned."""
    tried.trained()
    if not tried.undisturbed() and not tried.unlike(again=True):
        different = tried.unlike("test")
        need(
            not different,
            f"trained with the test people's ECGs, images and tables poisoned, it {different}: "
            "test people reach the training; read people and batches as they are handed out, "
            "and compute views of each person alone",
        )


@rules.add("labels", essential=True)
@of_stages
def _labels(tried: Tried) -> None:
    """Read targets inside the label fraction, or not at all."""
    tried.trained()
    if not tried.uses_labels:
        data = tried.lab.data
        need(
            tried.stage.labels(data) is None,
            "it returns labels, but has no fields `task` and `fraction`; a method that learns "
            "labels declares both, UNSET, for the harness to bind",
        )
    if not tried.undisturbed() and not tried.unlike(again=True):
        different = tried.unlike("labels")
        whose = f"outside the label fraction of {FRACTION:g} " if tried.uses_labels else ""
        remedy = (
            "learn from the labels of the batch alone"
            if tried.uses_labels
            else "declare the fields `task` and `fraction`, or leave targets alone"
        )
        need(
            not different,
            f"trained with everybody's targets {whose}poisoned, it {different}: {remedy}",
        )


@rules.add("views")
@of_stages
def _views(tried: Tried) -> None:
    """Read every declared view, and no other."""
    if not tried.stage.trained:
        raise Skipped("nothing is trained")
    unread = set(tried.stage.views()) - tried.trained().read
    need(
        not unread,
        f"the loss never reads {listed(unread)} of its views; declare what is read, so that "
        "nothing is computed, or required of a cohort, for nothing",
    )


@rules.add("gradient")
@of_stages
def _gradient(tried: Tried) -> None:
    """Reach every trainable parameter with the loss."""
    if not tried.stage.trained:
        raise Skipped("nothing is trained")
    need(tried.gradients, "it has a recipe but no trainable parameter")
    need(
        not tried.unreached,
        f"no gradient reaches {listed(tried.unreached)}; use it in the loss, give it "
        "requires_grad=False, or name its module in frozen()",
    )


@rules.add("frozen")
@of_stages
def _frozen(tried: Tried) -> None:
    """Keep frozen parts as they are, in evaluation mode, and move everything else."""
    import torch

    if not tried.stage.trained:
        raise Skipped("nothing is trained")
    run = tried.trained()
    changed = {n for n, v in run.weights.items() if not torch.equal(v, run.before[n])}
    need(
        not changed & run.frozen,
        f"frozen() names {listed(changed & run.frozen)}, which changed all the same",
    )
    fixed = {n for n, p in run.encoders.named_parameters() if not p.requires_grad}
    parameters = {n for n, _ in run.encoders.named_parameters()}
    still = parameters - fixed - run.frozen - changed - tried.unreached
    need(
        not still,
        f"{listed(still)} did not change in training; is it in parameter_groups?",
    )
    need((True, True) not in run.modes, "a frozen part is in training mode; the loss calls train()")
    need(
        (False, False) not in run.modes,
        "a part that is trained is in evaluation mode; the loss calls eval()",
    )


# ------------------------------------------------------------------------------ encoders


@rules.add("batch")
@of_stages
def _batch(tried: Tried) -> None:
    """Encode a person whoever else is in the batch, and without chance."""
    for modality, values in tried.encoded():
        some = np.asarray(values[tried.lab.data.rows("train")[:4]])
        together = tried.features(tried.loaded, modality, some)
        again = tried.features(tried.loaded, modality, some)
        need(
            np.array_equal(together, again, equal_nan=True),
            f"the {modality} encoder gives other features of the same people when asked again; "
            "in evaluation mode nothing is drawn",
        )
        alone = np.concatenate([tried.features(tried.loaded, modality, one[None]) for one in some])
        # Sums over a batch are taken in another order: deep networks differ in the fifth digit.
        need(
            np.allclose(together, alone, atol=1e-4, rtol=1e-3, equal_nan=True),
            f"the {modality} features of a person depend on who else is in the batch (by up to "
            f"{np.nanmax(np.abs(together - alone)):.2g}); normalise by running or fixed statistics",
        )


@rules.add("round-trip")
@of_stages
def _round_trip(tried: Tried) -> None:
    """Be, saved and loaded, what was trained."""
    run = tried.trained()
    state = tried.loaded.state_dict()
    different = [n for n in state if n not in run.weights or not equal(state[n], run.weights[n])]
    need(not different, f"saved and loaded, {listed(different)} are not what they were")
    need(
        not any(module.training for module in tried.loaded.modules()),
        "loaded, a part is in training mode",
    )
    if run.encoders is None:
        return
    run.encoders.load_state_dict(run.weights)
    run.encoders.eval()
    for modality, values in tried.encoded():
        kept = tried.features(run.encoders, modality, values[:4])
        loaded = tried.features(tried.loaded, modality, values[:4])
        need(
            np.array_equal(kept, loaded, equal_nan=True),
            f"loaded from its weights, the {modality} encoder gives other features than the one "
            "that was trained: something it learned is no parameter and no buffer, or build "
            "draws it anew",
        )
