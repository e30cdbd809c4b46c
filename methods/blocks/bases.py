"""What ECG methods, CMR methods and two-tower methods have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from benchmark.api import Batch, Method, Recipe, Task, TrainingPeople, View
from benchmark.stage import UNSET, Spec, Stage
from methods.blocks.augment import (
    MMCL_FINETUNE_AUGMENT,
    MMCL_UNIMODAL_AUGMENT,
    CMRAugment,
    ECGAugment,
    random_crop,
)
from methods.blocks.backbones import CMRViT, ECGViT

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from benchmark.encoders import Encoders
    from benchmark.engine.supervision import Supervision

# The ECG encoder of each paper as its masked autoencoder trains it; what a later stage changes is
# said there. MMCL's and DUAL's parameter counts are printed; of PTACL's width only 512 gives its
# 19 M.
MMCL_ECG = ECGViT(cleaning="mmcl_als", first_window=True)
ECCL_ECG = ECGViT(width=768, depth=12, heads=12, seconds=10.0, cleaning="eccl_trend", pool="cls")
MMCL_CONTRASTIVE_ECG = MMCL_ECG.replace(positions="learned", pool="mean-then-norm", drop_path=0.1)
PTACL_ECG = ECGViT(
    width=512, depth=6, heads=8, patch=50, cleaning="ptacl_wavelet8", positions="learned"
)
DUAL_ECG = ECGViT(
    width=576, depth=12, heads=8, seconds=10.0, cleaning="dual_hp_notch_sg", pool="cls"
)


def scaled_rate(base: float, batch_size: int) -> float:
    """Return the learning rate of a base rate: base x batch / 4, as MMCL's and ECCL's code has it.

    Their help texts, and the masked autoencoder both descend from, say 256 instead of 4.
    """
    return base * batch_size / 4


# MMCL's masked autoencoder.
MMCL_MAE_ADAMW = Recipe(
    epochs=400,
    batch_size=128,
    learning_rate=scaled_rate(1e-5, 128),
    weight_decay=0.15,
    keep="last",
)
# MMCL's contrastive stages as coded; the paper says AdamW. Their learning rates are their own.
MMCL_ADAM = Recipe(
    epochs=300,
    batch_size=256,
    weight_decay=1e-4,
    betas=(0.9, 0.999),
    optimiser="adam",
    decay_all=True,
)
# PTACL's pretraining, of which nothing is stated: declared here, weight decay 0.05.
PTACL_ADAMW = Recipe(epochs=400, batch_size=256, learning_rate=1e-4)
# DUAL's training: of its masked autoencoder, and of all stages after it, less their epochs.
DUAL_MAE_ADAMW = Recipe(
    epochs=250,
    batch_size=64,
    learning_rate=1e-4,
    weight_decay=1e-4,
    warmup=40 / 250,
    patience=15,
)
DUAL_ADAMW = Recipe(
    batch_size=64,
    learning_rate=1e-3,
    weight_decay=0.005,
    betas=(0.9, 0.95),
    decay_all=True,
    patience=15,
)


@dataclass(frozen=True, kw_only=True)
class Encoding(Method):
    """A method whose field ``<modality>_encoder`` makes the encoder of that modality."""

    def grid(self, modality: str) -> tuple[int, ...] | None:
        """Return the encoder's; networks without tokens have none."""
        return getattr(getattr(self, f"{modality}_encoder", None), "grid", None)


@dataclass(frozen=True, kw_only=True)
class ECGMethod(Encoding):
    """A method that leaves an ECG encoder behind.

    Fine-tuned, its input is augmented by ``finetune_augment`` and its encoder becomes
    ``finetune_encoder`` (None: stays what it is), which loads what was pretrained.
    """

    kind: ClassVar[str] = "ecg-pretraining"
    """Which of the track's training recipes applies."""
    ecg_encoder: ECGViT = MMCL_ECG
    ecg_augment: ECGAugment = ECGAugment()
    finetune_encoder: ECGViT | None = None
    finetune_augment: ECGAugment = MMCL_FINETUNE_AUGMENT

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

    def finetuned(self) -> Self:
        """Return the method with the encoder and the augmentation of fine-tuning."""
        return self.replace(
            ecg_encoder=self.finetune_encoder or self.ecg_encoder,
            ecg_augment=self.finetune_augment,
        )


