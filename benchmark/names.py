"""What users call things: lists of names, their nearest neighbours, and names as files."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable

PAIRS = {")": "(", "]": "[", "}": "{"}


def check_name(name: str) -> None:
    """Refuse what could not be a file's name, a table's cell and a word of the command line."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.@-]*", name):
        raise ValueError(f"a name holds small letters, digits, '-', '.' and '@', not {name!r}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ..." or, with nothing near, all that is known."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(known)}"


def split_list(text: str) -> list[str]:
    """Split at commas that stand outside brackets and quotes; blanks around and empty parts go.

    ``mae,ptacl[sigma=0.2,local=cosine]`` are two names.

    Raises
    ------
    ValueError
        When a bracket or quote is not closed, or closes nothing.
    """
    parts, opened, quote = [""], [], ""
    for character in text:
        if character == "," and not opened and not quote:
            parts.append("")
            continue
        parts[-1] += character
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in PAIRS.values():
            opened.append(character)
        elif character in PAIRS and (not opened or opened.pop() != PAIRS[character]):
            raise ValueError(f"{text} has a bracket that closes nothing")
    if quote or opened:
        raise ValueError(f"{text} leaves a {'quote' if quote else 'bracket'} open")
    return [part.strip() for part in parts if part.strip()]


def file_name(name: str) -> str:
    """Return a method's name as part of a file's: itself, unless fields are changed in it.

    Brackets and quotes are wild cards in shells and forbidden on some disks, so such a name keeps
    its readable part and gets six digits of its hash: ``ptacl+sigma-0.2+1f0c3a``.
    """
    if "[" not in name:
        return name
    readable = re.sub(r"[^A-Za-z0-9.@+]+", "-", name.replace("[", "+", 1)).strip("-")
    return f"{readable[:80]}+{hashlib.sha256(name.encode()).hexdigest()[:6]}"
