"""What is checked of a method, and of the stages it stands on that have no row of their own."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any, ClassVar

import numpy as np

from benchmark.api import Cohort, Method, Trainable, UserError
from benchmark.registry import TRACKS, MethodEntry, registry
from benchmark.stage import bind
from benchmark.testing import fingerprints, process, trainings
from benchmark.testing.people import bound_fields, kit_people, lab_of
from benchmark.testing.report import Rules, Skipped, Subject, need
from benchmark.testing.tried import Tried, tried

rules = Rules()


class MethodSubject(Subject):
    """A method as a track has it, bound to the kit's people."""

    kind: ClassVar[str] = "method"
    rules: ClassVar[Rules] = rules
    remedy: ClassVar[str] = (
        "if it reads what simulated people do not have, give check_method a cohort that holds it"
    )

    def __init__(self, entry: MethodEntry, track: str | None, cohort: Cohort | None) -> None:
        super().__init__()
        self.entry, self.name = entry, entry.name
        if track is not None and track not in entry.variant.tracks:
            raise UserError(f"{entry.name} is not part of the {track} track")
        tracks = [name for name in TRACKS if name in entry.variant.tracks]
        self.track = track or (tracks[0] if tracks else None)
        self.cohort = cohort or kit_people()

    @classmethod
    def of(
        cls, method: str | type[Method], *, track: str | None = None, cohort: Cohort | None = None
    ) -> MethodSubject:
        """Return a subject by name, or of a class in the first of its variants."""
        named = isinstance(method, str)
        entry = registry().method(method) if named else process.entry_of(method)
        return cls(entry, track, cohort)

    @property
    def title(self) -> str:
        """Name and track."""
        return f"the method {self.name} ({self.track or 'no'} track)"

    def make(self, **changes: Any) -> Method:
        """Return the method; ``changes`` replace what is bound to its unset fields."""
        if self.track is None:
            raise Skipped("it is part of no track")
        unbound = self.entry.on_track(self.track, process.SCALE)
        return bind(unbound, **bound_fields(self.cohort) | changes)

    @property
    def cls(self) -> type[Method]:
        """The class that stands for it."""
        return self.entry.cls

    @property
    def identity(self) -> str:
        """Digest of what is tried: the method, cut to two updates."""
        return self.stages[0].stage.digest

    def values(self) -> dict[str, Any]:
        """Return the losses of two updates, and projections of the features they leave."""
        from benchmark.golden import projected, rounded

        stage = self.stages[0]
        found: dict[str, Any] = {}
        for place, entry in enumerate(stage.run().history):
            for name, value in entry.items():
                found[f"round {place + 1}, {name}"] = rounded(value)
        for modality, people in stage.encoded():
            features = stage.features(stage.loaded, modality, people)
            found[f"{modality} features"] = projected(features)
        return found

    @functools.cached_property
    def stages(self) -> list[Tried]:
        """The method, and what it starts from as far as that is checked nowhere else."""
        lab = lab_of(self.cohort)
        found: dict[str, Tried] = {}

        def visit(stage: Trainable) -> None:
            own_row = stage is not method and type(stage).__dict__.get("variants")
            if stage.digest not in found and not own_row:
                found[stage.digest] = tried(stage, lab)
                for start in stage.initial_weights().values():
                    visit(start)

        method = self.make()
        visit(method)
        return list(found.values())


# ------------------------------------------------------------------------------ declarations


@rules.add("described", sees=False)
def _described(subject: MethodSubject) -> None:
    """Say in one line what it is, and where it was published if it is ranked."""
    need(subject.entry.summary.strip(), "the class has no docstring; its first line is listed")
    doc = inspect.getdoc(subject.cls) or ""
    made_up = doc.startswith(f"{subject.cls.__name__}(")
    need(not made_up, "the class has no docstring of its own, only what dataclass writes")
    need(
        subject.entry.paper or subject.entry.variant.role != "ranked",
        "it is ranked, but `paper` does not say where it was published (or 'unpublished')",
    )
    need(
        isinstance(subject.cls.version, int) and subject.cls.version >= 1,
        f"`version` is a whole number from 1, not {subject.cls.version!r}",
    )


