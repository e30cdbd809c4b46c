"""Settings of the two encoders and what they look at; networks are made in `build`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from benchmark.api import Cohort, View
from benchmark.cohorts.views import CleanECG, EDESVolumes, MidSliceCine, ThreePhases
from benchmark.stage import Spec

if TYPE_CHECKING:
    from methods.blocks.phases import PhasesEncoder
    from methods.blocks.vit import PatchViT

LEADS = 12


@dataclass(frozen=True, kw_only=True)
class Transformer(Spec):
    """What every transformer here is made of; `methods.blocks.vit.PatchViT` says it in full.

    ``positions`` are a fixed sine-cosine table, one that is ``trained`` from there, or ``learned``
    from random values; ``position_base`` is the table's ratio of wavelengths. ``pool`` says where
    features come from: the mean of the patch tokens after the final norm, the class token after
    it, or a norm of its own on the mean of the tokens.
    """

    width: int
    depth: int
    heads: int
    cls_token: bool = True
    positions: Literal["fixed", "trained", "learned"] = "fixed"
    position_base: float = 10_000.0
    pool: Literal["mean", "cls", "mean-then-norm"] = "mean"
    drop_path: float = 0.0
    dropout: float = 0.0

    def network(
        self, size: tuple[int, ...], patch: tuple[int, ...], centred: bool = False
    ) -> PatchViT:
        """Make the transformer that reads this input in these patches, with fresh weights."""
        from methods.blocks.vit import PatchViT

        return PatchViT(
            size,
            patch,
            self.width,
            self.depth,
            self.heads,
            self.cls_token,
            self.position_base,
            positions=self.positions,
            pool=self.pool,
            drop_path=self.drop_path,
            dropout=self.dropout,
            centred=centred,
        )

    def rehearsal(self) -> dict[str, Any]:
        """Keep what is read; three blocks still leave one to train where two are frozen.

        The width still tells one paper's size from another's; two heads, as the cost of hundreds of
        tokens grows with the number of heads.
        """
        return {"width": 4 * self.heads, "heads": 2, "depth": min(self.depth, 3)}


@dataclass(frozen=True, kw_only=True)
class ECGViT(Transformer):
    """ECG transformer; the defaults are MMCL's (Turgut et al. 2025): 5,363,328 parameters.

    ``cleaning`` is the recipe of `CleanECG`; ``first_window`` reads the first window alone at
    evaluation.
    """

    width: int = 384
    depth: int = 3
    heads: int = 6
    patch: int = 100
    rate: int = 500
    seconds: float = 5.0
    cleaning: str = "harmonised"
    first_window: bool = False

    @property
    def samples(self) -> int:
        """Samples per lead that enter the network."""
        return round(self.rate * self.seconds)

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens: leads, times."""
        return LEADS, self.samples // self.patch

    def view(self, cohort: Cohort) -> View:
        """Return the cleaned 10 s ECG that crops are cut from."""
        return CleanECG(
            cohort=cohort,
            rate=self.rate,
            window=self.seconds,
            recipe=self.cleaning,
            first_window=self.first_window,
        )

    def build(self) -> PatchViT:
        """Make the network with fresh weights."""
        return self.network((LEADS, self.samples), (1, self.patch))


@dataclass(frozen=True, kw_only=True)
class CMRViT(Transformer):
    """Cine transformer; the defaults are PTACL's (Selivanov et al. 2025): 12,759,040 parameters.

    ``spacing`` is the mm per pixel it sees; None is whatever the cohort has. ``centred`` maps the
    view's [0, 1] to [-1, 1].
    """

    width: int = 512
    depth: int = 4
    heads: int = 8
    patch: tuple[int, int, int] = (2, 12, 12)
    frames: int = 26
    size: int = 84
    spacing: float | None = None
    centred: bool = False

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens: times, rows, columns."""
        times, rows, columns = self.patch
        return self.frames // times, self.size // rows, self.size // columns

    @property
    def times(self) -> int:
        """Temporal tokens."""
        return self.grid[0]

    def view(self, cohort: Cohort) -> View:
        """Return the mid-slice cine; three frames mean end-diastole, between, end-systole."""
        if self.frames == 3:
            return ThreePhases(cohort=cohort, size=self.size, spacing=self.spacing)
        return MidSliceCine(cohort=cohort, frames=self.frames, size=self.size, spacing=self.spacing)

    def build(self) -> PatchViT:
        """Make the network with fresh weights."""
        return self.network((self.frames, self.size, self.size), self.patch, self.centred)


# Its width is not printed; only 512 gives the 13 M parameters.
PTACL_CMR = CMRViT(positions="learned")


@dataclass(frozen=True, kw_only=True)
class PhasesViT(Transformer):
    """A transformer for each phase of the short-axis stack, slices as depth.

    ``phases`` names the ones that are read, of ``ed`` and ``es``; the width is that of one.
    """

    phases: tuple[str, ...] = ("ed", "es")
    slices: int = 6
    width: int = 512
    depth: int = 4
    heads: int = 8
    patch: int = 12
    size: int = 84
    spacing: float | None = None

    def view(self, cohort: Cohort) -> View:
        """Return the central slices at end-diastole and end-systole."""
        return EDESVolumes(cohort=cohort, slices=self.slices, size=self.size, spacing=self.spacing)

    def build(self) -> PhasesEncoder:
        """Make the networks with fresh weights."""
        from methods.blocks.phases import PhasesEncoder

        shape = (self.slices, self.size, self.size)
        patch = (1, self.patch, self.patch)
        return PhasesEncoder({phase: self.network(shape, patch) for phase in self.phases})
