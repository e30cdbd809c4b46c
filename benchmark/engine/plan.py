"""A plan file: stages that are to be made, for other processes to make them from.

JSON and no pickle. Each spec is written once and referred to by its place; whoever reads the file
makes the same objects from their own classes, and nothing runs unless every digest comes out the
same: other code would leave other results under these names.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmark.api import UserError
from benchmark.stage import UNSET, Spec, Stage, identity_fields, topological

if TYPE_CHECKING:
    from benchmark.engine.store import Store

FORMAT = 1
SHORT = 16
"""Characters of a digest that a command line names a stage by."""


class Restorer(Protocol):
    """Makes specs from descriptions; `benchmark.catalogue.Catalogue` does."""

    def spec(self, described: Any) -> Spec | None:
        """Return what is described, or None when its fields are others today."""

    def know(self, described: Any, spec: Spec) -> None:
        """Let a description stand for a spec."""


@dataclass(frozen=True)
class Plan:
    """What a plan file holds.

    Attributes
    ----------
    stages
        Every stage by digest, inputs before their users.
    targets
        Digests of those that are wanted for themselves.
    tried
        Tokens of the failures that were known when the plan was written. A later failure belongs to
        this plan's run.
    """

    stages: Mapping[str, Stage]
    targets: tuple[str, ...]
    tried: frozenset[str]

    def find(self, digest: str) -> Stage:
        """Return the stage whose digest begins like this.

        Raises
        ------
        UserError
            When it is none of the plan's, or more than one.
        """
        found = [stage for own, stage in self.stages.items() if own.startswith(digest)]
        if len(found) != 1 or not digest:
            many = "several stages" if found else "no stage"
            raise UserError(f"{many} of the plan begin with {digest!r}; name one by its digest")
        return found[0]


def write_plan(path: Path, targets: Iterable[Stage], tried: Collection[str] = ()) -> None:
    """Write what is needed to make the targets: the whole of what they stand on."""
    targets, written = list(targets), _Written()
    content = {
        "format": FORMAT,
        "stages": [written.place(stage) for stage in topological(targets)],
        "targets": list(dict.fromkeys(stage.digest for stage in targets)),
        "tried": sorted(tried),
        "modules": sorted(written.modules),
        "specs": written.specs,
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file)
    draft.replace(path)


def read_plan(path: Path, restorer: Callable[[list[str]], Restorer]) -> Plan:
    """Return the stages of a plan file.

    Parameters
    ----------
    path
        Of the file.
    restorer
        Makes what restores specs, from the names of the modules they come from:
        `benchmark.catalogue.Catalogue`.

    Raises
    ------
    UserError
        When it is no plan, or today's code gives one of its stages another digest.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise UserError(f"{path} is a plan of another version of ecgcmr; write it again")
        specs, modules = content["specs"], content["modules"]
        plan = tuple(content["targets"]), frozenset(content["tried"])
        order = content["stages"]
    except OSError as error:
        raise UserError(f"cannot read the plan {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a plan; ecgcmr run --commands writes one") from None
    with contextlib.suppress(OSError):  # it is in use, `leftovers` sees
        os.utime(path)
    for name in modules:
        try:
            import_module(name)
        except ImportError as error:
            raise UserError(f"the plan needs the module {name}: {error}") from None
    made = _restored(specs, restorer(modules))
    return Plan({made[place].digest: made[place] for place in order}, *plan)


def _restored(specs: list[Any], restorer: Restorer) -> list[Any]:
    made: list[Spec] = []

    def value(plain: Any) -> Any:
        if isinstance(plain, list):
            return tuple(value(item) for item in plain)
        return made[plain["spec"]] if isinstance(plain, dict) else plain

    for place, (digest, described, others) in enumerate(specs):
        try:
            spec = restorer.spec(described)
        except LookupError:
            spec = None
        if spec is None or spec.digest != digest:
            raise UserError(
                f"this is not the code that the plan was written with: {described['name']} "
                f"({digest[:12]}) is not what it was; use the same code, or write the plan again"
            )
        if others:
            spec = spec.replace(**{name: value(other) for name, other in others.items()})
        restorer.know({"spec": place}, spec)
        made.append(spec)
    return made


class _Written:
    """Specs as a plan holds them, each once, after those it holds.

    The digest alone does not tell them apart: what is no part of the identity, such as the name
    that a method was asked for by, shows in labels.
    """

    def __init__(self) -> None:
        self.specs: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.modules: set[str] = set()
        self._places: dict[str, int] = {}
        self._known: dict[int, tuple[Spec, int]] = {}  # held, or another would get its id

    def place(self, spec: Spec) -> int:
        """Return where a spec stands, once it does."""
        if id(spec) not in self._known:
            own = {field.name for field in identity_fields(spec)}
            values = {f.name: getattr(spec, f.name) for f in fields(spec)}
            identity = {name: self._plain(values[name]) for name in values if name in own}
            described = {"name": type(spec).__name__, "version": spec.version, **identity}
            others = {
                name: self._plain(value)
                for name, value in values.items()
                if name not in own and value is not UNSET
            }
            key = json.dumps([described, others])
            if key not in self._places:
                self._places[key] = len(self.specs)
                self.specs.append((spec.digest, described, others))
                self.modules.add(type(spec).__module__)
            self._known[id(spec)] = spec, self._places[key]
        return self._known[id(spec)][1]

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Spec):
            return {"spec": self.place(value)}
        if isinstance(value, tuple):
            return [self._plain(item) for item in value]
        return value


def by_urgency(stages: Iterable[Stage], store: Store) -> list[Stage]:
    """Sort stages so that whatever most work still stands on comes first.

    Without it the longest chain would be begun last, and end alone while other cores idle.
    """
    stages = list(stages)  # inputs before their users
    users: dict[str, list[str]] = {}
    for stage in stages:
        for item in stage.inputs:
            users.setdefault(item.digest, []).append(stage.digest)
    ahead: dict[str, float] = {}
    for stage in reversed(stages):
        after = max((ahead[d] for d in users.get(stage.digest, ())), default=0)
        ahead[stage.digest] = store.expected(stage) + after
    return sorted(stages, key=lambda stage: -ahead[stage.digest])
