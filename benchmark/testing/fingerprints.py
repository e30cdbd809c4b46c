"""Changed code under an unchanged identity, found by what a plugin computes.

Results are shared by digest. Code that computes something else under the digest of before would
have old results stand for new ones, so `version` has to be raised; what was recorded here tells.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.testing.report import RuleError, Skipped, Subject

SAME_PLATFORM, OTHER_PLATFORM = 1e-4, 1e-3
SHOWN = 3


def read(path: Path) -> dict[str, Any]:
    """Return recorded fingerprints by plugin, none from a file that does not exist."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} holds no fingerprints: {error}") from None


def record(subject: Subject, path: Path) -> None:
    """Write a plugin's fingerprint into a file, beside those of others."""
    from benchmark.golden import platform_name

    _made_up_people(subject)
    known = read(path)
    known[key(subject)] = {
        "identity": subject.identity,
        "version": subject.cls.version,
        "code": code_of(subject),
        "platform": platform_name(),
        "values": subject.values(),
    }
    path.write_text(json.dumps(known, indent=1, sort_keys=True, allow_nan=False) + "\n")


def key(subject: Subject) -> str:
    """Return what a plugin's entry is called: a method computes other things on other tracks."""
    track = getattr(subject, "track", None)
    return f"{subject.kind} {subject.name}" + (f" ({track})" if track else "")


def code_of(subject: Subject) -> str | None:
    """Return the hash of the plugin's module and of the project modules it imports."""
    from benchmark.engine.provenance import code_hash

    return code_hash(subject.cls.__module__)


def _made_up_people(subject: Subject) -> None:
    """Keep what a few real people look like out of files that are shared."""
    if not subject.cohort.simulated:
        raise Skipped("fingerprints are taken of simulated people alone")


def hold(subject: Subject) -> None:
    """Hold what a plugin computes against its record.

    Raises
    ------
    RuleError
        When it moved under the identity it was recorded with.
    Skipped
        Without a record, or with one of another identity.
    """
    from benchmark.golden import platform_name
    from benchmark.reports import gate

    command = f"python -m benchmark.testing {subject.name} --write-fingerprint"
    if subject.fingerprints is None:
        raise Skipped("no file of fingerprints was given")
    command += f" {subject.fingerprints}"
    _made_up_people(subject)
    stored = read(subject.fingerprints).get(key(subject))
    if stored is None:
        raise Skipped(f"nothing is recorded of it; {command}")
    if stored["identity"] != subject.identity:
        raise Skipped(f"what is recorded is another version or setting of it; {command}")
    same = stored["platform"] == platform_name()
    verdict = gate.Verdict("")
    tolerance = gate.relative(SAME_PLATFORM if same else OTHER_PLATFORM)
    gate.frozen(stored["values"], subject.values(), tolerance, verdict)
    if not verdict.wrong:
        return
    code = "code that changed" if stored["code"] != code_of(subject) else "the same code"
    if code == "the same code" and not same:
        raise Skipped(f"recorded on {stored['platform']}, and other libraries compute otherwise")
    moved = "; ".join(verdict.wrong[:SHOWN])
    raise RuleError(
        f"{code} computes something else under the same version, {subject.cls.version} ({moved}): "
        "results already made would stand for new ones; raise `version` in "
        f"{Path(inspect.getfile(subject.cls)).name}, or undo the change, then: {command}"
    )
