"""``ecgcmr store``: finished stages carried between machines that share no file system."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import UserError
from benchmark.cli.common import add_place, add_track, command, make_request, relative

if TYPE_CHECKING:
    from benchmark.engine.store import Store
    from benchmark.engine.sync import Item, Journey, Wish

PUSH = """\
  ecgcmr store push /media/disk/results --all           everything that is finished here
  ecgcmr store push /media/disk/results --method ptacl --task phenotype
"""
PULL = """\
  ecgcmr store pull /media/disk/results                 on the other machine
  ecgcmr boards --method all                            there: rows and boards of what came
"""
AFTERWARDS = """\

Every file is compared with its checksum before and after. Nothing that is good at the other end is
written again; what was interrupted goes on by the same command. A folder may also be somebody's
whole store to pull from.

exit code: 0 all is there, 1 something is damaged or must not be carried, 2 asked wrongly
"""


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "carry finished stages to another machine, through a folder"
    store = command(commands, "store", _usage, purpose, examples="examples:\n" + PUSH + PULL)
    store.set_defaults(parser=store)
    ways = store.add_subparsers(title="commands", metavar="push|pull")
    for name, action, text, examples in (
        ("push", _push, "bring finished stages into a folder", PUSH),
        ("pull", _pull, "bring the stages of a folder into this machine's store", PULL),
    ):
        way = command(ways, name, action, text, examples="examples:\n" + examples + AFTERWARDS)
        way.add_argument("folder", type=Path, metavar="DIR", help="disk, mounted bucket, ...")
        way.add_argument(
            "--all",
            action="store_true",
            help="everything that is there" + (" (default)" if name == "pull" else ""),
        )
        way.add_argument("--method", default="", metavar="NAMES", help="only what these stand on")
        way.add_argument("--task", default="", metavar="NAMES", help="on these tasks (default all)")
        way.add_argument("--seeds", type=int, default=1, metavar="N", help="replicates (default 1)")
        way.add_argument(
            "--fractions", default="1.0,0.1,0.01", metavar="LIST", help="shares of the labels"
        )
        add_place(way)
        add_track(way)
        way.add_argument(
            "--verify",
            action="store_true",
            help="read what is at the other end too, and replace what is damaged there",
        )
        if name == "push":
            way.add_argument(
                "--permitted-by",
                default="",
                metavar="TEXT",
                help="who allowed data of real people to be in that folder; asked for once",
            )
        which = {
            name: way.get_default(name)
            for name in ("task", "seeds", "fractions", "cohort", "preset", "scale", "track")
        }
        way.set_defaults(which=which)
        way.add_argument("--dry-run", action="store_true", help="say what would be carried")
        way.add_argument("--json", action="store_true", help="for programs")


def _usage(options: argparse.Namespace) -> int:
    options.parser.error("push or pull, and a folder")


def _push(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from benchmark.engine.sync import described, permissions, permit, push
    from benchmark.trained import check_private

    if not (options.all or options.method):
        raise UserError("say what is to be carried: --method NAMES, or --all")
    store, wish, people = _prepared(options)
    # Names alone: which of these stages must not be carried is said by the refusal.
    cohorts = set().union(*map(people.real, described(store, wish.digests)))
    permitted_by = " ".join(options.permitted_by.split())
    unknown = sorted(cohorts - permissions(options.folder).keys())
    if unknown and not permitted_by:
        raise UserError(
            f"what was made from the people of {', '.join(unknown)} is individual-level data; "
            "name who permits it in that folder, and the reference, with --permitted-by TEXT"
        )
    if cohorts:
        check_private(options.folder / "done", "individual-level data")
    if unknown and not options.dry_run:
        permit(options.folder, unknown, permitted_by)

    def refusal(described: Mapping[str, Any]) -> str:
        if people.real(described) - cohorts:  # finished since they were counted
            return "of people for whom nobody has been asked yet: run the same command again"
        return people.refusal(described)

    wish = replace(wish, refusal=refusal)
    journey = push(store, options.folder, wish, _reporter())
    return _told(journey, options, cohorts)


def _pull(options: argparse.Namespace) -> int:
    from benchmark.engine.sync import permissions, pull

    store, wish, _ = _prepared(options)
    journey = pull(store, options.folder, wish, _reporter())
    return _told(journey, options, set(permissions(options.folder)))


def _reporter() -> Any:
    from benchmark.engine.progress import Reporter

    return Reporter()


def _prepared(options: argparse.Namespace) -> tuple[Store, Wish, _People]:
    """Return the store, what is to be carried, and what tells whose data it is."""
    from benchmark.engine.store import Store
    from benchmark.engine.sync import Wish

    if options.all and options.method:
        raise UserError("--all and --method exclude each other")
    narrowed = [k for k, value in options.which.items() if getattr(options, k) != value]
    if narrowed and not options.method:
        raise UserError(f"--{narrowed[0]} goes with --method NAMES; --method all is every method")
    people = _People()
    wish = Wish(
        digests=_digests(options) if options.method else None,
        refusal=people.refusal,
        stays=people.is_prepared,
        verify=options.verify,
        dry_run=options.dry_run,
    )
    return Store(), wish, people


def _digests(options: argparse.Namespace) -> set[str]:
    """Return everything that the asked-for cells stand on."""
    from benchmark.cli.run import fractions_of
    from benchmark.planning import ceilings_of, expand, plan
    from benchmark.registry import registry
    from benchmark.stage import topological

    request = make_request(
        options,
        methods=expand(options.method, "method", options.track),
        tasks=expand(options.task or "all", "task"),
        replicates=options.seeds,
        fractions=fractions_of(options.fractions),
        track=options.track,
    )
    targets = [job.score for job in plan(request).jobs]
    for name in request.tasks:
        targets += ceilings_of(request, registry().task(name)).values()
    return {stage.digest for stage in topological(targets)}


class _People:
    """Whose data a stage holds, told from its description."""

    def __init__(self) -> None:
        from benchmark.registry import registry

        self._kinds = {kind.__name__: kind for kind in registry().cohorts.values()}
        self._current: dict[str, str] = {}

    def real(self, described: Mapping[str, Any]) -> set[str]:
        """Return the cohorts of real people that a stage was made from."""
        found = set()
        for cohort in self._in(described):
            kind = self._kinds.get(cohort["name"])
            if kind is None or not kind.simulated:
                found.add(kind.name if kind else cohort["name"])
        return found

    def is_prepared(self, described: Mapping[str, Any]) -> bool:
        """Whether a stage is a prepared cohort itself: all recordings, and the people's ids."""
        from benchmark.cohorts.prepared import PreparedCohort

        return issubclass(self._kinds.get(described.get("name"), object), PreparedCohort)

    def refusal(self, described: Mapping[str, Any]) -> str:
        """Return why a stage must not be carried, or nothing.

        What stands on another preparation of a cohort may be about people who have withdrawn.
        """
        from benchmark.cohorts.prepared import PreparedCohort, stands_on_other

        found = list(self._in(described))
        if not found:  # perhaps a cohort itself
            return f"whose data {described.get('name')} holds is not known here"
        for cohort in found:
            kind = self._kinds.get(cohort["name"])
            if kind is None:
                return f"no cohort {cohort['name']} is known here"
            if not issubclass(kind, PreparedCohort):
                continue
            if kind.name not in self._current:
                try:
                    self._current[kind.name] = kind.at("").fingerprint
                except UserError as error:
                    return str(error)
            if stands_on_other(cohort, kind, self._current[kind.name]):
                return (
                    f"made from another preparation of {kind.name} than this machine's; it may be "
                    "about people who have withdrawn since"
                )
        return ""

    def _in(self, described: Any) -> Iterator[Mapping[str, Any]]:
        """Yield the descriptions of all cohorts in a stage's."""
        if isinstance(described, dict):
            if described.get("name") in self._kinds:
                yield described
                return
            for key, value in described.items():
                if key == "cohort" and isinstance(value, dict) and "name" in value:
                    yield value
                else:
                    yield from self._in(value)
        elif isinstance(described, list):
            for value in described:
                yield from self._in(value)


