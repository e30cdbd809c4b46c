"""README and documentation: every command runs, every link leads somewhere, every name exists."""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmark.cli import parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
MARKERS = ("heavy", "data", "cluster")
BLOCK = re.compile(r"(?:<!-- (\w+) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SMOKE = {"make": "SCALE=smoke", "ecgcmr": "--scale smoke"}


@dataclass(frozen=True)
class Block:
    page: str
    marker: str
    language: str
    text: str

    @property
    def commands(self):
        words = (shlex.split(line, comments=True) for line in self.text.splitlines())
        return [line for line in words if line]


def blocks(page):
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(page.name, *parts) for parts in found]


EVERY = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in EVERY if block.language == "sh"]


def test_blocks_are_of_a_kind_that_is_known():
    assert {block.language for block in EVERY} <= {"sh", "text", "python", "toml"}
    assert {block.marker for block in EVERY} <= {"", *MARKERS}
    assert not [block for block in EVERY if block.marker and block.language != "sh"]
    assert len(SHELL) > 20


def complaint(words):
    """What is wrong with a command, without running it."""
    program = Path(words[0]).name
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        known = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
        variables = re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)
        for word in words[1:]:
            name, given, _ = word.partition("=")
            if name not in (variables if given else known):
                return f"make knows no {name}"
        return ""
    if program == "ecgcmr":
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                parser().parse_args(words[1:])
        except SystemExit:
            return said.getvalue()
        return ""
    if program == "python" and words[1] == "-m":
        return "" if importlib.util.find_spec(words[2]) else f"no module {words[2]}"
    return f"the test does not know {program}"


@pytest.mark.parametrize("block", SHELL, ids=lambda b: f"{b.page}: {b.commands[0][0:3]}")
def test_commands_are_understood(block):
    wrong = {shlex.join(words): complaint(words) for words in block.commands}
    assert not {command: text for command, text in wrong.items() if text}


def test_the_check_of_commands_can_fail():
    assert "no bake" in complaint(["make", "bake"])
    assert "no FLAVOUR" in complaint(["make", "bench", "FLAVOUR=1"])
    assert "unrecognized" in complaint(["ecgcmr", "run", "--method", "a", "--task", "b", "--fast"])
    assert complaint(["python", "-m", "benchmark.baking"])
    assert complaint(["rm", "-rf", "x"])


# ------------------------------------------------------------------------------- links and names


def slugs(page):
    """Anchors of a page's headings, as MkDocs and forges make them of plain headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda p: p.name)
def test_links_of_the_front_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert links
    dead = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = ROOT / path if path else page
        if not target.exists() or (anchor and anchor not in slugs(target)):
            dead.append(link)
    assert not dead


def test_names_of_code_and_files_exist():
    missing = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`(benchmark(?:\.\w+)+)`", text):
            module, _, attribute = name.rpartition(".")
            try:
                known = hasattr(importlib.import_module(module), attribute)
                known = known or importlib.util.find_spec(name) is not None
            except ImportError:
                known = False
            missing += [] if known else [f"{page.name}: {name}"]
        for path in re.findall(
            r"`((?:benchmark|methods|tasks|tests|leaderboards|docs)/[\w./-]+)`", text
        ):
            made = ("foo", "bar", "site", "ukb-", "overridden")
            if not any(part in path for part in made) and not (ROOT / path).exists():
                missing.append(f"{page.name}: {path}")
    assert not missing


def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path))
    log = logging.getLogger("mkdocs")
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setLevel(logging.WARNING)
    log.addHandler(handler)
    try:
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    finally:
        log.removeHandler(handler)
    assert not said.getvalue()
    pages = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.html")}
    for part in ("methods/ptacl", "tasks/retrieval", "cohorts/ukb", "commands"):
        assert f"reference/{part}.html" in pages
    fetched = re.compile(r"<(?:script|link|img)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*\"")
    assert not {name: found for name, text in pages.items() if (found := fetched.findall(text))}
    # Opened from a folder, no browser lets a page start the worker that search needs.
    assert "search/main.js" not in "".join(pages.values())
    method = pages["reference/methods/ptacl.html"]
    for heading in ("Departures from the paper", "Published beside recorded", "0.544"):
        assert heading in method


@pytest.fixture
def generator(monkeypatch):
    """Import a module of the generator, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "generator"))
    return importlib.import_module


def test_the_readme_shows_the_recorded_board(generator):
    readme = generator("readme")
    current = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.text() == current, "python docs/generator/readme.py writes it again"


def test_a_card_loses_nothing_of_its_docstring(generator):
    from methods.ptacl import PTACL

    text, pages = generator("text"), generator("method_pages")
    page = pages.pages()["reference/methods/ptacl.md"]
    parts = text.paragraphs(PTACL)
    assert len(parts) >= 3
    assert all(part in page for part in parts)
    before, after = page.split("## Departures from the paper")
    assert "Unstated, declared here" in after
    assert "symmetric InfoNCE" in before


def test_docstrings_with_sections_become_lists(generator):
    class Documented:
        """One line.

        Prose of
        two lines.

        Parameters
        ----------
        first, second
            What they
            are.
        third
            Another.
        """

    assert generator("text").paragraphs(Documented) == [
        "Prose of two lines.",
        "**Parameters**",
        "- `first, second`: What they are.\n- `third`: Another.",
    ]


# ------------------------------------------------------------------------------- run, by night


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the tree as a repository of its own, with commands that run its code."""
    place = tmp_path_factory.mktemp("docs") / "copy"
    left = (".git", ".venv", "build", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(*left))
    programs = place / ".venv" / "bin"
    programs.mkdir(parents=True)
    run = {
        "python": '"$@"',
        "ecgcmr": '-m benchmark "$@"',
        "mkdocs": '-m mkdocs "$@"',
        "ruff": '-m ruff "$@"',
        "lint-imports": "-c 'from importlinter.cli import lint_imports_command as c; c()' \"$@\"",
    }
    for name, arguments in run.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}\n')
        program.chmod(0o755)
    # Younger than pyproject.toml, or make would install the copy over this installation.
    for name in (".installed", ".installed-dev"):
        (programs / name).touch()
    author = ["-c", "user.name=copy", "-c", "user.email=copy@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "copy"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    return place


def at_smoke(words):
    """The same command at the smallest scale, one replicate of each."""
    line = re.sub(r"(--seeds |SEEDS=)\d+", r"\g<1>1", shlex.join(words))
    if words == ["make", "test"]:
        return "make test ARGS='--collect-only -q'"
    return f"{line} {SMOKE[words[0]]}"


WITH_COMMANDS = [page for page in PAGES if any(b.language == "sh" for b in blocks(page))]


@pytest.mark.nightly
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda p: p.name)
def test_commands_run(page, copy, tmp_path_factory):
    environment = {
        **os.environ,
        "PATH": f"{copy}/.venv/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
        "ECGCMR_STORE": str(copy.parent / "store"),
        "TMPDIR": str(tmp_path_factory.getbasetemp()),
    }
    for block in blocks(page):
        if block.language != "sh" or block.marker in ("data", "cluster"):
            continue
        for words in block.commands:
            line = at_smoke(words) if block.marker == "heavy" else shlex.join(words)
            done = subprocess.run(
                ["bash", "-c", line], cwd=copy, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
