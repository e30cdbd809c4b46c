"""A stage is one cached unit of work, identified by what it is made of.

A stage is a frozen dataclass. Its fields are its identity, and a field that is itself a stage is
its input. Sharing, resuming and provenance all follow from the digest defined here.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self


class _Unset:
    """The value of a field that the runner still has to bind (cohort, seed, task, fraction)."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:  # the one object in every process
        return "UNSET"


UNSET: Any = _Unset()


class UnboundFieldError(ValueError):
    """A digest was asked of a stage that still has an unset field."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A frozen description with a digest: settings, a task, or (as `Stage`) work to be done.

    ``version`` is raised by hand when the same fields start to mean another result.
    """

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        # 1 and 1.0 are equal to Python but not to JSON: a float field always holds a float.
        for name in _float_names(type(self)):
            object.__setattr__(self, name, _as_float(getattr(self, name)))

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of canonical JSON {name, version, fields}, nested specs replaced by theirs.

        A stage's implied inputs enter beside its fields.
        """
        return self._hash(frozenset())

    @functools.cached_property
    def names_within(self) -> frozenset[str]:
        """Names of the identity fields of this spec and of those nested in it."""
        names = _identity_names(type(self))
        nested = (s for name in names for s in _specs_in(getattr(self, name)))
        return frozenset(names).union(*(spec.names_within for spec in nested))

    @functools.cached_property
    def unset(self) -> frozenset[str]:
        """Names of the fields that are still to be bound, at any depth."""
        values = {name: getattr(self, name) for name in _names(type(self))}
        own = {name for name, value in values.items() if value is UNSET}
        return frozenset(own).union(*(s.unset for v in values.values() for s in _specs_in(v)))

    @functools.cached_property
    def recipe_digest(self) -> str:
        """Digest with ``seed`` and ``fraction`` left out at every depth: equal for replicates."""
        return self._hash(frozenset({"seed", "fraction"}))

    def _hash(self, leave_out: frozenset[str]) -> str:
        own = type(self).__name__
        fields = {
            name: _canonical(getattr(self, name), (own, name), leave_out)
            for name in _identity_names(type(self))
            if name not in leave_out
        }
        identity = {"name": own, "version": self.version, "fields": fields}
        if implied := self._implied():
            identity["inputs"] = [spec._hash(leave_out) for spec in implied]
        return hashlib.sha256(_ENCODER.encode(identity).encode()).hexdigest()

    def _implied(self) -> tuple[Spec, ...]:
        return ()

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def describe(self) -> dict[str, Any]:
        """Return every identity field as plain JSON, nested specs expanded (for manifests)."""
        fields = {name: _plain(getattr(self, name)) for name in _identity_names(type(self))}
        return {"name": type(self).__name__, "version": self.version, **fields}


class Context(Protocol):
    """What a running stage is given. The engine implements it."""

    out: Path
    """Folder for the results; becomes the artifact in one rename."""
    resume: Path
    """Folder that survives a kill, emptied once the stage is done."""
    device: str
    workers: int

    def open(self, stage: Stage) -> Path:
        """Return the folder of an input's artifact, its checksums verified."""

    def progress(self, done: float, total: float, unit: str = "", note: str = "") -> None:
        """Report how far the work is; raises when the lease was lost to another worker."""

    def train(self, trainable: Stage) -> None:
        """Run the harness's training loop and leave the best weights in ``out``."""


@dataclass(frozen=True, kw_only=True)
class Stage(Spec):
    """One cached unit of work.

    ``threads`` is the number of CPU threads the work is done with, the same under every executor,
    because the order of floating-point sums depends on it.
    """

    threads: ClassVar[int] = 1
    pools: ClassVar[bool] = False
    """Whether the work is spread over ``context.workers`` workers."""
    on_device: ClassVar[bool] = False
    """Whether the work is done on ``context.device``, so that it is given to whoever has one."""

    def run(self, context: Context) -> None:
        """Do the work and leave the results as files in ``context.out``."""
        raise NotImplementedError

    def estimate(self) -> tuple[float, float]:
        """Return the expected (seconds, bytes on disk) before anything is known from past runs."""
        return 1.0, 1e5

    def implied_inputs(self) -> tuple[Stage, ...]:
        """Return inputs that follow from the fields instead of being one, such as views."""
        return ()

    def _implied(self) -> tuple[Spec, ...]:
        return self.implied_inputs()

    @property
    def label(self) -> str:
        """What a person reads in progress lines."""
        return type(self).__name__

    @property
    def group(self) -> str:
        """What a plan lists the stage under, together with others of its kind."""
        return self.label

    @functools.cached_property
    def inputs(self) -> tuple[Stage, ...]:
        """The stages this one stands on, each once: fields first, then the implied ones."""
        found: dict[str, Stage] = {}
        for name in _identity_names(type(self)):
            for stage in _stages_in(getattr(self, name)):
                found.setdefault(stage.digest, stage)
        for stage in self.implied_inputs():
            found.setdefault(stage.digest, stage)
        return tuple(found.values())


