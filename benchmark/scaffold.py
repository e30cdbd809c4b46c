"""New methods and tasks: a file that works at once, and its test, written from templates."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmark.api import Trainable, UserError
from benchmark.registry import MethodEntry, registry
from benchmark.stage import Spec

TEMPLATES = Path(__file__).resolve().parent / "templates"
ROOT = TEMPLATES.parent.parent
RESERVED = ("all", "references")
LONGEST = 30  # a name is a column of every board


@dataclass(frozen=True)
class Scaffold:
    """What was written, and what to do next, one command or sentence each."""

    files: tuple[Path, ...]
    then: tuple[str, ...]


def new_method(
    name: str, like: str | None = None, package: Path | None = None, root: Path = ROOT
) -> Scaffold:
    """Write a method and its test.

    Parameters
    ----------
    name
        What the boards are to call it.
    like
        A method that it starts from; without one it is a small method on the ECG alone.
    package
        Folder of a package of its own, made when it does not exist; by default the method goes
        into the checkout ``root``.

    Raises
    ------
    UserError
        When the name cannot be taken, or something is in the way.
    """
    words = _words(name, "method")
    if like is None:
        text = _filled("method", words)
    else:
        entry = registry().method(like)
        _check_twist(entry)
        variant = (
            f'{entry.cls.__name__}.variants["{like}"].fields, ' if entry.variant.fields else ""
        )
        variant += f'head="{entry.variant.head}", ' if entry.variant.head else ""
        parent = {"module": entry.cls.__module__, "parent": entry.cls.__name__}
        text = _filled("twist", {**words, **parent, "like": like, "variant": variant})
    return _write("method", words, text, package, root)


def new_task(name: str, package: Path | None = None, root: Path = ROOT) -> Scaffold:
    """Write a task and its test; see `new_method`."""
    words = _words(name, "task")
    return _write("task", words, _filled("task", words), package, root)


def _words(name: str, kind: str) -> dict[str, str]:
    """Return what the templates are filled with, for a name that can be taken."""
    known = registry()
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST:
        raise UserError(
            f"{name!r} cannot be a {kind}'s name: up to {LONGEST} small letters, digits and single "
            "dashes, a letter first, such as my-method"
        )
    stem = name.replace("-", "_")
    if name in RESERVED or keyword.iskeyword(stem):
        raise UserError(f"{name} means something else; give the {kind} another name")
    if name in (known.methods if kind == "method" else known.tasks):
        raise UserError(f"there is a {kind} called {name} already; ecgcmr list {kind}s shows all")
    cls = "".join(part.capitalize() for part in name.split("-"))
    if cls in _specs(Spec):
        raise UserError(
            f"{name} would make a second class {cls}, and class names are part of what results "
            f"are found by; give the {kind} another name"
        )
    title = name.replace("-", " ").capitalize()
    return {"name": name, "stem": stem, "cls": cls, "title": title, "kind": kind}


def _specs(cls: type) -> Iterator[str]:
    """Yield the names of all specs that a module holds, those of heads and recipes too."""
    for spec in cls.__subclasses__():
        if getattr(sys.modules.get(spec.__module__), spec.__name__, None) is spec:
            yield spec.__name__
        yield from _specs(spec)


def _check_twist(entry: MethodEntry) -> None:
    if entry.changes:
        raise UserError(f"--like names a method as it is: {entry.name.partition('[')[0]}")
    if "harmonised" not in entry.variant.tracks:
        raise UserError(f"{entry.name} is not part of the harmonised track; start from another")
    if not entry.as_declared().trained or entry.cls.loss is Trainable.loss:
        raise UserError(f"{entry.name} is not trained by a loss; start from another method")


def _filled(template: str, words: dict[str, str]) -> str:
    text = (TEMPLATES / f"{template}.txt").read_text("utf-8")
    if re.search(rf"\b{words['cls']}\b", text):
        raise UserError(f"{words['name']} would hide a name that its own file needs; take another")
    return Template(text).substitute(words)


def _write(
    kind: str, words: dict[str, str], text: str, package: Path | None, root: Path
) -> Scaffold:
    name, stem = words["name"], words["stem"]
    test = _filled("test", words)
    if package is None:
        folder = root / f"{kind}s"
        if not (root / "tests").is_dir() or not folder.is_dir():
            raise UserError(
                f"{root} is no checkout of ecgcmr-bench; --package DIR makes a package of its own"
            )
        file, test_file = folder / f"{stem}.py", root / "tests" / f"test_{stem}.py"
        texts = {file: text, test_file: test}
        steps, bin_ = (), ".venv/bin/"
        runner = f"{bin_}python -m pytest tests/{test_file.name}"
    else:
        module = f"ecgcmr_{stem}"
        file, test_file = package / f"{module}.py", package / "tests" / f"test_{stem}.py"
        project = _filled("pyproject", {**words, "module": module})
        texts = {package / "pyproject.toml": project, file: text, test_file: test}
        steps, bin_ = (f"pip install -e {package}",), ""
        runner = f"python -m pytest {test_file}"
    # A folder of the module's name would be imported in its place.
    for path in (*texts, file.with_suffix("")):
        if path.exists():
            raise UserError(f"{path} exists already and stays as it is; choose another name")
    try:
        for path, content in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, "utf-8")
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from None
    subject = (
        f"--method {name} --task phenotype" if kind == "method" else f"--method mae --task {name}"
    )
    run = f"{bin_}ecgcmr run {subject}"
    steps += (runner, f"{run} --scale smoke", run)
    return Scaffold(tuple(texts), steps)