@rules.add("import", sees=False)
def _import(subject: MethodSubject) -> None:
    """Cost nothing worth noticing to import: it is done for every listing."""
    process.cheap(process.Plugin.of(subject.cls, name=subject.name, track=subject.track or ""))


@rules.add("identity", sees=False, essential=True)
def _identity(subject: MethodSubject) -> None:
    """Have one digest in every process, another for another seed, with the views in it."""
    method = subject.make()
    _same_elsewhere(subject, method)
    need(
        subject.make().digest == method.digest,
        "made twice, it has two digests; fields and views follow from the class alone",
    )
    other = subject.make(seed=1)
    need(other.digest != method.digest, "its digest does not depend on the seed")
    need(other.recipe_digest == method.recipe_digest, "replicates must share one recipe digest")
    need(
        {view.digest for view in method.views().values()} <= {i.digest for i in method.inputs},
        "its views are not among its inputs; do not override implied_inputs",
    )
    need(
        method.replace(variant="").digest == method.digest,
        "its digest depends on the name it was asked for by",
    )


def _same_elsewhere(subject: MethodSubject, method: Method) -> None:
    if subject.cohort.digest != kit_people().digest:
        return  # the other processes try the kit's own people
    plugin = process.Plugin.of(subject.cls, name=subject.name, track=subject.track or "")
    process.same_digest(plugin, method.digest)


@rules.add("encoders")
def _encoders(subject: MethodSubject) -> None:
    """Embed each modality it names, in finite features whose tokens lie as it says."""
    import torch

    from benchmark.encoders import Encoders, Features
    from benchmark.engine.batches import as_input

    stage = subject.stages[0]
    method, encoders = stage.stage, stage.loaded
    need(isinstance(encoders, Encoders), "build returns no benchmark.encoders.Encoders")
    views = method.views()
    need(method.modalities, "none of its views is of a modality, so there is nothing to embed")
    widths = set()
    for modality in method.modalities:
        need(
            modality in views and views[modality].modality == modality,
            f"it has a view of {modality} under another name; call it {modality!r} in views()",
        )
        need(
            encoders.has(modality),
            f"it reads {modality}, but build makes no part {modality!r} that would encode it",
        )
        crop = (views[modality].crops() or (slice(None),))[0]
        x = as_input(stage.view(modality)[:3])[..., crop]
        with torch.inference_mode():
            found = getattr(encoders, modality)(x)
        need(isinstance(found, Features), f"the {modality} encoder returns no Features")
        need(
            found.pooled.ndim == 2 and len(found.pooled) == 3,
            f"pooled features of 3 people have the shape {tuple(found.pooled.shape)}, not "
            "(3, width)",
        )
        grid = method.grid(modality)
        if grid is not None and found.tokens is not None:
            need(
                found.tokens.shape[1] == math.prod(grid),
                f"grid({modality!r}) is {grid}, but there are {found.tokens.shape[1]} tokens",
            )
        values = stage.features(encoders, modality, stage.view(modality))
        lost = np.flatnonzero(~np.isfinite(values).all(axis=1))
        need(
            not len(lost),
            f"{modality} features of {len(lost)} of {len(values)} people are not finite; the "
            "encoder has to cope with whatever its view holds",
        )
        if method.two_tower and modality in ("ecg", "cmr"):
            part = f"project_{modality}"
            need(encoders.has(part), f"it is two_tower, but build makes no part {part!r}")
            with torch.inference_mode():
                widths.add(getattr(encoders, part)(found.pooled).shape[-1])
    need(len(widths) < 2, f"the towers meet in spaces of {widths} dimensions")


rules += trainings.rules


@rules.add("fingerprint", sees=False)
def _fingerprint(subject: MethodSubject) -> None:
    """Compute what was recorded, unless its version is another."""
    fingerprints.hold(subject)
