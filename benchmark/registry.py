"""Finds methods, tasks and cohorts: a file dropped into methods/ or tasks/ is enough.

Installed packages join through the entry point groups ``ecgcmr_bench.methods``, ``.tasks`` and
``.cohorts``, each naming a module. A plugin that fails to import is kept as broken with its
traceback, and the rest go on.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from benchmark.api import Cohort, Method, Task, UserError, Variant
from benchmark.stage import Spec, rewrite

TRACKS = ("harmonised", "paper")
OWN = (
    "benchmark.cohorts.simulated.cohort",
    "benchmark.cohorts.ukb.cohort",
    "benchmark.cohorts.views",
    "benchmark.cohorts.wfdb_cohort",
)


@dataclass(frozen=True)
class MethodEntry:
    """One row of the boards: a method class in one of its named settings."""

    name: str
    cls: type[Method]
    variant: Variant
    origin: str

    @property
    def summary(self) -> str:
        """First line of the class docstring, unless the variant has its own."""
        return self.variant.summary or (inspect.getdoc(self.cls) or "").partition("\n")[0]

    @property
    def paper(self) -> str:
        """Where this row was published; empty for one that no paper has, such as a control."""
        return "" if self.variant.role == "control" else self.variant.paper or self.cls.paper

    @property
    def head(self) -> str:
        """The head it is tied to, or the harness's own."""
        return self.variant.head or self.cls.head or "linear"

    @property
    def uses_labels(self) -> bool:
        """Whether labels enter the representation in this setting."""
        return self.cls().replace(**self.variant.fields).uses_labels

    def on_track(self, track: str, scale: str) -> Method:
        """Return the method with everything the track fixes, cohort and seed still unset."""
        method = self.cls().replace(**self.variant.fields, variant=self.name)
        module = track_module(track)
        return rewrite(method, lambda spec: module.overrides(spec, scale))


@dataclass
class Registry:
    """Everything found, by name."""

    methods: dict[str, MethodEntry] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    cohorts: dict[str, type[Cohort]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    classes: dict[str, type[Spec]] = field(default_factory=dict)

    def method(self, name: str) -> MethodEntry:
        """Return a method; raises `UserError` with the nearest names."""
        return self._get(self.methods, name, "method")

    def task(self, name: str) -> Task:
        """Return a task; raises `UserError` with the nearest names."""
        return self._get(self.tasks, name, "task")

    def cohort(self, name: str) -> type[Cohort]:
        """Return a cohort class; raises `UserError` with the nearest names."""
        return self._get(self.cohorts, name, "cohort")

    def _get(self, table: Mapping[str, Any], name: str, kind: str) -> Any:
        if name in table:
            return table[name]
        for plugin, trace in self.broken.items():
            if plugin.rpartition(".")[2].replace("_", "-") == name:
                raise UserError(f"the plugin {plugin} is broken: {trace.strip().splitlines()[-1]}")
        raise UserError(f"no {kind} is called {name!r}; {suggestion(name, table)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ..." or, with nothing near, all that is known."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(sorted(known))}"


def track_module(track: str) -> ModuleType:
    """Return the module that fixes what a track holds equal (``overrides``, ``SCALES``)."""
    if track not in TRACKS:
        raise UserError(f"no track is called {track!r}; {suggestion(track, TRACKS)}")
    return importlib.import_module(f"methods.blocks.{track}")


@functools.cache
def registry() -> Registry:
    """Scan once per process."""
    found = Registry()
    for module in _modules(found):
        for value in list(vars(module).values()):
            if inspect.isclass(value) and value.__module__ == module.__name__:
                try:
                    _add(found, value, module.__name__)
                except Exception:
                    found.broken[module.__name__] = traceback.format_exc()
    return found


def _modules(found: Registry) -> Iterator[ModuleType]:
    names = list(OWN)
    for package in ("methods", "tasks"):
        path = importlib.import_module(package).__path__
        names += [f"{package}.{m.name}" for m in pkgutil.iter_modules(path) if not m.ispkg]
    for kind in ("methods", "tasks", "cohorts"):
        names += [e.value for e in importlib.metadata.entry_points(group=f"ecgcmr_bench.{kind}")]
    for name in names:
        try:
            yield importlib.import_module(name)
        except Exception:
            found.broken[name] = traceback.format_exc()


def _check_name(name: str) -> None:
    """Refuse what could not be a file's name, a table's cell and a word of the command line."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.@-]*", name):
        raise ValueError(f"a name holds small letters, digits, '-', '.' and '@', not {name!r}")


def _add(found: Registry, cls: type, origin: str) -> None:
    if issubclass(cls, Spec):
        other = found.classes.setdefault(cls.__name__, cls)
        if other is not cls:
            # The class name is part of every digest: two meanings would share results.
            raise ValueError(f"two specs are called {cls.__name__}: {other.__module__}, {origin}")
    if issubclass(cls, Method):
        for name, variant in cls.__dict__.get("variants", {}).items():
            _check_name(name)
            if name in found.methods:
                raise ValueError(f"two methods are called {name}")
            found.methods[name] = MethodEntry(name, cls, variant, origin)
    elif issubclass(cls, Task) and "name" in cls.__dict__:
        _check_name(cls.name)
        if cls.name in found.tasks:
            raise ValueError(f"two tasks are called {cls.name}")
        found.tasks[cls.name] = cls()
    elif issubclass(cls, Cohort) and getattr(cls, "name", ""):
        _check_name(cls.name)
        found.cohorts[cls.name] = cls
