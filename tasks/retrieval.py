"""Finding similar patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmark.api import Metric
from benchmark.evaluation.metrics import (
    CappedMeanRank,
    MeanRank,
    MedianRank,
    PrecisionAt,
    RecallAt,
)
from benchmark.evaluation.retrieve import Retrieve
from tasks.phenotype import Phenotype


@dataclass(frozen=True, kw_only=True)
class Retrieval(Phenotype):
    """Among the most similar people, how many share a ventricular phenotype.

    Selivanov et al., MICCAI 2025, Table 1: someone matches whose phenotype lies within half a
    standard deviation. Every method from ECG to ECG; two-tower methods from ECG to CMR as well,
    where R@k is another question: how often the query's own scan is among the k most similar.
    """

    name: ClassVar[str] = "retrieval"
    kind: ClassVar[str] = "retrieval"
    title: ClassVar[str] = "Retrieval of similar patients"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *(
            metric
            for own in (False, True)
            for metric in (
                *(PrecisionAt(k=k, own=own) for k in (1, 3, 5, 10, 15)),
                MeanRank(own=own),
                MedianRank(own=own),
            )
        ),
        *(RecallAt(k=k) for k in (1, 5, 10)),
    )
    further: ClassVar[tuple[Metric, ...]] = (CappedMeanRank(), CappedMeanRank(own=True))
    primary: ClassVar[Mapping[str, str]] = {"ecg": "P@10", "ecg-cmr": "P@10"}
    reference: ClassVar[Mapping[str, str]] = {
        "ecg": "mae",
        "cmr": "cmr-mae",
        "ecg-cmr": "ptacl-global",
    }
    goal: ClassVar[Mapping[str, str]] = {}
    supervision: ClassVar[str] = "phenotype"
    minimum_training: ClassVar[int] = 0

    def predict(self, embedding: Any, modality: str) -> Retrieve:
        """Rank by similarity instead of fitting a head."""
        return Retrieve(embedding=embedding, modality=modality, task=self)
