"""Runs a sweep while processes are killed at random moments, and holds it against a quiet one.

The same command is started again until it has finished. Then no finished stage may have been lost
or made twice, every artifact must hold what it holds undisturbed, and boards and rows must be
equal byte for byte, except for what tells costs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
METHODS = "random-init,ecg-features,supervised,mae,simclr,mmcl,ptacl,eccl"
PATIENCE = 6 * 3600.0  # for a sweep of the command line
TASKS = "phenotype,retrieval,demographics"
EXPECTED = {0, 1, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
"""Exit codes: done; failed, which a stage has whose workers were killed again and again; struck."""
DRIVER, WORKER, CHILD = "driver", "worker", "child of a worker"


class Sweep:
    """A command with a store and boards of its own, to be started as often as it takes.

    Parameters
    ----------
    folder
        Where the store, the boards and the log lie.
    arguments
        Of the command, without where its boards go.
    program
        What runs it.
    patience
        Seconds that it may take.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        program: Sequence[str] = (sys.executable, "-m", "benchmark"),
        patience: float = 600.0,
    ) -> None:
        self.folder, self.arguments = Path(folder), arguments
        self.store, self.boards = self.folder / "store", self.folder / "boards"
        self.log, self.journal = self.folder / "log", self.folder / "journal"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.journal.touch()
        self._command = [*program, *arguments, "--leaderboards", str(self.boards)]
        path = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"ECGCMR_STORE": str(self.store), "GRAINS_JOURNAL": str(self.journal)}
        self.environment = {**os.environ, **own, "PYTHONPATH": os.pathsep.join(path)}
        self.patience = patience
        self.starts = 0

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start the command in a group of its own; what it prints goes to the log."""
        self.starts += 1
        with self.log.open("ab") as log:
            environment = {**self.environment, **environment}
            own = {"cwd": ROOT, "env": environment, "start_new_session": True}
            return subprocess.Popen(self._command, stdout=log, stderr=log, **own)

    def run(self, **environment: str) -> int:
        """Run the command to its end and return its exit code."""
        return self.start(**environment).wait(self.patience)

    def finish(self) -> None:
        """Run the command, after which all is there."""
        if code := self.run():
            raise AssertionError(f"it ended with {code}:\n{self.said()[-4000:]}")

    def said(self) -> str:
        """Return everything that it has printed."""
        return self.log.read_text(errors="replace")

    def processes(self) -> dict[int, str]:
        """Return the processes at work for it: pid and kind."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("ECGCMR_STORE") != str(self.store):
                    continue
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = process.cmdline()
                kind = WORKER if "stage" in words else CHILD
                found[process.pid] = DRIVER if words == self._command else kind
        return found

    def finished(self) -> dict[str, bytes]:
        """Return the manifest of every stage that is done: it tells when, to the second."""
        found = {}
        for path in self.store.glob("done/*/manifest.json"):
            with contextlib.suppress(FileNotFoundError):
                found[path.parent.name] = path.read_bytes()
        return found

    def held(self) -> dict[str, int]:
        """Return which stage is in whose hands, by pid."""
        found = {}
        for path in self.store.glob("lease/[!.]*.json"):
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
                found[path.stem] = json.loads(path.read_bytes())["pid"]
        return found

    def artifacts(self) -> dict[str, dict[str, str]]:
        """Return the checksums of every artifact's files, as they are on the disk."""
        return {
            folder.name: {
                path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name != "manifest.json"
            }
            for folder in self.store.glob("done/*")
        }

    def results(self) -> dict[str, bytes]:
        """Return boards and rows without what tells costs."""
        files = (path for path in sorted(self.boards.rglob("*")) if path.is_file())
        return {str(p.relative_to(self.boards)): _plain(p) for p in files if p.stem != "cost"}


def _plain(path: Path) -> bytes:
    content = path.read_bytes()
    if "rows" in path.parts and path.suffix == ".json":
        file = json.loads(content)
        for row in file["rows"]:
            del row["run"]
        content = json.dumps(file, indent=1).encode()
    return content


