"""What a board is told of its task and of the methods that have a place on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TRACK = "harmonised"  # the only track that is ranked
NO_HEAD = "none"  # retrieval ranks features as they are
LEVEL = 0.05
RETRIEVAL, DIAGNOSTIC = "retrieval", "diagnostic"
WIDEST = 12  # more targets than this and a table of them is not read but searched: in CSV and JSON
NOT_RUN, NOT_APPLICABLE = "not run", "not applicable"
OTHER = "other cohort or task version, see below"
MODALITIES = {"ecg": "ECG", "cmr": "CMR", "ecg-cmr": "ECG to CMR", "covariates": "covariates"}
LABEL_FREE, LABEL_USING, UNRANKED = "label-free", "label-using", "unranked"
RANKED_BLOCKS = (LABEL_FREE, LABEL_USING)
BLOCKS = (*RANKED_BLOCKS, UNRANKED)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A method the board has a place for, run or not.

    ``places`` are the modalities and label fractions it can be scored in, ``heads`` the heads it
    can be scored under; None for all. ``why_not`` says why it cannot be scored at all.
    """

    name: str
    role: str = "ranked"
    uses_labels: bool = False
    places: frozenset[tuple[str, float]] | None = None
    heads: frozenset[str] | None = None
    why_not: str = ""

    @property
    def block(self) -> str:
        """Which of `BLOCKS` it is shown in."""
        if self.role != "ranked":
            return UNRANKED
        return LABEL_USING if self.uses_labels else LABEL_FREE


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """What a board needs to know of its task.

    Attributes
    ----------
    name, title, version, kind, units, groups
        Of the task; rows of another version are not ranked, a diagnostic is never ranked.
    simulated
        Whether the people are simulated.
    confirmatory
        Whether the families of its first modality and head are primary; all others are secondary.
    metrics
        Names of the task's metrics, the one shown first where there is no primary one leading.
    primary, reference, goal
        Modality to the primary metric, to the method all others are compared with, and to the
        method whose score is the far end of the gap that others close.
    methods
        In the order in which methods without a value are shown.
    fractions, heads
        Sections, in order; the first head is the primary one. Other heads found in ranked
        methods' rows follow.
    fingerprint
        The cohort's; None takes that of most files.
    ceilings
        Whether the task has ceilings on these people.
    """

    name: str
    title: str
    version: int
    simulated: bool
    primary: Mapping[str, str]
    reference: Mapping[str, str]
    methods: tuple[Expected, ...]
    kind: str = "classification"
    confirmatory: bool = True
    metrics: tuple[str, ...] = ()
    goal: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fractions: tuple[float, ...] = (1.0,)
    heads: tuple[str, ...] = ("linear",)
    fingerprint: str | None = None
    ceilings: bool = False

    @property
    def leading(self) -> str:
        """Metric of sections whose modality has no primary one."""
        return next(iter(self.primary.values()), "") or next(iter(self.metrics), "")
