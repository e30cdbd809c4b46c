"""Plugins as other processes see them: their digests, and what importing them costs.

Two fresh interpreters are asked, with different orders of hashing, about all plugins at once.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.api import Variant
from benchmark.registry import MethodEntry, registry
from benchmark.stage import Spec, bind
from benchmark.testing.people import bound_fields, kit_people
from benchmark.testing.report import Skipped, need

HASH_SEEDS = ("1", "2")
HEAVY = (
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "monai",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "xgboost",
    "matplotlib",
)
"""Libraries that take longer to import than a listing of all plugins may take."""
SCALE = "smoke"

# The interpreter finds modules where this one does: no plugin has to be installed for it.
START = (
    "import json, sys\n"
    "asked = json.load(sys.stdin)\n"
    "sys.path[:] = asked['path']\n"
    "from benchmark.testing.process import answer\n"
    "print(json.dumps(answer(asked['plugins'])))\n"
)


@dataclass(frozen=True)
class Plugin:
    """Where another process finds a plugin.

    ``name`` and ``track`` are those of a method, ``fields`` (as JSON) those of a cohort.
    """

    module: str
    file: str
    cls: str
    name: str = ""
    track: str = ""
    fields: str = ""

    @classmethod
    def of(cls, plugin: type[Spec], **more: str) -> Plugin:
        """Return where a class is; raises `Skipped` when no other process can import it."""
        if "<locals>" in plugin.__qualname__:
            raise Skipped("its class is defined inside a function, where nobody else can import it")
        file = getattr(sys.modules.get(plugin.__module__), "__file__", None)
        if not file:
            raise Skipped("its class is in no file that another process could import")
        return cls(plugin.__module__, str(Path(file).absolute()), plugin.__qualname__, **more)


@dataclass(frozen=True)
class Answer:
    """What a process says: the digest, or why there is none, and heavy libraries imported."""

    digest: str = ""
    error: str = ""
    heavy: tuple[str, ...] = ()


def ask(plugin: Plugin) -> tuple[Answer, ...]:
    """Return what each of the processes answers about a plugin."""
    own = registered()
    return _answers(own)[plugin] if plugin in own else _answers((plugin,))[plugin]


@functools.cache
def registered() -> tuple[Plugin, ...]:
    """Return all methods, on each of their tracks, and all tasks: they are asked about at once."""
    found = []
    for entry in registry().methods.values():
        found += [Plugin.of(entry.cls, name=entry.name, track=t) for t in entry.variant.tracks]
    found += [Plugin.of(type(task)) for task in registry().tasks.values()]
    return tuple(found)


@functools.lru_cache(maxsize=8)
def _answers(plugins: tuple[Plugin, ...]) -> dict[Plugin, tuple[Answer, ...]]:
    asked = json.dumps({"path": sys.path, "plugins": [asdict(plugin) for plugin in plugins]})
    started = []
    for seed in HASH_SEEDS:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-c", START]
        started.append(subprocess.Popen(command, **pipes, text=True, env=environment))
    told: list[list[Answer]] = []
    for process in started:
        out, err = process.communicate(asked)
        if process.returncode:
            reason = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            raise RuntimeError(f"another process cannot look at the plugins: {reason}")
        # Whatever a plugin prints while it is imported comes before the answer.
        rows = json.loads(out.splitlines()[-1])
        told.append([Answer(r["digest"], r["error"], tuple(r["heavy"])) for r in rows])
    return dict(zip(plugins, zip(*told, strict=True), strict=True))


def same_digest(plugin: Plugin, digest: str) -> None:
    """Raise `RuleError` unless other processes find this digest too."""
    for found in ask(plugin):
        need(not found.error, f"in another process it has no digest: {found.error}")
        need(
            found.digest == digest,
            "another process finds another digest: its fields follow from the order of a set or "
            "dict, from the time or from the machine; put them into a fixed order",
        )


def cheap(plugin: Plugin) -> None:
    """Raise `RuleError` when importing the plugin's module imports heavy libraries."""
    heavy = sorted({name for found in ask(plugin) for name in found.heavy})
    need(
        not heavy,
        f"importing {plugin.module} imports {', '.join(heavy)}; move that into the functions that "
        "need it, and types under TYPE_CHECKING",
    )


# ------------------------------------------------------------------------ in the other process


def answer(plugins: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Look at plugins in this process."""
    heavy: dict[str, tuple[str, ...]] = {}
    modules: dict[str, Any] = {}
    for plugin in plugins:
        before = {name for name in HEAVY if name in sys.modules}
        name = plugin["module"]
        if name not in modules:
            modules[name] = _imported(plugin)
            heavy[name] = tuple(n for n in HEAVY if n in sys.modules and n not in before)
    return [asdict(_digest(modules[p["module"]], heavy[p["module"]], p)) for p in plugins]


def _imported(plugin: Mapping[str, str]) -> Any:
    try:
        module = importlib.import_module(plugin["module"])
        if Path(module.__file__ or "").absolute() == Path(plugin["file"]):
            return module
    except ImportError:
        pass  # not on the path: a test's own module
    spec = importlib.util.spec_from_file_location(plugin["module"], plugin["file"])
    module = importlib.util.module_from_spec(spec)
    sys.modules[plugin["module"]] = module
    spec.loader.exec_module(module)
    return module


def _digest(module: Any, heavy: tuple[str, ...], plugin: Mapping[str, str]) -> Answer:
    try:
        value = module
        for part in plugin["cls"].split("."):
            value = getattr(value, part)
        if plugin["track"]:
            entry = entry_of(value, plugin["name"])
            unbound = entry.on_track(plugin["track"], SCALE)
            spec = bind(unbound, **bound_fields(kit_people()))
        else:
            spec = value(**_unlisted(json.loads(plugin["fields"] or "{}")))
        return Answer(spec.digest, heavy=heavy)
    except Exception as error:
        return Answer(error=f"{type(error).__name__}: {error}", heavy=heavy)


def _unlisted(value: Any) -> Any:
    """Undo what JSON does to tuples."""
    if isinstance(value, list):
        return tuple(_unlisted(item) for item in value)
    return {k: _unlisted(v) for k, v in value.items()} if isinstance(value, dict) else value


def entry_of(cls: type, name: str = "") -> MethodEntry:
    """Return a method class in a setting of its own, the first without a name."""
    if "[" in name:
        return registry().method(name)
    variants = cls.__dict__.get("variants") or {cls.__name__.lower(): Variant()}
    name = name or next(iter(variants))
    return MethodEntry(name, cls, variants[name], cls.__module__)
