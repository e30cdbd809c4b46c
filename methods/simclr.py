"""SimCLR on the ECG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.api import Batch, Recipe, Variant
from methods.blocks.augment import ECGAugment
from methods.blocks.bases import MMCL_ADAM, PTACL_ADAMW, PTACL_ECG, ContrastiveECG

if TYPE_CHECKING:
    import torch

    from benchmark.encoders import Encoders


@dataclass(frozen=True, kw_only=True)
class SimCLR(ContrastiveECG):
    """Two augmented windows of one ECG attract, all other windows of the batch repel.

    Chen et al., ICML 2020, as MMCL's baseline (Turgut et al. 2025, Table II): projector without
    batch norm, hidden width unstated (512 declared), temperature 0.1.

    ``simclr@ptacl`` (Selivanov et al. 2025, Table 2) is the same on PTACL's encoder; nothing else
    is stated. Declared: both windows augmented by MMCL's list without flips and masked spectrogram,
    and the training of its masked autoencoder.

    The harmonised track alone augments both windows always and by its list without flips and
    masked spectrogram, pools after the encoder's own norm and trains with AdamW.
    """

    paper: ClassVar[str] = "Turgut et al., Medical Image Analysis 101 (2025) 103451"
    variants: ClassVar[Mapping[str, Variant]] = {
        "simclr": Variant(tracks=("harmonised",)),
        "simclr@mmcl": Variant(tracks=("paper",), protocol="mmcl"),
        "simclr@ptacl": Variant(
            {
                "ecg_encoder": PTACL_ECG,
                "ecg_augment": ECGAugment(surrogate_probability=1.0),
                "second_probability": 1.0,
                "recipe": PTACL_ADAMW,
            },
            tracks=("paper",),
            protocol="ptacl-probe",
            paper="Selivanov et al., MICCAI 2025",
            summary="SimCLR on PTACL's ECG encoder under a linear probe.",
        ),
    }

    temperature: float = 0.1
    recipe: Recipe = MMCL_ADAM.replace(learning_rate=3e-3)

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Encoders:
        """Make encoder and projector."""
        from benchmark.encoders import Encoders
        from methods.blocks.vit import projector

        encoder = self.ecg_encoder.build()
        return Encoders(ecg=encoder, contrast=projector(encoder.width, self.hidden, self.embedding))

    def loss(self, encoders: Encoders, batch: Batch) -> dict[str, torch.Tensor]:
        """NT-Xent between the two windows."""
        from methods.blocks.losses import nt_xent

        a, b = (encoders.contrast(encoders.ecg(x).pooled) for x in self.windows(batch))
        return {"nt_xent": nt_xent(a, b, self.temperature)}