def differences(one: Sweep, two: Sweep) -> list[str]:
    """Say in words how two sweeps that have finished differ; nothing where all is well."""
    told = []
    pairs = (one.artifacts(), two.artifacts()), (one.results(), two.results())
    for what, (a, b) in zip(("artifact", "file"), pairs, strict=True):
        told += [f"{what} {name} is missing" for name in sorted(a.keys() - b.keys())]
        told += [f"{what} {name} is too much" for name in sorted(b.keys() - a.keys())]
        told += [f"{what} {n} differs" for n in sorted(a.keys() & b.keys()) if a[n] != b[n]]
    if not one.results():
        told.append("there are no boards")
    return told


# ---------------------------------------------------------------------------------- kills


@dataclass
class Toll:
    """What random kills cost.

    Attributes
    ----------
    kills
        By what was killed, or what was done.
    starts, stages
        How often the command was started; in the sweep.
    interrupted
        Stages that a killed process, or a worker of a killed driver, was at: begun again.
    resumed
        Of the finished stages, those that went on from what a killed attempt had left.
    lost
        Stages that were finished and were not afterwards, or were made again.
    codes
        How the starts ended.
    seconds, quiet_seconds
        From the first start to the end; undisturbed.
    differences
        From the undisturbed sweep, in words.
    """

    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    stages: int = 0
    interrupted: int = 0
    resumed: int = 0
    lost: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    quiet_seconds: float = 0.0
    differences: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, nothing differs, and no start ended in an odd way."""
        return not self.lost and not self.differences and self.codes.keys() <= EXPECTED

    def lines(self) -> Iterator[str]:
        """Yield it in words."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        yield f"kills               {self.kills.total()} ({kinds})"
        codes = ", ".join(f"{count} with {code}" for code, count in sorted(self.codes.items()))
        yield f"starts              {self.starts} (ended: {codes})"
        yield f"stages              {self.stages}"
        yield f"  interrupted       {self.interrupted}"
        yield f"  resumed           {self.resumed}"
        yield f"  finished and lost {self.lost}"
        yield f"seconds             {self.seconds:.0f}, undisturbed {self.quiet_seconds:.0f}"
        yield f"equal               {'no' if self.differences else 'yes'}"
        yield from (f"  {text}" for text in self.differences)


