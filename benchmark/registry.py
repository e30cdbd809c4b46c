"""Finds methods, tasks and cohorts: a file dropped into methods/ or tasks/ is enough.

Installed packages join through the entry point groups ``ecgcmr_bench.methods``, ``.tasks`` and
``.cohorts``, each naming a module. A plugin that fails to import, or to say what it is, is kept as
broken with its traceback, and the rest go on. Of two that claim one name the project's own keeps
it, and the other is broken.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from benchmark.api import Cohort, Method, Task, UserError, Variant
from benchmark.names import check_name, suggestion
from benchmark.overrides import Change, apply, fixed, parse, settings, value_at, written
from benchmark.stage import Spec, rewrite

TRACKS = ("harmonised", "paper")
KINDS: Mapping[str, type[Spec]] = {"methods": Method, "tasks": Task, "cohorts": Cohort}
OWN = (
    "benchmark.cohorts.simulated.cohort",
    "benchmark.cohorts.ukb.cohort",
    "benchmark.cohorts.views",
    "benchmark.cohorts.wfdb_cohort",
)
TASK_SAYS = ("kind", "title", "target_names", "metrics", "primary", "reference")


@dataclass
class Plugin:
    """A module that was looked into.

    ``kinds`` are what it was named for, of `KINDS`; ``package`` is name and version of the
    installed package it belongs to, empty for the project's own; ``trace`` says why it is broken.
    """

    module: str
    kinds: tuple[str, ...]
    package: str = ""
    trace: str = ""

    @property
    def origin(self) -> str:
        """Module and package, for people."""
        return f"{self.module} ({self.package})" if self.package else self.module


@dataclass(frozen=True)
class MethodEntry:
    """One row of the boards: a method class in one of its named settings.

    ``changes`` are the fields that the name itself changes.
    """

    name: str
    cls: type[Method]
    variant: Variant
    origin: str
    changes: tuple[Change, ...] = ()

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
        return self.as_declared().uses_labels

    def as_declared(self) -> Method:
        """Return the method with its variant's fields, and those that its name changes."""
        method = self.cls().replace(**self.variant.fields, variant=self.name)
        if not self.changes:
            return method
        try:
            return apply(method, self.changes, self.name)
        except UserError:  # a field of what a track puts in its place
            return self._on_first_track()

    def on_track(self, track: str, scale: str) -> Method:
        """Return the method with everything the track fixes, cohort and seed still unset.

        Fields that the name changes are changed last: what was typed is what runs.
        """
        method = self.cls().replace(**self.variant.fields, variant=self.name)
        module = track_module(track)
        method = rewrite(method, lambda spec: module.overrides(spec, scale))
        return apply(method, self.changes, self.name) if self.changes else method

    def overrides(self, track: str, scale: str) -> dict[str, dict[str, Any]]:
        """Return, by field that the name changes: its value, the one instead of which, and whose.

        ``fixed`` is True where the track fixes that field for all methods.
        """
        module = track_module(track)
        method = self.on_track(track, scale)
        before = replace(self, changes=()).on_track(track, scale)
        declared = self.cls().replace(**self.variant.fields)
        return {
            path: {
                "value": value_at(method, path),
                "instead_of": _short(value_at(before, path)),
                "fixed": fixed(declared, path, lambda spec: module.overrides(spec, scale)),
            }
            for path, _ in self.changes
        }

    def _on_first_track(self) -> Method:
        """Return it on the first track and scale that have every field its name changes."""
        errors = []
        for track in self.variant.tracks:
            for scale in track_module(track).SCALES:
                try:
                    return self.on_track(track, scale)
                except UserError as error:
                    errors.append(error)
        raise errors[0]

    def changed(self, changes: tuple[Change, ...]) -> MethodEntry:
        """Return the entry with fields changed, under the one spelling of its name.

        It is a control, whatever this one is: a setting that was found by looking at a board does
        not take part in its ranking.

        Raises
        ------
        UserError
            When the fields are not there or cannot hold the values.
        """
        typed = written(self.name, changes)
        method = replace(self, name=typed, changes=changes)._on_first_track()
        changes = tuple((path, value_at(method, path)) for path, _ in changes)
        summary = f"{self.name} with {', '.join(settings(changes))}."
        variant = replace(self.variant, role="control", summary=summary)
        return replace(self, name=written(self.name, changes), changes=changes, variant=variant)


def _short(value: Any) -> Any:
    return type(value).__name__ if isinstance(value, Spec) else value


@dataclass
class Registry:
    """Everything found, by name.

    ``classes`` are all specs, by the class name that is part of every digest; ``plugins`` all
    modules.
    """

    methods: dict[str, MethodEntry] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    cohorts: dict[str, type[Cohort]] = field(default_factory=dict)
    classes: dict[str, type[Spec]] = field(default_factory=dict)
    plugins: dict[str, Plugin] = field(default_factory=dict)
    _changed: dict[str, MethodEntry] = field(default_factory=dict)

    @property
    def broken(self) -> dict[str, str]:
        """Traceback by module, of those that could not be used or only in part."""
        return {name: plugin.trace for name, plugin in self.plugins.items() if plugin.trace}

    def package(self, cls: type) -> str:
        """Return name and version of the installed package a class is from; empty for our own."""
        plugin = self.plugins.get(cls.__module__)
        return plugin.package if plugin else ""

    def method(self, name: str) -> MethodEntry:
        """Return a method, with fields changed where the name says so: ``ptacl[sigma=0.2]``.

        Raises
        ------
        UserError
            When there is none, with the nearest names, or it has no such fields.
        """
        if "[" not in name:
            return self._get(self.methods, name, "method")
        if name not in self._changed:
            base, changes = parse(name)
            self._changed[name] = self.method(base).changed(changes)
        return self._changed[name]

    def task(self, name: str) -> Task:
        """Return a task; raises `UserError` with the nearest names."""
        return self._get(self.tasks, name, "task")

    def cohort(self, name: str) -> type[Cohort]:
        """Return a cohort class; raises `UserError` with the nearest names."""
        return self._get(self.cohorts, name, "cohort")

    def _get(self, table: Mapping[str, Any], name: str, kind: str) -> Any:
        if name in table:
            return table[name]
        for module, trace in self.broken.items():
            if module.rpartition(".")[2].replace("_", "-") == name:
                last = trace.strip().splitlines()[-1]
                where = f"ecgcmr list {kind}s shows where"
                raise UserError(f"the plugin {module} is broken: {last}; {where}")
        raise UserError(f"no {kind} is called {name!r}; {suggestion(name, table)}")