def identity_fields(spec: Spec) -> list[dataclasses.Field]:
    """Fields that make the digest: all but those declared ``metadata={"identity": False}``."""
    return [f for f in dataclasses.fields(spec) if f.metadata.get("identity", True)]


# A plan of ten thousand stages asks for the fields of a million specs: once a class is enough.
@functools.cache
def _names(cls: type[Spec]) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


@functools.cache
def _identity_names(cls: type[Spec]) -> tuple[str, ...]:
    return tuple(f.name for f in identity_fields(cls))


@functools.cache
def _float_names(cls: type[Spec]) -> tuple[str, ...]:
    types = {f.name: str(f.type) for f in dataclasses.fields(cls)}
    return tuple(name for name, text in types.items() if "float" in text and "int" not in text)


def values_of(spec: Spec, name: str) -> Iterator[Any]:
    """Yield what identity fields of that name hold, of the spec and then of those nested in it."""
    if name not in spec.names_within:
        return
    names = _identity_names(type(spec))
    if name in names:
        yield getattr(spec, name)
    for nested in (s for own in names for s in _specs_in(getattr(spec, own))):
        yield from values_of(nested, name)


def has_field(spec: Spec, name: str) -> bool:
    """Return True when the spec or any spec nested in it has an identity field of that name."""
    return name in spec.names_within


def rewrite(spec: Spec, changes: Callable[[Spec], Mapping[str, Any]]) -> Spec:
    """Apply ``changes(spec)`` to a spec and, first, to every spec nested in its fields."""

    def walk(value: Any) -> Any:
        if isinstance(value, Spec):
            return rewrite(value, changes)
        if isinstance(value, tuple) and value:
            new = tuple(walk(item) for item in value)
            return value if all(map(operator.is_, new, value)) else new
        return value

    new = {name: walk(getattr(spec, name)) for name in _names(type(spec))}
    new.update(changes(spec))
    different = {name: value for name, value in new.items() if value is not getattr(spec, name)}
    return spec.replace(**different) if different else spec


def bind(spec: Spec, **values: Any) -> Spec:
    """Fill every unset field of these names, at every depth."""

    def fill(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(fill(item) for item in value)
        # What has nothing to fill stays the same object, and so keeps the digest it knows.
        if not isinstance(value, Spec) or value.unset.isdisjoint(values):
            return value
        own = {name: getattr(value, name) for name in _names(type(value))}
        return value.replace(
            **{n: values.get(n, v) if v is UNSET else fill(v) for n, v in own.items()}
        )

    return fill(spec)


def topological(targets: Iterable[Stage]) -> list[Stage]:
    """Return all stages the targets stand on, inputs before their users, each digest once."""
    order: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.digest in order:
            return
        for item in stage.inputs:
            visit(item)
        order[stage.digest] = stage

    for target in targets:
        visit(target)
    return list(order.values())


def _as_float(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_as_float(item) for item in value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: Any, where: tuple[str, str], leave_out: frozenset[str]) -> Any:
    if isinstance(value, Spec):
        return value._hash(leave_out) if leave_out else value.digest
    if value is UNSET:
        raise UnboundFieldError(f"{'.'.join(where)} is not set")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, tuple):
        return [_canonical(item, where, leave_out) for item in value]
    raise TypeError(
        f"{'.'.join(where)} holds a {type(value).__name__}; a field is a spec, a tuple, a string, "
        "a finite number, a boolean or None"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.describe()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _specs_in(value: Any) -> Iterator[Spec]:
    if isinstance(value, Spec):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _specs_in(item)


def _stages_in(value: Any) -> Iterator[Stage]:
    for spec in _specs_in(value):
        if isinstance(spec, Stage):
            yield spec
        else:
            for name in _identity_names(type(spec)):
                yield from _stages_in(getattr(spec, name))
