"""The harmonised track: what is the same for every method, so that only ideas are compared.

One ECG cleaning and scaling (in the views), one ECG and one CMR transformer, one list of
augmentations, and per kind of stage one batch size and number of updates. What a method is about
stays its own: its loss and its constants, the content of its CMR view, what it freezes (as a share
of the blocks, which are fewer here).

Nothing here was chosen by a method's score on test people of a cohort. But the settings of ``tiny``
go back to a prototype on other simulated people, in which the masked autoencoders, MMCL and PTACL
were tried while looking at its test scores; other methods have had no such trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from benchmark.api import Method, Recipe
from benchmark.evaluation.boosted import XGBoostHead
from benchmark.evaluation.finetune import FineTune
from benchmark.evaluation.heads import LinearHead
from benchmark.registry import MethodEntry
from benchmark.stage import Spec, Stage
from methods.blocks.augment import CMRAugment, ECGAugment
from methods.blocks.backbones import CMRViT, ECGViT, PhasesViT, Transformer
from methods.blocks.image_backbones import FramesNetwork, PhasesResNet3D
from methods.blocks.masked_autoencoder import Decoder


@dataclass(frozen=True)
class Scale:
    """Sizes and budgets of one scale; ``recipes`` are by kind of stage."""

    ecg_encoder: ECGViT
    cmr_encoder: CMRViT
    decoder: Decoder
    hidden: int
    embedding: int
    recipes: Mapping[str, Recipe]


# Much weaker than the papers': a small encoder under a small budget does not outgrow strong noise.
ECG_AUGMENT = ECGAugment(jitter=0.1, jitter_amplitude=1.0, rescale=0.1)
CMR_AUGMENT = CMRAugment()

# 12 leads x 20 patches of 0.25 s, and 8 x 9 patches of the cine: what two cores train in minutes.
# Patches of 0.5 s learn nothing at this size. Features are means of patch tokens, so there is no
# cls token; wavelengths up to 100 positions suit grids of 8 to 20.
SMALL_ECG = ECGViT(
    width=64, depth=3, heads=2, patch=25, rate=100, cls_token=False, position_base=100.0
)
SMALL_CMR = CMRViT(
    width=64,
    depth=3,
    heads=2,
    patch=(2, 16, 16),
    frames=16,
    size=48,
    spacing=2.74,
    cls_token=False,
    position_base=100.0,
)

ON_GPU = Recipe(rounds=20, batch_size=128, clip_norm=3.0, precision="bf16-mixed")

SCALES: dict[str, Scale] = {
    "smoke": Scale(
        ecg_encoder=SMALL_ECG.replace(width=32, depth=2, patch=50),
        cmr_encoder=SMALL_CMR.replace(width=32, depth=2),
        decoder=Decoder(width=32, depth=1, heads=2),
        hidden=32,
        embedding=16,
        recipes={
            "ecg-pretraining": Recipe(updates=24, rounds=3, batch_size=16, learning_rate=3e-3),
            "cmr-pretraining": Recipe(updates=24, rounds=3, batch_size=16, learning_rate=3e-3),
            "ecg-contrastive": Recipe(updates=24, rounds=3, batch_size=32, learning_rate=2e-3),
            "alignment": Recipe(updates=24, rounds=3, batch_size=32, learning_rate=2e-3),
            "finetune": Recipe(updates=24, rounds=3, batch_size=32, learning_rate=1e-3),
        },
    ),
    "tiny": Scale(
        ecg_encoder=SMALL_ECG,
        cmr_encoder=SMALL_CMR,
        decoder=Decoder(width=64, depth=1, heads=2),
        hidden=128,
        embedding=64,
        recipes={
            # The ECG autoencoder stands still for its first 400 updates: all methods share it, so
            # it gets the largest share of the time.
            "ecg-pretraining": Recipe(
                updates=2500, rounds=10, batch_size=16, learning_rate=5e-3, clip_norm=3.0
            ),
            "cmr-pretraining": Recipe(
                updates=900, rounds=10, batch_size=32, learning_rate=3e-3, clip_norm=3.0
            ),
            # Two windows of 64 people cost a step as much as an ECG and a cine of them.
            "ecg-contrastive": Recipe(
                updates=250, rounds=5, batch_size=64, learning_rate=2e-3, clip_norm=3.0
            ),
            "alignment": Recipe(
                updates=250, rounds=5, batch_size=64, learning_rate=2e-3, clip_norm=3.0
            ),
            "finetune": Recipe(
                updates=240, rounds=6, batch_size=64, learning_rate=2e-3, clip_norm=3.0
            ),
        },
    ),
    # What one GPU trains in minutes: the papers' smallest transformers, more frames, larger
    # batches, and passes over the people between those of tiny and the papers'.
    "small": Scale(
        ecg_encoder=SMALL_ECG.replace(width=192, depth=6, heads=3),
        cmr_encoder=SMALL_CMR.replace(width=192, depth=6, heads=3, frames=24, size=64, spacing=2.2),
        decoder=Decoder(width=128, depth=2, heads=4),
        hidden=256,
        embedding=128,
        recipes={
            "ecg-pretraining": ON_GPU.replace(updates=20_000, learning_rate=1e-3),
            "cmr-pretraining": ON_GPU.replace(updates=5_000, learning_rate=1e-3),
            "ecg-contrastive": ON_GPU.replace(updates=4_000, learning_rate=5e-4),
            "alignment": ON_GPU.replace(updates=4_000, learning_rate=5e-4),
            "finetune": ON_GPU.replace(updates=2_000, learning_rate=5e-4),
        },
    ),
}


DEFAULT_SCALE = "tiny"
SHARED_SUPERVISION = True
"""Whether one training on the ten phenotypes serves every task that names it as supervision."""


def overrides(spec: Spec, scale: str) -> dict[str, Any]:
    """Return the field values that the track fixes for one stage."""
    if not isinstance(spec, Method):
        return {}
    sizes = SCALES[scale]
    kind = getattr(spec, "kind", "")
    fixed: dict[str, Any] = {
        "ecg_encoder": sizes.ecg_encoder,
        "ecg_augment": ECG_AUGMENT,
        "finetune_encoder": sizes.ecg_encoder,
        "finetune_augment": ECG_AUGMENT,
        # Both windows that are contrasted are augmented.
        "second_probability": 1.0,
        "cmr_augment": CMR_AUGMENT,
        "decoder": sizes.decoder,
        "hidden": sizes.hidden,
        "embedding": sizes.embedding,
        # MSE on all patches + 0.1 (1 - NCC); 80% of the ECG and 90% of the cine are hidden.
        "mse_weight": 1.0,
        "ncc_weight": 0.1,
        "similarity_weight": 0.0,
        "loss_on": "all",
        "mask_ratio": {"ecg-pretraining": 0.8, "cmr-pretraining": 0.9}.get(kind),
        # PTACL freezes two of six ECG and two of four CMR blocks. Of three that is one, and one or
        # two; two would leave a single block to train.
        "frozen_blocks": 1,
        "recipe": sizes.recipes.get(kind),
    }
    if hasattr(spec, "momentum"):
        # A copy that remembers the same share of the training as with 0.9996 over MMCL's 33,000
        # updates (2,500 of them); as it is, it would not move at all within a few hundred.
        remembered = fixed["recipe"].updates * 2_500 / 33_000
        fixed["momentum"] = 1 - 1 / max(remembered, 1.0)
    if hasattr(spec, "cmr_encoder"):
        # Without a kind nothing is trained before the fine-tuning on labels.
        fixed["cmr_encoder"] = _cmr_encoder(spec.cmr_encoder, sizes.cmr_encoder, not kind)
    own = set(spec.__dataclass_fields__)
    return {name: value for name, value in fixed.items() if name in own and value is not None}


def _cmr_encoder(own: Spec, shared: CMRViT, supervised: bool) -> Spec:
    """Return the track's transformer for what a method looks at: the view is its own."""
    pixels = {"size": shared.size, "spacing": shared.spacing}
    if supervised and isinstance(own, FramesNetwork):
        # These references say what the images tell: networks known for images say it better than
        # the small transformer that aligned methods share.
        frames = min(own.frames, shared.frames)
        return own.replace(**pixels, frames=frames, resize=None)
    if isinstance(own, PhasesViT | PhasesResNet3D):
        shape = {f.name: getattr(shared, f.name) for f in fields(Transformer)}
        content = {"phases": own.phases, "slices": own.slices}
        return PhasesViT(**content, **pixels, **shape, patch=shared.patch[-1])
    if own.frames == 3:  # three phases as depth, one token deep each
        return shared.replace(frames=3, patch=(1, *shared.patch[1:]))
    return shared


def heads(entry: MethodEntry, scale: str) -> dict[str, Stage]:
    """Return the heads of a method: the linear probe, unless it is tied to another."""
    kinds = {
        "linear": LinearHead(),
        "xgboost": XGBoostHead(),
        "finetune": FineTune(recipe=SCALES[scale].recipes["finetune"]),
    }
    return {entry.head: kinds[entry.head]}
