"""From an encoder as it was trained to what `benchmark.export.standalone` builds and loads."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.api import UserError, View

if TYPE_CHECKING:
    import torch
    from torch import nn

EXAMPLES = 3
ONNX_TOLERANCE = 1e-4


def networks_of(encoder: nn.Module) -> list[dict[str, Any]] | None:
    """Return the settings of the transformers an encoder consists of; None for any other encoder.

    ``part`` is the entry of the input's first axis that a transformer reads, None for all of it.
    """
    found = _transformers(encoder)
    if found is None:
        return None
    return [
        {
            "part": part,
            "vit": {
                "size": list(vit.size),
                "patch": list(vit.patch),
                "width": vit.width,
                "depth": len(vit.blocks),
                "heads": vit.blocks[0].attn.num_heads,
                "cls_token": vit.embed.cls is not None,
                "pool": vit.pool,
                "centred": vit.centred,
            },
        }
        for part, vit in found
    ]


def weights_of(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of an encoder that has `networks_of`, under the names of the loader."""
    names = {"embed.cls": "cls", "embed.positions": "positions"}
    weights = {}
    for place, (_, vit) in enumerate(_transformers(encoder)):
        # A fixed table is a buffer outside the state: written too, the loader need not compute it.
        own = {**vit.state_dict(), "embed.positions": vit.embed.positions.detach()}
        for name, value in own.items():
            name = names.get(name, name.replace("pool_norm.", "norm."))
            weights[f"networks.{place}.{name}"] = value.contiguous()
    return weights


def _transformers(encoder: nn.Module) -> list[tuple[int | None, Any]] | None:
    from methods.blocks.phases import PhasesEncoder
    from methods.blocks.vit import PatchViT

    if type(encoder) is PatchViT:
        return [(None, encoder)]
    if type(encoder) is PhasesEncoder:
        vits = [(("ed", "es").index(phase), net) for phase, net in encoder.networks.items()]
        return vits if all(type(net) is PatchViT for _, net in vits) else None
    return None


def example_of(view: View) -> dict[str, np.ndarray]:
    """Return made-up inputs of a view (``input``) and the recordings they come from (``ecg_mv``).

    Recordings hold what cleaning has to deal with: an offset, a drift and an artefact. They are no
    person's; images are noise, as nothing is done to them before the encoder.
    """
    from benchmark.cohorts.cohort import ECG_RATE, ECG_SAMPLES, LEADS
    from benchmark.cohorts.views import ECGView

    rng = np.random.default_rng(0)
    if not isinstance(view, ECGView):
        return {"input": rng.integers(0, 256, (EXAMPLES, *view.shape), dtype=np.uint8)}
    time = np.arange(ECG_SAMPLES) / ECG_RATE
    ecg_mv = np.zeros((EXAMPLES, len(LEADS), ECG_SAMPLES), np.float32)
    for person in ecg_mv:
        phase = time % rng.uniform(0.7, 1.0)
        axis = rng.normal(size=(3, len(LEADS), 1))
        for amplitude, (at, width) in zip(
            axis, ((0.1, 0.02), (0.25, 0.01), (0.5, 0.04)), strict=True
        ):
            person += amplitude * np.exp(-(((phase - at) / width) ** 2) / 2)
    ecg_mv += 0.3 * np.sin(2 * np.pi * 0.2 * time) + 0.5
    ecg_mv += 0.01 * rng.normal(size=ecg_mv.shape)
    ecg_mv[-1, 7, 2000:2010] += 8
    return {"input": np.concatenate([view.prepare(x[None]) for x in ecg_mv]), "ecg_mv": ecg_mv}


def write_program(encoder: nn.Module, shape: tuple[int, ...], path: Path, batches: bool) -> None:
    """Write a network from (batch, *shape) to (batch, width) as an ONNX program, and check it.

    Without ``batches`` the program reads one person at a time: tracing freezes the size of a batch
    wherever a network asks for ``len(x)``, as many do.

    Raises
    ------
    UserError
        When the libraries are missing, the network cannot be written, or the program differs.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UserError(
            f"ONNX needs {error.name}: pip install 'ecgcmr-bench[onnx]', or leave --onnx out"
        ) from None
    import torch

    x = torch.rand((3, *shape), generator=torch.Generator().manual_seed(0))
    parts = [x, x[:1]] if batches else [x[:1], x[1:2]]
    dynamic = ({0: torch.export.Dim("batch", min=1)},) if batches else None
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                encoder,
                (parts[0],),
                path,
                input_names=["input"],
                output_names=["features"],
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
            )
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            found = [session.run(None, {"input": part.numpy()})[0] for part in parts]
        except Exception as error:  # whatever an author's code makes of being traced
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"the encoder cannot be written as ONNX: {text}") from None
    with torch.inference_mode():
        wanted = [encoder(part).numpy() for part in parts]
    largest = max(float(np.abs(f - w).max()) for f, w in zip(found, wanted, strict=True))
    if not largest <= ONNX_TOLERANCE * max(1.0, float(np.abs(wanted[0]).max())):
        raise UserError(f"the ONNX program's features differ from the encoder's by {largest:.1e}")


def pooled_only(encoder: nn.Module) -> nn.Module:
    """Return the network that gives an encoder's pooled features as a plain tensor."""
    from torch import nn

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder(x).pooled

    return Pooled().eval()
