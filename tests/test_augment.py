"""What each augmentation of an ECG or a cine changes, and what it leaves alone."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from benchmark.registry import registry
from methods.blocks.augment import (
    ECCL_ECG_AUGMENT,
    MMCL_UNIMODAL_AUGMENT,
    SPECTROGRAM_SAMPLES,
    CMRAugment,
    ECGAugment,
    random_crop,
)

NONE = {"surrogate": 0, "jitter": 0, "rescale": 0}


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(400, 2, 100, dtype=torch.float64)


def augmented(x, **fields):
    torch.manual_seed(1)
    return ECGAugment(**{**NONE, **fields})(x)


def share(chosen):
    return chosen.double().mean().item()


def per_record(a, b):
    return (a == b).flatten(1).all(1)


@pytest.mark.parametrize("samples", [100, 101])
def test_a_surrogate_shifts_phases_alone(samples):
    x = torch.randn(8, 3, samples, dtype=torch.float64)
    y = augmented(x, surrogate=0.1, surrogate_probability=1.0)
    before, after = torch.fft.rfft(x), torch.fft.rfft(y)
    torch.testing.assert_close(after.abs(), before.abs())
    turns = (after / before).angle() / (2 * math.pi)
    torch.testing.assert_close(turns, turns[:, :1].expand_as(turns), atol=1e-6, rtol=0)
    last = -1 if samples % 2 == 0 else None
    inner = turns[..., 1:last]
    assert inner.min() >= 0
    assert 0.09 < inner.max() < 0.1
    real = turns[..., 0] if last is None else turns[..., [0, -1]]
    assert real.abs().max() < 1e-6


def test_a_surrogate_comes_with_its_probability(x):
    assert share(per_record(augmented(x, surrogate=0.1), x).logical_not()) == 1  # through the FFT
    close = (augmented(x, surrogate=0.1) - x).abs().flatten(1).amax(1) < 1e-9
    assert share(close) == pytest.approx(0.5, abs=0.1)


def test_jitter_multiplies(x):
    x[:, 1] = 0
    y = augmented(x, jitter=0.25)
    assert (y[:, 1] == 0).all()
    assert (y / x)[:, 0].std().item() == pytest.approx(0.6 * 0.25, rel=0.02)
    assert (y / x)[:, 0].mean().item() == pytest.approx(1, abs=0.005)


def test_a_record_is_rescaled_by_one_factor():
    x = torch.randn(20_000, 2, 4, dtype=torch.float64)
    factor = augmented(x, rescale=0.5) / x
    torch.testing.assert_close(factor, factor[:, :1, :1].expand_as(factor))
    drawn = factor[:, 0, 0]
    assert drawn.mean().item() == pytest.approx(1, abs=0.02)
    assert drawn.std().item() == pytest.approx(0.5, rel=0.03)
    assert share(drawn < 0) == pytest.approx(0.0228, abs=0.005)


def test_flips_are_drawn_apart(x):
    torch.manual_seed(1)
    y = ECCL_ECG_AUGMENT(x)
    back, upside_down = per_record(y, x.flip(-1)), per_record(y, -x)
    both, neither = per_record(y, -x.flip(-1)), per_record(y, x)
    assert share(back | upside_down | both | neither) == 1
    assert share(back | both) == pytest.approx(0.33, abs=0.07)
    assert share(upside_down | both) == pytest.approx(0.33, abs=0.07)
    assert share(both) == pytest.approx(0.33**2, abs=0.05)


def erased_by_loops(signal, times, frequencies):
    """Erase one block from a short-time Fourier transform of plain overlapping frames."""
    size, hop = SPECTROGRAM_SAMPLES, SPECTROGRAM_SAMPLES // 4
    padded = np.pad(signal, size // 2, mode="reflect")
    total, weight = np.zeros_like(padded), np.zeros_like(padded)
    for number in range(1 + len(signal) // hop):
        place = slice(number * hop, number * hop + size)
        spectrum = np.fft.rfft(padded[place])
        spectrum[frequencies] = 0
        if number in times:
            spectrum[:] = 0
        total[place] += np.fft.irfft(spectrum, n=size)
        weight[place] += 1
    return (total / weight)[size // 2 : size // 2 + len(signal)]


def test_one_block_of_the_spectrogram_is_erased():
    x = torch.randn(8, 2, 450, dtype=torch.float64)
    y = augmented(x, spectrogram=0.25).numpy()
    bins, frames = SPECTROGRAM_SAMPLES // 2 + 1, 1 + 450 // (SPECTROGRAM_SAMPLES // 4)
    tall, long = int(bins * 0.25), int(frames * 0.25)
    blocks = [((), slice(k, k + tall)) for k in range(bins - tall + 1)]
    blocks += [(range(k, k + long), slice(0, 0)) for k in range(frames - long + 1)]
    kinds = set()
    for before, after in zip(x.numpy(), y, strict=True):
        candidates = (
            [erased_by_loops(lead, times, frequencies) for lead in before]
            for times, frequencies in blocks
        )
        fits = [k for k, c in enumerate(candidates) if np.allclose(c, after, atol=1e-9)]
        assert len(fits) == 1, "no block, or not the same one in both leads"
        kinds.add("times" if blocks[fits[0]][0] else "frequencies")
    assert kinds == {"times", "frequencies"}


def test_probability_leaves_the_other_records_alone(x):
    y = augmented(x, rescale=0.5, probability=0.75)
    assert share(per_record(y, x)) == pytest.approx(0.25, abs=0.07)


def test_the_same_seed_augments_alike(x):
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(MMCL_UNIMODAL_AUGMENT(x[:4, :, :].repeat(1, 1, 2)))
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)
    assert not torch.equal(draws[0], draws[2])


def test_crops_are_windows_of_their_record():
    x = torch.arange(3 * 50.0).view(3, 1, 50).expand(3, 2, 50)
    windows, start = random_crop(x, 20)
    for record, window, first in zip(x, windows, start.tolist(), strict=True):
        torch.testing.assert_close(window, record[:, first : first + 20])
    whole, start = random_crop(x, 50)
    torch.testing.assert_close(whole, x)
    assert start.tolist() == [0, 0, 0]


def test_no_heart_beats_backwards_on_the_harmonised_track():
    for entry in registry().methods.values():
        if "harmonised" in entry.variant.tracks:
            method = entry.on_track("harmonised", "tiny")
            for augment in (
                getattr(method, f"{when}_augment", None) for when in ("ecg", "finetune")
            ):
                if augment is not None:
                    assert (augment.time_flip, augment.sign_flip, augment.spectrogram) == (0, 0, 0)
                    # Ten standard deviations from a factor that turns it upside down.
                    assert augment.rescale <= 0.1


PLAIN = CMRAugment(rotation=0.0, shift=0.0, contrast=0.0, brightness=0.0)
assert_close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


def cines(**fields):
    """Cines around middle grey, before and after."""
    torch.manual_seed(2)
    x = 0.5 + 0.1 * torch.rand(300, 1, 3, 16, 16)
    return x, PLAIN.replace(**fields)(x)


def ramps(people=300, size=33):
    """Two frames whose pixels are their own column and row, from -1 to 1 over the image."""
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    image = torch.stack([at.expand(size, size), at[:, None].expand(size, size)])
    return image.expand(people, 1, 2, size, size)


def placed(**fields):
    """Where the middle pixel comes from (people, 2), and how its neighbours do (people, 2, 2)."""
    torch.manual_seed(3)
    x = ramps()
    y, middle = PLAIN.replace(**fields)(x)[:, 0], x.shape[-1] // 2
    step = 2 * 2 / x.shape[-1]
    across = (y[:, :, middle, middle + 1] - y[:, :, middle, middle - 1]) / step
    down = (y[:, :, middle + 1, middle] - y[:, :, middle - 1, middle]) / step
    return y[:, :, middle, middle], torch.stack([across, down], -1)


def test_a_cine_is_left_alone_without_any_augmentation():
    x, y = cines()
    assert_close(y, x)


def test_cine_is_mirrored_left_to_right():
    x, y = cines(flip=1.0)
    assert_close(y, x.flip(-1))
    x, y = cines(flip=0.5)
    assert share((y - x).abs().flatten(1).amax(1) < 1e-5) == pytest.approx(0.5, abs=0.1)


def test_cine_turns_without_being_bent():
    middle, turn = placed(rotation=math.pi / 4)
    assert_close(turn @ turn.mT, torch.eye(2).expand_as(turn))
    assert_close(middle, torch.zeros_like(middle))
    angle = torch.atan2(turn[:, 1, 0], turn[:, 0, 0])
    assert angle.abs().max() <= math.pi / 4
    assert angle.std().item() == pytest.approx(math.pi / 4 / math.sqrt(3), rel=0.1)


def test_cine_is_cropped_within_its_borders():
    middle, linear = placed(area=0.6, ratio=4 / 3)
    width, height = linear[:, 0, 0], linear[:, 1, 1]
    assert_close(linear, torch.diag_embed(torch.stack([width, height], 1)))
    assert 0.6 - 1e-5 <= (width * height).min() < 0.62
    assert (width * height).max() <= 1
    assert (width / height).log().abs().max() <= math.log(4 / 3) + 1e-5
    # The crop lies inside the image, and anywhere in it.
    inside = middle.abs() + torch.stack([width, height], 1)
    assert inside.max() <= 1 + 1e-5
    assert inside.max() > 0.98


def test_crop_turns_and_mirrors_together():
    _, linear = placed(area=0.6, ratio=4 / 3, rotation=math.pi / 4, flip=0.5)
    mirrored = linear.det() < 0
    assert share(mirrored) == pytest.approx(0.5, abs=0.1)
    linear[mirrored, 0] *= -1
    size = linear.norm(dim=1)
    turn = linear / size[:, None]
    assert_close(turn @ turn.mT, torch.eye(2).expand_as(turn))
    assert size.max() <= 1 + 1e-5


def test_brightness_contrast_and_saturation_are_torchvisions():
    from torchvision.transforms.v2 import functional

    def factors(b, a):
        return (b.flatten(1) * a.flatten(1)).sum(1) / a.flatten(1).square().sum(1)

    def from_mean(z, axes):
        return z - z.mean(axes, keepdim=True)

    x, y = cines(colour=(0.5, 0.0, 0.0))
    by = factors(y, x)
    assert 0.5 <= by.min() < 0.6
    assert 1.4 < by.max() <= 1.5
    for one, other, factor in zip(x, y, by.tolist(), strict=True):
        assert_close(other, functional.adjust_brightness(one, factor))

    x, y = cines(colour=(0.0, 0.5, 0.0))
    whole = (1, 2, 3, 4)
    assert_close(y.mean(whole), x.mean(whole))
    by = factors(from_mean(y, whole), from_mean(x, whole))
    assert 0.5 <= by.min() < 0.6
    assert 1.4 < by.max() <= 1.5
    one, other = (z.view(300, 1, -1, 16) for z in (x, y))  # one grey image per person
    for a, b, factor in zip(one, other, by.tolist(), strict=True):
        assert_close(b, functional.adjust_contrast(a, factor))

    # Frames are no colours: each counts the same, where torchvision weighs green most.
    x, y = cines(colour=(0.0, 0.0, 0.5))
    assert_close(y.mean(2), x.mean(2))
    by = factors(from_mean(y, 2), from_mean(x, 2))
    assert 0.5 <= by.min() < 0.6
    assert 1.4 < by.max() <= 1.5
    assert_close(from_mean(y, 2), by.view(-1, 1, 1, 1, 1) * from_mean(x, 2))


def test_blur_and_noise_of_a_cine():
    from scipy import ndimage

    torch.manual_seed(4)
    x = torch.zeros(200, 1, 2, 31, 31)
    x[:, :, :, 15, 15] = 1
    y = PLAIN.replace(blur=1.0)(x)
    assert_close(y.sum((-1, -2)), torch.ones_like(y.sum((-1, -2))))
    at = torch.arange(-15.0, 16.0).square()
    variance = (y.sum(-1) * at).sum(-1)[:, 0]
    assert_close(variance[:, 0], variance[:, 1])
    assert 0.85 < variance.max() <= 1
    sd = variance[:, 0].argmax()
    expected = ndimage.gaussian_filter(
        x[sd, 0, 0].numpy(), variance[sd, 0].sqrt().item(), truncate=8
    )
    assert_close(y[sd, 0, 0], torch.from_numpy(expected))

    x, y = cines(noise=0.02)
    assert (y - x).std().item() == pytest.approx(0.02, rel=0.02)


def test_some_cines_are_left_as_they_are():
    x, y = cines(flip=1.0, noise=0.1, probability=0.95)
    assert share(per_record(x, y)) == pytest.approx(0.05, abs=0.04)


def test_harmonised_hearts_keep_their_size_and_side():
    for entry in registry().methods.values():
        if "harmonised" in entry.variant.tracks:
            augment = getattr(entry.on_track("harmonised", "tiny"), "cmr_augment", PLAIN)
            assert (augment.area, augment.flip, augment.probability) == (1, 0, 1)
            assert (*augment.colour, augment.blur, augment.noise) == (0, 0, 0, 0, 0)