@dataclass(frozen=True, kw_only=True)
class ContrastiveECG(ECGMethod):
    """A method that compares windows of one recording; the defaults are MMCL's baselines.

    The first window is always augmented, others with ``second_probability``. The encoder starts
    from random positions and pools the mean of its tokens through a norm of its own.

    Departures in both tracks: the learning rate follows its warm-up and cosine update by update,
    MMCL's epoch by epoch, with a first epoch at zero; training batches are always full.
    """

    kind: ClassVar[str] = "ecg-contrastive"
    ecg_encoder: ECGViT = MMCL_CONTRASTIVE_ECG
    ecg_augment: ECGAugment = MMCL_UNIMODAL_AUGMENT
    second_probability: float = 0.95
    hidden: int = 512
    embedding: int = 128

    def rehearsal(self) -> dict[str, Any]:
        """Keep the encoder, narrow what follows it."""
        return {"hidden": 32, "embedding": 16}

    def augmented(self, x: torch.Tensor, place: int) -> torch.Tensor:
        """Augment the window (batch, 12, samples) that is compared as number ``place``."""
        probability = self.second_probability if place else 1.0
        return self.ecg_augment.replace(probability=probability)(x)

    def windows(self, batch: Batch) -> list[torch.Tensor]:
        """Return two random augmented windows of each ECG (batch, 12, samples).

        On validation too: two equal windows would say nothing.
        """
        samples = self.ecg_encoder.samples
        return [self.augmented(random_crop(batch.ecg, samples)[0], place) for place in range(2)]


@dataclass(frozen=True, kw_only=True)
class CMRMethod(Encoding):
    """A method that reads the images alone and leaves a CMR encoder behind."""

    cmr_encoder: Spec = CMRViT()
    cmr_augment: CMRAugment = CMRAugment()

    def views(self) -> dict[str, View]:
        """Read the CMR view of the encoder."""
        return {"cmr": self.cmr_encoder.view(self.cohort)}

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make an untrained CMR encoder."""
        from benchmark.encoders import Encoders

        return Encoders(cmr=self.cmr_encoder.build())

    def cmr_input(self, batch: Batch) -> torch.Tensor:
        """Return the augmented CMR view."""
        return self.cmr_augment(batch.cmr) if batch.training else batch.cmr


@dataclass(frozen=True, kw_only=True)
class TwoTower(ECGMethod, CMRMethod):
    """A method that aligns an ECG and a CMR encoder in one space of ``embedding`` dimensions.

    What fields named ``ecg`` and ``cmr`` hold is where the two encoders start from.
    """

    kind: ClassVar[str] = "alignment"
    two_tower: ClassVar[bool] = True
    hidden: int = 512
    embedding: int = 128

    def views(self) -> dict[str, View]:
        """Read the cleaned ECG and the CMR view of the encoder."""
        return {**ECGMethod.views(self), **CMRMethod.views(self)}

    def initial_weights(self) -> dict[str, Stage]:
        """Start from the stages that the method stands on; None is a random start."""
        starts = {modality: getattr(self, modality, None) for modality in ("ecg", "cmr")}
        return {modality: stage for modality, stage in starts.items() if stage is not None}

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


@dataclass(frozen=True, kw_only=True)
class LearnsTask(Method):
    """A method that learns the task's targets, inside the label fraction, with an output layer."""

    task: Task = UNSET
    fraction: float = UNSET

    def output(self, width: int) -> Supervision:
        """Make the output layer on features of this width, the part ``output`` of the encoders."""
        from benchmark.engine.supervision import Supervision

        targets, classify = len(self.task.names), self.task.kind == "classification"
        return Supervision(width, targets, classify, balanced=bool(self.recipe.balance))

    def labels(self, cohort: Any) -> pd.DataFrame:
        """Learn the task's targets."""
        return self.task.targets(cohort)

    def fit(self, encoders: Encoders, people: TrainingPeople) -> None:
        """Weigh positives by their share among the labelled people."""
        if encoders.has("output"):
            encoders.output.fit(people.labels)