def strike(
    sweep: Sweep,
    quiet: Sweep,
    count: int,
    seed: int,
    *,
    pause: float = 2.0,
    strikes: Callable[[Sweep, random.Random, Toll], bool] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Toll:
    """Run a sweep to its end while something strikes so many times.

    Moments are drawn from the number of finished stages, each with a delay of up to ``pause``
    seconds, so that all of the sweep is struck, however long it takes.

    Parameters
    ----------
    sweep, quiet
        What is struck, and the same undisturbed, finished.
    count, seed
        Of strikes; of their moments and of who is struck.
    pause
        About the time a stage takes.
    strikes
        Does it and tells whether it hit anything; by default `kill`.
    tell
        Is told of each.
    """
    rng, toll, strikes = random.Random(seed), Toll(), strikes or kill
    total = len(quiet.finished())
    moments = sorted(rng.randrange(total) for _ in range(count))
    before: dict[str, bytes] = {}
    began = moved = time.monotonic()
    driver = sweep.start()

    def alive() -> subprocess.Popen[bytes]:
        if time.monotonic() - moved > sweep.patience:
            raise AssertionError(f"the sweep gets nowhere:\n{sweep.said()[-4000:]}")
        if (code := driver.poll()) is None:
            return driver
        toll.codes[code] += 1
        return sweep.start()

    for number, moment in enumerate(moments, start=1):
        hit, moved = False, time.monotonic()
        while not hit:
            while len(_names(sweep.store / "done")) < moment:
                driver = alive()
                time.sleep(0.01)
            driver = alive()
            time.sleep(rng.uniform(0.0, pause))
            hit = strikes(sweep, rng, toll)
        found = sweep.finished()
        toll.lost += sum(found.get(digest) != manifest for digest, manifest in before.items())
        before = found
        tell(f"{number}/{count}: {len(found)} of {total} stages are done")
    # Whatever became of the last: the same command finishes. What failed for having been killed
    # too often is tried again.
    for _ in range(3):
        toll.codes[code := driver.wait(sweep.patience)] += 1
        if code == 0:
            break
        driver = sweep.start()
    toll.seconds, toll.starts = time.monotonic() - began, sweep.starts
    after = sweep.finished()
    toll.lost += sum(after.get(digest) != manifest for digest, manifest in before.items())
    toll.stages = len(after)
    toll.resumed = sum(b'"resumed": true' in manifest for manifest in after.values())
    toll.differences = differences(quiet, sweep)
    return toll


def kill(sweep: Sweep, rng: random.Random, toll: Toll) -> bool:
    """Kill one of a sweep's processes, as the kernel does when memory runs out."""
    alive = sweep.processes()
    # Drawn before one looks who is there: at most moments of a start it is the driver alone.
    kinds = {DRIVER: 2, CHILD: 1} | ({WORKER: 7} if "inline" not in sweep.arguments else {})
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    victims = sorted(pid for pid, own in alive.items() if own == kind)
    if not victims:
        return False
    victim = rng.choice(victims)
    try:
        os.kill(victim, signal.SIGSTOP)  # or it might finish its stage between look and kill
        hands = {victim, *(pid for pid, own in alive.items() if kind == DRIVER and own == WORKER)}
        done = _names(sweep.store / "done")
        toll.interrupted += sum(
            pid in hands and digest not in done for digest, pid in sweep.held().items()
        )
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return False
    toll.kills[kind] += 1
    return True


def interrupt(sweep: Sweep, rng: random.Random, toll: Toll) -> bool:
    """Press Ctrl-C: the whole group of the command is told. Some press it twice."""
    return terminate(sweep, rng, toll, signal.SIGINT)


def terminate(
    sweep: Sweep, rng: random.Random, toll: Toll, number: signal.Signals = signal.SIGTERM
) -> bool:
    """Ask it to end, as a scheduler does."""
    drivers = [pid for pid, kind in sweep.processes().items() if kind == DRIVER]
    if not drivers:
        return False
    toll.interrupted += len(sweep.held().keys() - _names(sweep.store / "done"))
    for _ in range(rng.choice((1, 1, 2))):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(drivers[0], number)
        time.sleep(rng.uniform(0.0, 0.3))
    toll.kills[number.name] += 1
    return True


STRIKES = {"kill": kill, "interrupt": interrupt, "terminate": terminate}


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - asked hundreds of times a second
    except FileNotFoundError:
        return set()


# ------------------------------------------------------------------------------ command line


def main() -> int:
    """Run a sweep of the command line under kills, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, metavar="N")
    parser.add_argument("--how", choices=STRIKES, default="kill")
    parser.add_argument("--executor", default="local", help="inline, local or slurm")
    parser.add_argument("--workers", default="2", metavar="N")
    parser.add_argument("--method", default=METHODS, metavar="NAMES")
    parser.add_argument("--task", default=TASKS, metavar="NAMES")
    parser.add_argument("--seeds", default="3", metavar="N", help="replicates")
    parser.add_argument("--fractions", default="1.0", metavar="LIST")
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    parser.add_argument("--pause", type=float, default=1.0, metavar="SECONDS", help="see strike")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder to work in, and keep")
    options = parser.parse_args()

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    folder = options.keep or Path(tempfile.mkdtemp(prefix="ecgcmr-faults-"))
    request = ["run", "--method", options.method, "--task", options.task, "--scale", options.scale]
    request += ["--seeds", options.seeds, "--fractions", options.fractions]
    name = hashlib.sha256("\n".join(request).encode()).hexdigest()[:8]
    quiet = Sweep(folder / f"quiet-{name}", [*request, "--executor", "inline"], patience=PATIENCE)
    clock = quiet.folder / "seconds"
    if not clock.exists():
        tell(f"undisturbed: {quiet.folder}")
        began = time.monotonic()
        quiet.finish()
        clock.write_text(f"{time.monotonic() - began:.1f}")
    request += ["--executor", options.executor]
    request += ["--workers", options.workers] if options.executor != "inline" else []
    disturbed = folder / f"{options.how}-{options.executor}-{options.seed}-{name}"
    shutil.rmtree(disturbed, ignore_errors=True)
    sweep = Sweep(disturbed, request, patience=PATIENCE)
    tell(f"disturbed: {sweep.folder}")
    how = {"pause": options.pause, "strikes": STRIKES[options.how], "tell": tell}
    toll = strike(sweep, quiet, options.kills, options.seed, **how)
    toll.quiet_seconds = float(clock.read_text())
    print("\n".join(toll.lines()))
    if options.keep is None and toll.ok:
        shutil.rmtree(folder)
    elif not toll.ok:
        tell(f"kept for a look: {folder}")
    return 0 if toll.ok else 1


if __name__ == "__main__":
    sys.exit(main())
