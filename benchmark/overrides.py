"""Fields changed in a method's name: ``ptacl[sigma=0.2,ecg.mask_ratio=0.7]``.

Such a name stands wherever a method's does. Values are Python literals, and words need no quotes.
Nothing is guessed: a field that does not exist or a value of another type is refused by what the
dataclass declares.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmark.api import UserError
from benchmark.names import split_list, suggestion
from benchmark.stage import UNSET, Spec

OWNED = {"cohort": "--cohort", "seed": "--seeds", "task": "--task", "fraction": "--fractions"}
"""Fields that the harness binds, and the option that chooses their value."""
WORD = r"[A-Za-z_][\w@./-]*"
Change = tuple[str, Any]
"""Dotted path of a field, and its value."""


def parse(name: str) -> tuple[str, tuple[Change, ...]]:
    """Return the name without its brackets, and what stands in them, by field.

    Raises
    ------
    UserError
        When it is not ``NAME[FIELD=VALUE,...]``.
    """
    base, _, rest = name.partition("[")
    form = "write it as NAME[FIELD=VALUE,...]"
    if not base.strip() or not rest.endswith("]"):
        raise UserError(f"{name} is no method with changed fields; {form}")
    try:
        parts = split_list(rest[:-1])
    except ValueError as error:
        raise UserError(f"{error}; {form}") from None
    changes: dict[str, Any] = {}
    for part in parts:
        path, equals, text = (piece.strip() for piece in part.partition("="))
        if not (path and equals and text):
            raise UserError(f"'{part}' in {name} is no FIELD=VALUE; {form}")
        if path in changes:
            raise UserError(f"{name} gives {path} twice")
        changes[path] = _literal(text, part)
    if not changes:
        raise UserError(f"{name} changes no field; {form}")
    return base.strip(), tuple(sorted(changes.items()))


def _literal(text: str, part: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if re.fullmatch(WORD, text):
            return text
        raise UserError(
            f"the value of '{part}' is no number, word, True, False, None, tuple or quoted text"
        ) from None
    return _plain(value, part)


def _plain(value: Any, part: str) -> Any:
    """Refuse what no field can hold, and read lists as tuples."""
    if isinstance(value, list | tuple):
        return tuple(_plain(item, part) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"the value of '{part}' is not finite")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"the value of '{part}' is a {type(value).__name__}, which no field can hold")


def written(base: str, changes: tuple[Change, ...]) -> str:
    """Return the name in its one spelling: `parse` backwards."""
    return f"{base}[{','.join(settings(changes))}]"


def settings(changes: tuple[Change, ...]) -> list[str]:
    """Return each change as ``FIELD=VALUE``."""
    return [f"{path}={_text(value)}" for path, value in changes]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({','.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    word = isinstance(value, str) and re.fullmatch(WORD, value)
    return value if word and value not in ("True", "False", "None") else repr(value)


def value_at(spec: Any, path: str) -> Any:
    """Return what a dotted path holds; `UNSET` where it leads nowhere."""
    for name in path.split("."):
        spec = getattr(spec, name, UNSET)
    return spec


def apply(spec: Spec, changes: tuple[Change, ...], name: str) -> Spec:
    """Return the spec with fields changed, all those of one nested spec at once.

    Parameters
    ----------
    changes
        As `parse` returns them.
    name
        What the spec is called in errors.

    Raises
    ------
    UserError
        When a field does not exist, is the harness's to set, or cannot hold the value.
    """
    tree: dict[str, Any] = {}
    for path, value in changes:
        *parents, last = path.split(".")
        branch = tree
        for step in parents:
            branch = branch.setdefault(step, {})
            if not isinstance(branch, dict):
                raise UserError(f"{name} changes {path} and the whole of which it is a part")
        if last in branch:
            raise UserError(f"{name} changes {path} and a part of it")
        branch[last] = value
    return _changed(spec, tree, "", _Names(name, spec))


@dataclasses.dataclass(frozen=True)
class _Names:
    """What errors are made of: the name as a whole, and the spec it starts at."""

    name: str
    whole: Spec

    def unknown(self, path: str) -> UserError:
        paths = list(settable(self.whole))
        last = path.rpartition(".")[2]
        near = [p for p in paths if p.rpartition(".")[2] == last]
        for cutoff in (0.85, 0.6):  # a slip of the finger hides what is merely alike
            near = near or difflib.get_close_matches(path, paths, n=3, cutoff=cutoff)
        own = [p for p in paths if p.count(".") == path.count(".")]
        hint = f"did you mean {' or '.join(near[:3])}?" if near else suggestion(path, own or paths)
        return UserError(f"{self.name} has no field '{path}'; {hint}")


def _changed(spec: Spec, tree: Mapping[str, Any], before: str, names: _Names) -> Spec:
    known = {field.name: field for field in dataclasses.fields(spec)}
    new: dict[str, Any] = {}
    for field, value in tree.items():
        path = f"{before}{field}"
        if field not in known:
            raise names.unknown(path)
        held = getattr(spec, field)
        if not _is_open(known[field], held):
            option = f": {OWNED[field]}" if field in OWNED else ""
            raise UserError(f"{path} of {names.name} is set by the harness{option}")
        if isinstance(value, dict):
            if not isinstance(held, Spec):
                inside = next(iter(value))
                raise UserError(f"{path} of {names.name} is {held!r}: there is no {inside} in it")
            new[field] = _changed(held, value, f"{path}.", names)
        else:
            _check(spec, known[field], held, value, path, names)
            new[field] = value
    try:
        return spec.replace(**new)
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"{names.name}: {error}") from None


def settable(spec: Spec, before: str = "") -> Iterator[str]:
    """Yield the dotted paths of all fields that a name may change."""
    for field in dataclasses.fields(spec):
        held = getattr(spec, field.name)
        if _is_open(field, held):
            if isinstance(held, Spec):
                yield from settable(held, f"{before}{field.name}.")
            else:
                yield f"{before}{field.name}"


def _is_open(field: dataclasses.Field, held: Any) -> bool:
    return field.name not in OWNED and held is not UNSET and field.metadata.get("identity", True)


def _check(
    spec: Spec, field: dataclasses.Field, held: Any, value: Any, path: str, names: _Names
) -> None:
    hint = _hint(spec, field)
    if hint is None:  # written for type checkers only
        fits = isinstance(held, type(value)) or (held is None and not isinstance(held, Spec))
    else:
        fits = _fits(value, hint)
    if fits:
        return
    if isinstance(held, Spec):
        inside = ", ".join(list(settable(held, f"{path}."))[:3])
        raise UserError(f"{path} of {names.name} has fields of its own to be set: {inside}, ...")
    choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    if choices:
        near = suggestion(str(value), map(str, choices))
        raise UserError(f"{path} of {names.name} cannot be {value!r}; {near}")
    kind = field.type if isinstance(field.type, str) else getattr(hint, "__name__", hint)
    raise UserError(f"{path} of {names.name} is of type {kind} (now {held!r}), not {value!r}")


def _hint(spec: Spec, field: dataclasses.Field) -> Any:
    """Return a field's type; None where its module has no such name when the program runs.

    Field by field, since `typing.get_type_hints` of the class would also need what is written for
    type checkers only, such as torch's types in class variables.
    """
    lineage = (cls for cls in type(spec).__mro__ if field.name in inspect.get_annotations(cls))
    owner = next(lineage)
    shim = types.new_class("shim")
    shim.__annotations__ = {field.name: field.type}
    try:
        return typing.get_type_hints(shim, vars(sys.modules[owner.__module__]))[field.name]
    except NameError:
        return None


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is typing.Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if inner[1:] == (Ellipsis,):
            return all(_fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def fixed(spec: Spec, path: str, overrides: Callable[[Spec], Mapping[str, Any]]) -> bool:
    """Return whether a track's ``overrides`` fix a field, or something that it is a part of."""
    for name in path.split("."):
        if not isinstance(spec, Spec):
            return False
        if name in overrides(spec):
            return True
        spec = getattr(spec, name, None)
    return False
