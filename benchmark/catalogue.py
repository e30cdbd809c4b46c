"""The stages that today's code can make, told from how a manifest describes one."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from typing import Any

from benchmark.api import Cohort
from benchmark.registry import TRACKS, registry, track_module
from benchmark.stage import UNSET, Spec, identity_fields


class Catalogue:
    """The stages that today's code can make.

    Parameters
    ----------
    modules
        Where the stages in question come from; those of the project are imported, or a class
        would seem to be gone that merely was not loaded.
    """

    def __init__(self, modules: Iterable[str | None]) -> None:
        # A plugin that is broken today may be mended tomorrow: what it may have made stays.
        self._unsure = bool(registry().broken)
        for name in {module for module in modules if module}:
            package = name.partition(".")[0]
            if package not in ("benchmark", "methods", "tasks"):
                # The registry has loaded what is installed; what is not may be back tomorrow.
                self._unsure |= importlib.util.find_spec(package) is None
                continue
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                continue
            except Exception:
                self._unsure = True
        self._classes = {cls.__name__: cls for cls in _subclasses(Spec)}
        self._known: dict[str, Spec | None] = {}
        self._scales: dict[str, set[str]] = {}

    def makes(self, described: Any, digest: str) -> bool:
        """Whether a stage, as `Stage.describe` gave it, has this digest today.

        Also where that cannot be told because a plugin is broken or not installed.
        """
        try:
            spec = self.spec(described)
        except LookupError:
            return self._unsure
        return spec is not None and _digest(spec) == digest

    def spec(self, described: Any) -> Spec | None:
        """Return what is described as an object, or None when its fields are others today.

        Raises
        ------
        LookupError
            When a class is not there.
        """
        key = json.dumps(described, sort_keys=True)
        if key not in self._known:
            self._known[key] = self._restore(described)
        return self._known[key]

    def know(self, described: Any, spec: Spec) -> None:
        """Let a description, such as a plan's reference to a digest, stand for a spec."""
        self._known[json.dumps(described, sort_keys=True)] = spec

    def _restore(self, described: Any) -> Spec | None:
        try:
            values = {k: v for k, v in described.items() if k not in ("name", "version")}
            cls = self._classes.get(described["name"])
        except (AttributeError, TypeError, KeyError):
            return None
        if cls is None:
            raise LookupError(described["name"])
        values = {name: self._value(value) for name, value in values.items()}
        own = {f.name for f in identity_fields(cls)}
        if values.keys() != own or cls.version != described.get("version"):
            return None
        if any(value is None and described[name] is not None for name, value in values.items()):
            return None
        # What is no part of the identity is not described: it plays no role in the digest.
        for f in fields(cls):
            if f.name not in own and f.default is MISSING and f.default_factory is MISSING:
                values[f.name] = UNSET
        try:
            return cls(**values)
        except Exception:  # today's class refuses such values, in whatever way
            return None

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self.spec(value)
        if isinstance(value, list):
            return tuple(self._value(item) for item in value)
        return value

    def cohorts_of(self, described: Any) -> set[str]:
        """Return the names that the cohorts a stage stands on go by: ``simulated-null``, ..."""
        names: set[str] = set()
        if isinstance(described, dict):
            cls = self._classes.get(described.get("name", ""))
            if cls is not None and issubclass(cls, Cohort):
                return self._cohort_names(cls, described)
            described = list(described.values())
        if isinstance(described, list):
            names = names.union(*(self.cohorts_of(part) for part in described))
        return names

    def _cohort_names(self, cls: type[Cohort], described: dict[str, Any]) -> set[str]:
        key = json.dumps(described, sort_keys=True)
        if key not in self._scales:
            names, cohort = {cls.name}, self.spec(described)
            if isinstance(cohort, Cohort):
                names.add(cohort.title)
                preset = getattr(cohort, "preset", "default")
                for scale in {s for track in TRACKS for s in track_module(track).SCALES}:
                    if cls.simulated and cls.at(scale, preset) == cohort:
                        names.add(f"{cohort.title}-{scale}")
            self._scales[key] = names
        return self._scales[key]


def _subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _digest(spec: Spec) -> str:
    try:
        return spec.digest
    except Exception:  # a plugin's own code, given what an older version of it has left
        return ""
