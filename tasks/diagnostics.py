"""What representations show when one looks into them; reported, never ranked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmark.api import Method, Metric, Task
from benchmark.cohorts.views import CleanECG, ImageView, MidSliceCine
from benchmark.evaluation.diagnostics import (
    AlignPhases,
    InsideVentricle,
    Inspect,
    Localise,
    NormalisedError,
    OwnPhase,
    OwnPhaseProjected,
    Reconstruct,
)

ONE_MODALITY = "it does not bring ECG and CMR together"


@dataclass(frozen=True, kw_only=True)
class Diagnostic(Task):
    """A number about representations, taken on each test person.

    There are no targets, and no labels but those that a method learns itself: all phenotypes.
    """

    kind: ClassVar[str] = "diagnostic"
    target_names: ClassVar[tuple[str, ...]] = ()
    primary: ClassVar[Mapping[str, str]] = {}
    reference: ClassVar[Mapping[str, str]] = {}
    supervision: ClassVar[str] = "phenotype"


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Diagnostic):
    """How well hidden parts of an ECG are filled in, for methods that learn to.

    Four fifths of the patches are hidden, the same of everybody for all methods with equal patches.
    1 is a flat line; Turgut et al. 2025 report 0.043 over visible and hidden patches together.
    """

    name: ClassVar[str] = "reconstruction"
    title: ClassVar[str] = "Reconstruction of hidden ECG"
    metrics: ClassVar[tuple[Metric, ...]] = (NormalisedError(),)

    def lacks(self, method: Method) -> str:
        """Ask for `Method.reconstruct`, and for patches of a recording that can be hidden."""
        if not method.reconstruct:
            return "it fills in no hidden parts of an ECG"
        if not isinstance(method.views().get("ecg"), CleanECG) or not method.grid("ecg"):
            return "its ECGs are not cut into patches that could be hidden"
        return ""

    def predict(self, embedding: Any, modality: str) -> Inspect | None:
        """Hide and fill in."""
        return Reconstruct(method=embedding.method, task=self) if modality == "ecg" else None


@dataclass(frozen=True, kw_only=True)
class TemporalAlignment(Diagnostic):
    """How often the cine frame nearest to a segment of the heart beat is that of its own phase.

    Selivanov et al., MICCAI 2025, Figure 2, as a number. Chance is one in as many phases as the
    cine has temporal tokens. The paper aligns the encoders' own tokens; of methods that align
    patients alone, only what the projectors made of tokens can be expected to agree.
    """

    name: ClassVar[str] = "temporal-alignment"
    title: ClassVar[str] = "Alignment of cardiac phases"
    metrics: ClassVar[tuple[Metric, ...]] = (OwnPhase(), OwnPhaseProjected())
    needs: ClassVar[tuple[str, ...]] = ("ecg", "cmr")

    def lacks(self, method: Method) -> str:
        """Ask for two towers with tokens along the beat."""
        if not method.two_tower:
            return ONE_MODALITY
        views = method.views()
        if not isinstance(views["cmr"], MidSliceCine):
            return "its images are single phases, not the whole heart beat"
        grids = method.grid("ecg"), method.grid("cmr")
        if not isinstance(views["ecg"], CleanECG) or not all(grids) or grids[1][0] < 2:
            return "its encoders have no tokens along the heart beat"
        return ""

    def predict(self, embedding: Any, modality: str) -> Inspect | None:
        """Compare segments with frames."""
        return AlignPhases(method=embedding.method, task=self) if modality == "ecg-cmr" else None


@dataclass(frozen=True, kw_only=True)
class Localisation(Diagnostic):
    """How much of the similarity of an ECG to the patches of its image is in the left ventricle.

    Turgut et al., Medical Image Analysis 2025, Figure 6, as a number, in end-diastole. Chance is
    the ventricle's share of the area. Where it truly lies is known of simulated people alone.
    """

    name: ClassVar[str] = "localisation"
    title: ClassVar[str] = "Similarity inside the left ventricle"
    metrics: ClassVar[tuple[Metric, ...]] = (InsideVentricle(),)
    needs: ClassVar[tuple[str, ...]] = ("ecg", "cmr")

    def lacks(self, method: Method) -> str:
        """Ask for two towers with tokens of places, and for simulated people."""
        if not method.cohort.simulated:
            return "where the left ventricle truly is, is known of simulated people alone"
        if not method.two_tower:
            return ONE_MODALITY
        view = method.views()["cmr"]
        if not isinstance(view, ImageView) or view.source != "cine" or not method.grid("cmr"):
            return "its CMR encoder has no tokens of places in the middle slice"
        return ""

    def predict(self, embedding: Any, modality: str) -> Inspect | None:
        """Compare the ECG with every patch."""
        return Localise(method=embedding.method, task=self) if modality == "ecg-cmr" else None
