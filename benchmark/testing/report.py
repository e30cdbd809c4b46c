"""Checks, what they found, and the rule that having checked nothing is no pass."""

from __future__ import annotations

import inspect
import traceback
import unittest
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmark.api import Cohort, UserError
from benchmark.names import suggestion
from benchmark.privacy import mask
from benchmark.stage import Spec

Outcome = Literal["passed", "failed", "skipped"]


class Skipped(unittest.SkipTest):
    """A check has nothing to say about a plugin; pytest and unittest know it as a skip."""


class ConformanceError(AssertionError):
    """A plugin does not keep what the harness relies on.

    Attributes
    ----------
    report
        All findings.
    """

    def __init__(self, report: Report) -> None:
        failed = report.failed
        lines = [f"{report.plugin} fails {len(failed)} of {len(report.findings)} checks:"]
        lines += [f"- {finding.check}: {finding.why}" for finding in failed]
        super().__init__("\n".join(lines))
        self.report = report


@dataclass(frozen=True)
class Finding:
    """What one check found, and why where it is no pass."""

    check: str
    outcome: Outcome
    why: str = ""


@dataclass(frozen=True)
class Report:
    """What the checks found of one plugin."""

    plugin: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings that are failures."""
        return tuple(f for f in self.findings if f.outcome == "failed")

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    def __str__(self) -> str:
        width = max(len(f.check) for f in self.findings)
        lines = [f"{f.check:<{width}}  {f.outcome:<7}  {f.why}".rstrip() for f in self.findings]
        return "\n".join([self.plugin, *lines])


@dataclass(frozen=True)
class Rule:
    """A check before it is bound to a plugin.

    Attributes
    ----------
    sees
        Whether the plugin is at work in it; declarations alone say nothing of what it does.
    essential
        Whether the fairness of the comparison rests on it: no author can leave it out.
    """

    name: str
    function: Callable[[Any], None]
    sees: bool = True
    essential: bool = False


class Rules(list[Rule]):
    """The rules of one kind of plugin, in the order in which they are looked at."""

    def add(self, name: str, **traits: bool) -> Callable:
        """Decorate the function of a rule: it raises `RuleError` or `Skipped`, or all is well."""

        def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
            self.append(Rule(name, function, **traits))
            return function

        return register


class RuleError(Exception):
    """A rule is broken; the text says how, and what the author can do."""


def need(condition: Any, text: str) -> None:
    """Raise `RuleError` unless the condition holds."""
    if not condition:
        raise RuleError(text)


COVERAGE = "something-seen"


class Subject:
    """A plugin under test, which remembers what was found already."""

    kind: ClassVar[str] = ""
    rules: ClassVar[Rules]

    name: str
    cls: type[Spec]
    cohort: Cohort
    """Who it is tried on."""
    identity: str
    """Digest of what is tried."""
    fingerprints: Path | None = None

    def __init__(self) -> None:
        self._found: dict[str, tuple[Finding, BaseException | None]] = {}
        self._left_out: dict[str, str] = {}

    @property
    def title(self) -> str:
        """What reports call it."""
        return f"the {self.kind} {self.name}"

    def values(self) -> dict[str, Any]:
        """Return what it computes, as nested dicts of numbers, to be recorded and compared."""
        raise NotImplementedError

    def checks(
        self, fingerprints: Path | str | None, skip: Mapping[str, str] | None
    ) -> list[Check]:
        """Return its checks, the last of which fails when the others have seen nothing."""
        self.fingerprints = Path(fingerprints) if fingerprints is not None else None
        self._left_out = dict(skip or {})
        known = {rule.name: rule for rule in self.rules}
        for name, reason in self._left_out.items():
            if name not in known:
                raise UserError(f"no check is called {name!r}; {suggestion(name, known)}")
            if known[name].essential:
                raise UserError(f"the check {name} cannot be left out: comparisons rest on it")
            if not str(reason).strip():
                raise UserError(f"the check {name} is left out without a reason")
        coverage = Rule(COVERAGE, type(self)._something_seen)
        return [Check(self, rule) for rule in (*self.rules, coverage)]

    def _something_seen(self) -> None:
        """Be seen at work by at least one check."""
        seeing = [rule for rule in self.rules if rule.sees]
        findings = [self.find(rule)[0] for rule in seeing]
        if all(finding.outcome == "skipped" for finding in findings):
            reasons = dict.fromkeys(finding.why for finding in findings)
            raise RuleError(
                f"every check that would see the {self.kind} at work was skipped, so nothing is "
                f"known about it ({'; '.join(reasons)}); {self.remedy}"
            )

    remedy: ClassVar[str] = ""
    """What an author does when everything was skipped."""

    def find(self, rule: Rule) -> tuple[Finding, BaseException | None]:
        """Return what a rule finds, and the exception behind it."""
        if rule.name not in self._found:
            self._found[rule.name] = self._try(rule)
        return self._found[rule.name]

    def _try(self, rule: Rule) -> tuple[Finding, BaseException | None]:
        if rule.name in self._left_out:
            why = f"left out by the author: {self._left_out[rule.name]}"
            return Finding(rule.name, "skipped", why), None
        try:
            rule.function(self)
        except Skipped as error:
            return Finding(rule.name, "skipped", str(error)), error
        except RuleError as error:
            return Finding(rule.name, "failed", str(error)), error
        except Exception as error:
            return Finding(rule.name, "failed", described(error)), error
        return Finding(rule.name, "passed"), None


def described(error: BaseException) -> str:
    """Return an exception as one line, with the place in the plugin's code it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    kit = Path(__file__).parent
    place = next((f for f in reversed(frames) if Path(f.filename).parent != kit), None)
    where = f" ({Path(place.filename).name}, line {place.lineno})" if place else ""
    text = mask(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


@dataclass(frozen=True)
class Check:
    """One check of one plugin: a test case whose ``str`` is its id."""

    subject: Subject
    rule: Rule

    def __str__(self) -> str:
        return self.rule.name

    @property
    def summary(self) -> str:
        """What holds when it passes, in one line."""
        return (inspect.getdoc(self.rule.function) or "").partition("\n")[0]

    def finding(self) -> Finding:
        """Run it, unless that was done, and return what it found."""
        return self.subject.find(self.rule)[0]

    def __call__(self) -> None:
        """Run it; raises `ConformanceError`, or `Skipped` where it does not apply."""
        finding, error = self.subject.find(self.rule)
        if finding.outcome == "skipped":
            raise Skipped(finding.why)
        if finding.outcome == "failed":
            raise ConformanceError(Report(self.subject.title, (finding,))) from error


def report(checks: Sequence[Check]) -> Report:
    """Run checks of one plugin and return what they found."""
    return Report(checks[0].subject.title, tuple(check.finding() for check in checks))


def run(checks: Sequence[Check]) -> Report:
    """Run checks of one plugin; raises `ConformanceError` listing what failed."""
    found = report(checks)
    if not found.ok:
        raise ConformanceError(found)
    return found
