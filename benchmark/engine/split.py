"""One batch on several devices, with the loss of the whole batch.

Every process draws the whole batch and computes the whole loss: augmentations, masks and negatives
are those of one device, whatever the method. Only calls of network parts are split: each process
puts its own rows through, and all get the rows of all. A method need not know. Imports torch.

Gradients outside of split calls are those of the whole loss, the same in every process. Inside,
each process sees its own rows' part, times the number of processes; so the mean over processes,
which DistributedDataParallel takes, is the whole gradient for every parameter, wherever it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

DROPPING = ("DropPath", "StochasticDepth")
"""Modules of several libraries that skip a branch for whole persons."""


class NotRowwiseError(RuntimeError):
    """A part returned something else than a row per person, which it had not done before."""


class Split:
    """Puts the rows of a batch through network parts on several devices.

    Parameters
    ----------
    encoders
        The parts. Their batch norms take the statistics of all rows, and their dropouts draw for
        all rows, as long as a call is split.
    rank, devices
        This process and how many there are, of torch's default process group.

    Attributes
    ----------
    learning
        While it is set, a call that cannot be split is done whole, now and from then on.
    all_reached
        Whether the loss reached every parameter that is trained, when it was rehearsed.
    """

    def __init__(self, encoders: nn.Module, rank: int, devices: int) -> None:
        self.encoders, self.rank, self.devices = encoders, rank, devices
        self.learning, self.all_reached = False, True
        self._whole: set[str] = set()
        self._own = slice(0, 0)
        self._rows = 0  # of the batch that is split at the moment
        for module in encoders.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.forward = partial(self._normalised, module, module.forward)
            elif isinstance(module, nn.modules.dropout._DropoutNd) or (
                type(module).__name__ in DROPPING
            ):
                module.forward = partial(self._dropped, module, module.forward)

    def parts(self) -> Any:
        """Return what stands for the encoders: calls of it and of what is in it are split."""
        return _Part(self, self.encoders, "")

    def call(self, function: Callable, place: str, arguments: tuple, named: dict) -> Any:
        """Call with this process's rows of every tensor that has one per person.

        Raises
        ------
        NotRowwiseError
            When the result has no row per person, though it had in rehearsal.
        """
        values, shape = tree_flatten((arguments, named))
        rows = next((len(v) for v in values if isinstance(v, torch.Tensor) and v.ndim), 0)
        if rows < self.devices or place in self._whole or self._rows:
            return function(*arguments, **named)
        sizes = [len(part) for part in torch.arange(rows).tensor_split(self.devices)]
        first = sum(sizes[: self.rank])
        own = slice(first, first + sizes[self.rank])
        mine = [_cut(value, rows, own, sizes) for value in values]
        state = _random_state(mine) if self.learning else None
        self._own, self._rows = own, rows
        try:
            positional, keywords = tree_unflatten(mine, shape)
            result, shape = tree_flatten(function(*positional, **keywords))
        finally:
            self._rows = 0
        if all(_is_rowwise(value, sizes[self.rank]) for value in result):
            return tree_unflatten([_joined(value, own, sizes) for value in result], shape)
        if state is None:
            raise NotRowwiseError(f"{place} gave no row per person")
        self._whole.add(place)
        _restore_random_state(state)
        return function(*arguments, **named)

    def _normalised(
        self, module: nn.modules.batchnorm._BatchNorm, original: Callable, x: torch.Tensor
    ) -> torch.Tensor:
        """Normalise own rows by the mean and variance of all."""
        if not self._rows or not (module.training or module.running_mean is None):
            return original(x)
        axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        number = values.new_full((1,), x.numel() / x.shape[1])
        sums = _Sum.apply(torch.cat([values.sum(axes), number]))
        number = sums[-1].detach()
        mean = sums[:-1] / number
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / number
        out = centred * (variance.view(shape) + module.eps).rsqrt()
        if module.affine:
            out = out * module.weight.view(shape) + module.bias.view(shape)
        if module.training and module.running_mean is not None:
            module.num_batches_tracked.add_(1)
            share = module.momentum or 1 / module.num_batches_tracked.item()
            unbiased = variance.detach() * (number / (number - 1))
            module.running_mean.lerp_(mean.detach(), share)
            module.running_var.lerp_(unbiased, share)
        return out.to(x.dtype)

    def _dropped(self, module: nn.Module, original: Callable, x: torch.Tensor) -> torch.Tensor:
        """Draw for all rows, so that own rows meet what they would meet on one device."""
        own = self._own.stop - self._own.start
        if not self._rows or not module.training or x.shape[0] % own:
            return original(x)
        times = x.shape[0] // own  # several rows per person, one person after another
        mask = original(x.new_ones(self._rows * times, *x.shape[1:]))
        return x * mask[self._own.start * times : self._own.stop * times]


def disagreement(
    split: Split,
    loss: Callable[[Any, bool, float], dict[str, torch.Tensor]],
    tolerance: float,
) -> str:
    """Return what keeps a loss from being split, or nothing: a rehearsal, without consequences.

    Parameters
    ----------
    loss
        Told the encoders, or what stands for them, whether it is training and how far it is;
        returns the terms of one and the same batch with one and the same random state.
    tolerance
        By which gradients may differ, relatively; the terms by a tenth of it.
    """
    encoders = split.encoders
    before = {name: value.clone() for name, value in encoders.state_dict().items()}
    parameters = [p for p in encoders.parameters() if p.requires_grad]
    split.learning = True
    try:
        for training, progress in ((True, 0.0), (True, 1.0), (False, 1.0)):
            found = []
            for parts in (encoders, split.parts()):
                with torch.set_grad_enabled(training):
                    terms = loss(parts, training, progress)
                values = torch.stack([term.detach().float() for term in terms.values()])
                gradient = None
                if training:
                    each = torch.autograd.grad(sum(terms.values()), parameters, allow_unused=True)
                    split.all_reached &= all(g is not None for g in each)
                    gradient = torch.cat([g.flatten().float() for g in each if g is not None])
                found.append((values, gradient))
                encoders.load_state_dict(before)
            (whole, gradient), (parted, own) = found
            if (whole - parted).abs().sum() > tolerance / 10 * whole.abs().sum():
                names, a, b = list(terms), whole.tolist(), parted.tolist()
                return f"the loss {dict(zip(names, a, strict=True))} became {b}"
            if training:
                if own.shape != gradient.shape:
                    return "other parameters would be trained"
                apart = (_summed(own) / split.devices - gradient).norm() / gradient.norm()
                if apart > tolerance:
                    return f"the gradient differs by {apart.item():.2g}"
    except Exception as error:  # a method may do with its parts what cannot be foreseen
        return f"{type(error).__name__}: {error}"
    finally:
        split.learning = False
        encoders.load_state_dict(before)
    return ""


class _Part:
    """Stands for a module: what is called on it is split, what is read from it is its own."""

    def __init__(self, split: Split, module: nn.Module, place: str) -> None:
        self._split, self._module, self._place = split, module, place

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._split.call(self._module, self._place, arguments, named)

    def __getattr__(self, name: str) -> Any:
        return self._wrapped(name, getattr(self._module, name))

    def __getitem__(self, key: Any) -> Any:
        return self._wrapped(str(key), self._module[key])

    def __iter__(self) -> Iterator[Any]:
        return (self._wrapped(str(n), value) for n, value in enumerate(self._module))

    def __len__(self) -> int:
        return len(self._module)

    def _wrapped(self, name: str, value: Any) -> Any:
        place = f"{self._place}.{name}".lstrip(".")
        if isinstance(value, nn.Module):
            return _Part(self._split, value, place)
        if inspect.ismethod(value) and value.__self__ is self._module:
            return lambda *arguments, **named: self._split.call(value, place, arguments, named)
        return value


def _cut(value: Any, rows: int, own: slice, sizes: Sequence[int]) -> Any:
    if not isinstance(value, torch.Tensor) or not value.ndim or len(value) != rows:
        return value
    if not (value.requires_grad and torch.is_grad_enabled()):
        return value[own]
    return _Cut.apply(value, own, sizes)


def _is_rowwise(value: Any, rows: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim > 0 and len(value) == rows
    return value is None or isinstance(value, bool | int | float | str)


def _joined(value: Any, own: slice, sizes: Sequence[int]) -> Any:
    return _Join.apply(value, own, sizes) if isinstance(value, torch.Tensor) else value


class _Cut(torch.autograd.Function):
    """Take own rows; backwards, gather what all processes have to say about theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, own: slice, sizes: Sequence[int]) -> torch.Tensor:
        ctx.sizes = sizes
        return x[own].clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _gathered(gradient, ctx.sizes) / len(ctx.sizes), None, None