def track_module(track: str) -> ModuleType:
    """Return the module that fixes what a track holds equal (``overrides``, ``SCALES``)."""
    if track not in TRACKS:
        raise UserError(f"no track is called {track!r}; {suggestion(track, TRACKS)}")
    return importlib.import_module(f"methods.blocks.{track}")


@functools.cache
def registry() -> Registry:
    """Scan once per process."""
    found = Registry()
    for plugin in _plugins():
        found.plugins[plugin.module] = plugin
        with _caught(plugin):
            _read(found, plugin, importlib.import_module(plugin.module))
    return found


def _plugins() -> Iterator[Plugin]:
    """Yield the project's own modules, then those of installed packages by name."""
    for module in OWN:
        yield Plugin(module, ("cohorts",))
    for kind in ("methods", "tasks"):
        path = importlib.import_module(kind).__path__
        for module in pkgutil.iter_modules(path):
            if not module.ispkg:
                yield Plugin(f"{kind}.{module.name}", (kind,))
    named: dict[tuple[str, str], Plugin] = {}
    for kind in KINDS:
        for entry in importlib.metadata.entry_points(group=f"ecgcmr_bench.{kind}"):
            package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
            # `module:Class` is usual elsewhere; here it is the module that is read.
            module = entry.value.partition(":")[0].strip()
            plugin = named.setdefault((package, module), Plugin(module, (), package))
            plugin.kinds += (kind,)
    yield from (named[key] for key in sorted(named))


@contextlib.contextmanager
def _caught(plugin: Plugin) -> Iterator[None]:
    """Keep what a plugin's code raises, exits and prints to itself."""
    try:
        # Its prints would stand in the middle of what a program reads of us.
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        raise
    except BaseException:  # an exit or a skipped test among them
        plugin.trace += traceback.format_exc()


def _read(found: Registry, plugin: Plugin, module: ModuleType) -> None:
    """Register what a module defines; a class that cannot be leaves the others alone."""
    kinds = set()
    for value in list(vars(module).values()):
        if inspect.isclass(value) and value.__module__ == module.__name__:
            with _caught(plugin):
                kinds.add(_add(found, value, plugin))
    missing = [kind for kind in plugin.kinds if kind not in kinds]
    if plugin.package and missing and not plugin.trace:
        raise ValueError(
            f"{plugin.module} is named for {' and '.join(missing)} and defines none: a method has "
            "variants, a task and a cohort have a name, in the very module that is named"
        )


def _add(found: Registry, cls: type, plugin: Plugin) -> str:
    """Register a class; return which of `KINDS` it is, empty for none."""
    if issubclass(cls, Spec):
        other = found.classes.get(cls.__name__, cls)
        if other is not cls:
            # The class name is part of every digest: two meanings would share results.
            raise ValueError(
                f"two specs are called {cls.__name__}: {_origin(found, other)} keeps the name, "
                f"not {plugin.origin}; call the class something else"
            )
        found.classes[cls.__name__] = cls
    if issubclass(cls, Method):
        variants = cls.__dict__.get("variants", {})
        for name, variant in variants.items():
            _claim(found, "method", found.methods, name, plugin)
            entry = MethodEntry(name, cls, variant, plugin.module)
            _try(entry)
            found.methods[name] = entry
        return "methods" if variants else ""
    if issubclass(cls, Task) and "name" in cls.__dict__:
        _claim(found, "task", found.tasks, cls.name, plugin)
        if silent := [name for name in TASK_SAYS if not hasattr(cls, name)]:
            raise ValueError(f"the task {cls.name} does not say its {', '.join(silent)}")
        found.tasks[cls.name] = cls()
        return "tasks"
    if issubclass(cls, Cohort) and cls.__dict__.get("name"):
        _claim(found, "cohort", found.cohorts, cls.name, plugin)
        found.cohorts[cls.name] = cls
        return "cohorts"
    return ""


def _claim(found: Registry, kind: str, table: Mapping[str, Any], name: str, plugin: Plugin) -> None:
    check_name(name)
    if name in table:
        other = table[name]
        cls = other.cls if isinstance(other, MethodEntry) else other
        cls = cls if inspect.isclass(cls) else type(cls)
        raise ValueError(
            f"two {kind}s are called {name}: {_origin(found, cls)} keeps the name, "
            f"not {plugin.origin}"
        )


def _origin(found: Registry, cls: type) -> str:
    plugin = found.plugins.get(cls.__module__)
    return plugin.origin if plugin else cls.__module__


def _try(entry: MethodEntry) -> None:
    """Ask a method what every list and board asks of it: better it fails here than there."""
    _ = entry.as_declared().modalities, entry.uses_labels, entry.summary
    for track in entry.variant.tracks:
        module = track_module(track)
        _ = entry.on_track(track, module.DEFAULT_SCALE).modalities
        module.heads(entry, module.DEFAULT_SCALE)