def _told(journey: Journey, options: argparse.Namespace, cohorts: set[str]) -> int:
    if options.json:
        kinds = ("moved", "there", "left", "damaged", "refused")
        told = {kind: [item._asdict() for item in getattr(journey, kind)] for kind in kinds}
        told |= {"folder": str(options.folder), "bytes": journey.bytes, "dry_run": options.dry_run}
        print(json.dumps(told, indent=1))
    else:
        print(_text(journey, options, cohorts))
    return 0 if journey.ok else 1


def _text(journey: Journey, options: argparse.Namespace, cohorts: set[str]) -> str:
    from benchmark.engine.progress import amount

    verb = "to carry" if options.dry_run else "carried"
    kinds: dict[str, list[Item]] = {}
    for item in journey.moved:
        kinds.setdefault(item.label, []).append(item)
    sizes = {label: sum(item.bytes for item in items) for label, items in kinds.items()}
    lines = []
    for label in sorted(sizes, key=lambda label: -sizes[label]):
        many = f" x{len(kinds[label]):,}" if kinds[label][1:] else ""
        lines.append(f"  {label}{many}  {amount(sizes[label])}")
    if len(lines) > 12:
        lines = [*lines[:12], f"  and {len(lines) - 12:,} others"]
    lines.append(
        f"{verb} {len(journey.moved):,} artifacts, {amount(journey.bytes)}; "
        f"{len(journey.there):,} were there already"
    )
    for item in journey.left:
        lines.append(f"left where it is: {item.label}, which is prepared on either machine")
    for item in journey.damaged:
        lines.append(f"damaged, left out: {item.label} ({item.digest[:12]}): {item.message}")
    reasons: dict[str, int] = {}
    for item in journey.refused:
        reasons[item.message] = reasons.get(item.message, 0) + 1
    lines += [f"refused, {count:,} artifacts: {reason}" for reason, count in reasons.items()]
    if cohorts:
        where = relative(options.folder.absolute())
        lines.append(
            f"{where} holds individual-level data of {', '.join(sorted(cohorts))}: keep it where "
            "those people's data may be, and delete it after use"
        )
    return "\n".join(lines)