class _Join(torch.autograd.Function):
    """Gather the rows of all processes; backwards, take own rows."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, own: slice, sizes: Sequence[int]) -> torch.Tensor:
        ctx.own, ctx.times = own, len(sizes)
        return _gathered(x, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient[ctx.own] * ctx.times, None, None


class _Sum(torch.autograd.Function):
    """Sum over processes, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _summed(gradient)


def _summed(x: torch.Tensor) -> torch.Tensor:
    x = x.contiguous().clone()
    dist.all_reduce(x)
    return x


def _gathered(x: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Return the rows of all processes; every one must have the same number of bytes to send."""
    most = max(sizes)
    padded = x.new_zeros(most, *x.shape[1:])
    padded[: len(x)] = x
    sent = padded.view(-1).view(torch.uint8)  # backends differ in the types they know
    received = [torch.empty_like(sent) for _ in sizes]
    dist.all_gather(received, sent)
    return torch.cat(
        [r.view(x.dtype).view_as(padded)[:n] for r, n in zip(received, sizes, strict=True)]
    )


def _random_state(values: Sequence[Any]) -> tuple[torch.Tensor, dict[torch.device, torch.Tensor]]:
    devices = {v.device for v in values if isinstance(v, torch.Tensor) and v.is_cuda}
    return torch.get_rng_state(), {device: torch.cuda.get_rng_state(device) for device in devices}


def _restore_random_state(
    state: tuple[torch.Tensor, dict[torch.device, torch.Tensor]],
) -> None:
    torch.set_rng_state(state[0])
    for device, own in state[1].items():
        torch.cuda.set_rng_state(own, device)
