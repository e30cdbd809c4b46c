"""Load the encoder in this folder and encode recordings: torch, timm, numpy and scipy, no more.

    from load import features, load, prepare

    encoder = load()                                  # (batch, ...) -> (batch, width)
    x = prepare(ecg_mv, rate)                         # (12, samples) in mV, at any rate
    vectors = features(encoder, x[None])              # (1, width)

``config.json`` says what the input is; ``python load.py`` encodes ``example.safetensors`` and
compares the result with the features that the benchmark itself computed.
"""

from __future__ import annotations

import json
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import signal
from timm.models.vision_transformer import Block
from torch import nn

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-5  # between machines and libraries, relative to the largest feature


class ViT(nn.Module):
    """Pre-norm transformer over non-overlapping patches; position tables are among the weights."""

    def __init__(self, size, patch, width, depth, heads, cls_token, pool, centred):
        super().__init__()
        self.size, self.patch, self.pool, self.centred = tuple(size), tuple(patch), pool, centred
        self.tokens = math.prod(s // p for s, p in zip(size, patch, strict=True))
        self.embed = nn.Linear(math.prod(patch), width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width)) if cls_token else None
        self.positions = nn.Parameter(torch.zeros(self.tokens + cls_token, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, mlp_ratio=4, qkv_bias=True) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        """Encode (batch, *size) to (batch, width)."""
        x = x.reshape(-1, *self.size)
        axes = [n for s, p in zip(self.size, self.patch, strict=True) for n in (s // p, p)]
        order = [*range(1, len(axes), 2), *range(2, len(axes) + 1, 2)]
        x = (2 * x - 1 if self.centred else x).reshape(-1, *axes)
        z = self.embed(x.permute(0, *order).reshape(-1, self.tokens, math.prod(self.patch)))
        first = 0 if self.cls is None else 1
        z = z + self.positions[first:]
        if self.cls is not None:
            z = torch.cat([(self.cls + self.positions[:1]).expand(z.shape[0], -1, -1), z], dim=1)
        z = self.blocks(z)
        if self.pool == "cls":
            return self.norm(z)[:, 0]
        if self.pool == "mean-then-norm":
            return self.norm(z[:, first:].mean(1))
        return self.norm(z)[:, first:].mean(1)


class Encoder(nn.Module):
    """One transformer, or one for each part of the input, their features side by side."""

    def __init__(self, networks):
        super().__init__()
        self.parts = [network["part"] for network in networks]
        self.networks = nn.ModuleList(ViT(**network["vit"]) for network in networks)

    def forward(self, x):
        """Encode (batch, *input) to (batch, width)."""
        pairs = zip(self.parts, self.networks, strict=True)
        return torch.cat([vit(x if part is None else x[:, part]) for part, vit in pairs], dim=1)


def config(folder=HERE):
    """Return what is known of the encoder, as in ``config.json``."""
    return json.loads((Path(folder) / "config.json").read_text())


def load(folder=HERE):
    """Return the encoder with its weights, in evaluation mode."""
    folder, networks = Path(folder), config(folder)["networks"]
    if networks is None:
        return Program(folder / "encoder.onnx")
    encoder = Encoder(networks)
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    return encoder.eval()


class Program(nn.Module):
    """An encoder that is no transformer, run by onnxruntime, one person at a time."""

    def __init__(self, path):
        import onnxruntime

        super().__init__()
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def forward(self, x):
        """Encode (batch, *input) to (batch, width)."""
        people = [self.session.run(None, {"input": one[None].numpy()})[0] for one in x]
        return torch.from_numpy(np.concatenate(people))


@torch.inference_mode()
def features(encoder, x, folder=HERE):
    """Encode inputs of the shape in ``config.json``, averaged over the windows named there.

    Images are numbers from 0 to 255 and become 0 to 1.
    """
    x, asked = torch.as_tensor(np.asarray(x)), config(folder)["input"]
    if list(x.shape[1:]) != asked["shape"]:
        raise ValueError(f"the input is (people, {asked['shape']}), not {list(x.shape)}")
    windows = asked["windows"]
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    if windows is None:
        return encoder(x).numpy()
    return torch.stack([encoder(x[..., a:b]) for a, b in windows]).mean(0).numpy()


# ------------------------------------------------------------------------ from mV to the input

SOURCE_RATE, SOURCE_SECONDS = 500, 10
LEAD_GROUPS = (slice(0, 3), slice(3, 6), slice(6, 12))  # I-III, aVR-aVF, V1-V6


def prepare(ecg_mv, rate, folder=HERE):
    """Clean, resample and scale one ECG as those of the training were.

    Parameters
    ----------
    ecg_mv
        (12, samples) in mV: I, II, III, aVR, aVL, aVF, V1 to V6. The first 10 s count.
    rate
        Hz.

    Returns
    -------
    np.ndarray
        (12, samples) as the encoder reads it, float32.

    Raises
    ------
    ValueError
        When the encoder's input is made in another way, or this is no complete recording.
    """
    asked = config(folder)["input"]
    if asked["preparation"] is None:
        raise ValueError(f"this encoder's input is made elsewhere: {asked['description']}")
    settings, ecg_mv = asked["preparation"], np.asarray(ecg_mv, np.float64)
    if ecg_mv.ndim != 2 or len(ecg_mv) != 12 or not np.isfinite(ecg_mv).all():
        raise ValueError("a recording is (12, samples) in mV, without missing samples")
    ecg_mv = resample(ecg_mv, rate, SOURCE_RATE)
    ecg_mv = ecg_mv[:, : SOURCE_RATE * SOURCE_SECONDS].astype(np.float32)
    x = resample(clean(ecg_mv, SOURCE_RATE), SOURCE_RATE, settings["rate"])
    # Half precision in between, because the training's inputs are stored so.
    x = zscore(x[:, : asked["shape"][-1]]).astype(np.float16).astype(np.float32)
    missing = asked["shape"][-1] - x.shape[-1]
    if not missing:
        return x
    # A short recording gets the windows spread over it, overlapping.
    size = round(settings["window"] * settings["rate"])
    if x.shape[-1] < size:
        raise ValueError(f"a recording needs {settings['window']:g} s of signal")
    starts = np.linspace(0, x.shape[-1] - size, asked["shape"][-1] // size)
    out = np.zeros(asked["shape"], np.float32)
    for k, start in enumerate(starts):
        out[:, k * size : (k + 1) * size] = x[:, round(start) : round(start) + size]
    return out


def resample(x, rate, to):
    """Resample the last axis from one rate to another, in Hz."""
    ratio = (Fraction(to) / Fraction(rate)).limit_denominator(1000)
    if ratio == 1:
        return x
    return signal.resample_poly(x, ratio.numerator, ratio.denominator, axis=-1, padtype="line")


def clean(ecg_mv, rate):
    """Zero-phase high-pass at 0.5 Hz; what is beyond 5 mV is artefact and bridged linearly."""
    sos = signal.butter(4, 0.5, "highpass", fs=rate, output="sos")

    def highpass(x):
        return signal.sosfiltfilt(sos, x, axis=-1, padlen=min(2 * rate, x.shape[-1] - 1))

    def bridge(lead, bad):
        time = np.arange(len(lead))
        if bad.all():
            return np.zeros_like(lead)
        return np.where(bad, np.interp(time, time[~bad], lead[~bad]), lead)

    ecg_mv = np.asarray(ecg_mv, np.float64)
    cleaned = highpass(ecg_mv)
    for lead in np.flatnonzero((np.abs(cleaned) > 5).any(-1)):
        # Bridged in the unfiltered lead, or a spike leaves its low-pass image around it.
        repaired = highpass(bridge(ecg_mv[lead], np.abs(cleaned[lead]) > 5))
        cleaned[lead] = bridge(repaired, np.abs(repaired) > 5)
    return cleaned


def zscore(x):
    """Standardise within leads I-III, aVR-aVF and V1-V6, over leads and time."""
    out = np.empty(x.shape)
    for group in LEAD_GROUPS:
        out[group] = (x[group] - x[group].mean()) / np.sqrt(x[group].var() + 1e-12)
    return out


def main(folder=HERE):
    """Encode the example; 0 when the features are those that the benchmark computed."""
    example = {k: v.numpy() for k, v in load_file(folder / "example.safetensors").items()}
    x = example["input"]
    if config(folder)["input"]["preparation"] is not None:
        x = np.stack([prepare(ecg_mv, SOURCE_RATE, folder) for ecg_mv in example["ecg_mv"]])
    found, wanted = features(load(folder), x, folder), example["features"]
    difference = float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))
    print(f"{found.shape[1]} features of {len(found)} examples; difference {difference:.1e}")
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
