"""What every ECG method and every two-tower method has in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Method, View
from methods.blocks.augment import CMRAugment, ECGAugment, random_crop
from methods.blocks.backbones import CMRViT, ECGViT

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class ECGMethod(Method):
    """A method that leaves an ECG encoder behind."""

    kind: ClassVar[str] = "ecg-pretraining"
    """Which of the track's training recipes applies."""
    ecg_encoder: ECGViT = ECGViT()
    ecg_augment: ECGAugment = ECGAugment()

    def views(self) -> dict[str, View]:
        """Read the cleaned ECG."""
        return {"ecg": self.ecg_encoder.view(self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make an untrained ECG encoder."""
        from benchmark.encoders import Encoders

        return Encoders(ecg=self.ecg_encoder.build())

    def ecg_crop(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the network's window of each ECG, and where it starts in samples.

        Training: a random window. Validation: the first one.
        """
        samples = self.ecg_encoder.samples
        if batch.training:
            return random_crop(batch.ecg, samples)
        return batch.ecg[..., :samples], batch.ecg.new_zeros(len(batch.ecg))

    def ecg_input(self, batch: Batch) -> torch.Tensor:
        """Return the augmented window (batch, 12, samples); see `Method.ecg_input`."""
        x, _ = self.ecg_crop(batch)
        return self.ecg_augment(x) if batch.training else x


@dataclass(frozen=True, kw_only=True)
class ContrastiveECG(ECGMethod):
    """A method that compares two augmented windows of one recording."""

    kind: ClassVar[str] = "ecg-contrastive"

    def window(self, batch: Batch) -> torch.Tensor:
        """Return a random augmented window of each ECG (batch, 12, samples).

        On validation too: two equal windows would say nothing.
        """
        x, _ = random_crop(batch.ecg, self.ecg_encoder.samples)
        return self.ecg_augment(x)


@dataclass(frozen=True, kw_only=True)
class TwoTower(ECGMethod):
    """A method that aligns an ECG and a CMR encoder in one space of ``embedding`` dimensions."""

    kind: ClassVar[str] = "alignment"
    two_tower: ClassVar[bool] = True
    cmr_encoder: CMRViT = CMRViT()
    cmr_augment: CMRAugment = CMRAugment()
    hidden: int = 512
    embedding: int = 128

    def views(self) -> dict[str, View]:
        """Read the cleaned ECG and the CMR view of the encoder."""
        return {**super().views(), "cmr": self.cmr_encoder.view(self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make both encoders and their projectors into the shared space."""
        from benchmark.encoders import Encoders
        from methods.blocks.vit import projector

        return Encoders(
            ecg=self.ecg_encoder.build(),
            cmr=self.cmr_encoder.build(),
            project_ecg=projector(self.ecg_encoder.width, self.hidden, self.embedding),
            project_cmr=projector(self.cmr_encoder.width, self.hidden, self.embedding),
        )

    def cmr_input(self, batch: Batch) -> torch.Tensor:
        """Return the augmented CMR view."""
        return self.cmr_augment(batch.cmr) if batch.training else batch.cmr
