"""Leases say who is working on a stage.

The lease guards the *work*, so that nothing is computed twice; the rename of the commit guards the
*truth*. A lease that is wrongly taken over therefore costs time, never correctness.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import platform
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

BEAT_SECONDS = 5.0
"""How often a holder raises its beat."""
PATIENCE_SECONDS = 60.0
"""How long a waiter must have seen one beat, on its own monotonic clock, to call it dead."""
TURN_SECONDS = 5.0
"""How long a waiter for cores, who asks for them again and again, must have been silent."""
CHECK_SECONDS = 0.5
"""How often, at most, `Lease.check` reads the file: progress may be reported every millisecond."""


class LeaseLostError(Exception):
    """Another worker has taken over the stage; this one must stop and not commit."""


@dataclass(frozen=True)
class Holder:
    """The content of a lease file: a process, told apart from any other that ever was."""

    host: str
    boot_id: str
    namespace: str
    pid: int
    start: float
    token: str
    beat: int = 0
    threads: int = 1
    cpus: tuple[int, ...] = ()

    @classmethod
    def mine(cls, threads: int = 1) -> Holder:
        """Return this process under a new token."""
        pid, start = os.getpid(), process_start(os.getpid()) or 0.0
        return cls(*_place(), pid, start, secrets.token_hex(8), threads=threads, cpus=_cpus())

    def here(self) -> bool:
        """Whether the process lives, or lived, on this machine."""
        return (self.host, self.boot_id, self.namespace) == _place()

    def gone(self) -> bool:
        """Whether the process lived here and is certainly no more."""
        return self.here() and process_start(self.pid) != self.start


@functools.cache
def _place() -> tuple[str, str, str]:
    """Host, boot id and pid namespace: where a pid means what it means here.

    The namespace matters where containers share the name and boot of their host: each would take
    the other's processes for dead.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return platform.node(), boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        import psutil

        return platform.node(), str(int(psutil.boot_time())), ""


def _cpus() -> tuple[int, ...]:
    """Cores this process may use: batch jobs on one machine are given different ones."""
    affinity = getattr(os, "sched_getaffinity", None)
    return tuple(sorted(affinity(0))) if affinity else ()


def process_start(pid: int) -> float | None:
    """Return when a process started, in units of this machine, or None when it does not run.

    A pid alone may have been given to another process. On Linux the start is read in clock ticks
    since boot: psutil's ``create_time`` adds the wall clock, which may be set in between. A killed
    process that its parent has not collected yet (a zombie) does not run.
    """
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The name, in parentheses, may itself hold blanks and parentheses.
        fields = text[text.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else float(fields[19])
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


class Leases:
    """The folder of leases, one ``<digest>.json`` per stage that is being worked on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[str, float]] = {}
        self._held: dict[str, str] = {}  # tokens of what this object has taken and not released

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, for the microseconds of one read-check-write.

        Without it two waiters could both find a lease stale; the first replaces it and begins,
        then the second replaces the *fresh* lease and begins as well. The holder's own beats and
        its release have the same trap: a process that was suspended between reading its token and
        writing would overwrite its successor. The lock file is never deleted, because two
        processes could then hold locks on two files of one name.
        """
        handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            # Closing is not enough: a worker forked by another thread meanwhile holds a copy of
            # the handle, and the lock would live until that copy is closed too.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def holder(self, digest: str) -> Holder | None:
        """Return who holds a stage; None when nobody does or the file cannot be understood."""
        return _parse(self._read(digest))

    def acquire(
        self, digest: str, threads: int = 1, cores: int | None = None, most: int | None = None
    ) -> Lease | None:
        """Take a free or stale lease; None while somebody else is at work.

        A waiter asks again and again: that is how it sees whether the beat changes. With
        ``cores`` given, work of several threads also waits until this machine has them free, and
        other work until it is done: threads that meet at a barrier after every small operation
        lose ten times the time as soon as one of them shares its core. Who has asked and waits has
        the next turn: nothing else is begun, or small work would never leave enough cores free.

        Parameters
        ----------
        digest
            Of the stage.
        threads
            Cores the work keeps busy.
        cores
            Those this process may use; None to ask for none.
        most
            Where the work can use more cores than ``threads``: up to how many it is given, of
            those that are free.
        """
        with self.locked():
            text = self._read(digest)
            if text is not None and not self._stale(digest, text, PATIENCE_SECONDS):
                return None
            if cores:
                free = self._free(digest, threads, cores, most or threads)
                if not free:
                    return None
                threads = max(threads, min(most or threads, free))
            self._seen.pop(digest, None)
            holder = Holder.mine(threads)
            self._held[digest] = holder.token
            # The lock makes this exclusive; a rename, because a full disk would otherwise leave
            # an empty lease that names nobody.
            self._replace(digest, holder)
        return Lease(self, digest, holder)

    def let_go(self) -> None:
        """Release whatever is still held.

        For the end after Ctrl-C, which may come between taking a lease and knowing that it is
        taken, and in the middle of a release.
        """
        # It may also come with the lock taken and its block not yet entered; the traceback then
        # keeps the lock, for which this would wait for ever.
        traceback.clear_frames(sys.exc_info()[2])
        with self.locked():
            for digest, token in [*self._held.items()]:  # another thread may release one
                holder = self.holder(digest)
                if holder is not None and holder.token == token:
                    self._path(digest).unlink()
            self._held.clear()

    def tidy(self) -> None:
        """Remove the turns of processes that have died waiting."""
        with self.locked():
            for path in self._folder.glob(".turn-*.json"):
                holder = self.holder(path.stem)
                if holder is None or holder.gone():
                    path.unlink()

    def _free(self, digest: str, threads: int, cores: int, most: int) -> int:
        """Return how many cores work on a stage may have; none when it has to wait."""
        own = f".turn-{digest}"
        turns = self._beside(".turn-*.json", TURN_SECONDS)
        if turns.keys() - {own}:
            return 0
        busy = [holder.threads for holder in self._beside("[!.]*.json", PATIENCE_SECONDS).values()]
        free = cores - sum(busy)
        # Work of one thread each may share cores: whoever starts more of it wants that.
        alike = max(busy, default=1) == most == 1
        if not busy or threads <= free or alike:
            self._path(own).unlink(missing_ok=True)
            return max(free, threads) if busy else max(most, threads)
        waiting = turns.get(own) or Holder.mine(threads)
        self._replace(own, replace(waiting, beat=waiting.beat + 1))
        return 0

    def _beside(self, pattern: str, patience: float) -> dict[str, Holder]:
        """Return who is alive of those with leases (or turns), and shares cores with us."""
        found, mine = {}, set(_cpus())
        for path in self._folder.glob(pattern):
            text = self._read(path.stem)
            holder = _parse(text)
            if holder is None or not holder.here():
                continue
            elsewhere = holder.cpus and mine and not mine & set(holder.cpus)
            # Somebody who is gone or suspended uses no core.
            if not elsewhere and not self._stale(path.stem, text, patience):
                found[path.stem] = holder
        return found

    def _stale(self, digest: str, text: str, patience: float) -> bool:
        holder = _parse(text)
        if holder is not None and holder.gone():
            return True
        now = time.monotonic()
        seen, since = self._seen.get(digest, (None, now))
        if seen != text:
            self._seen[digest] = (text, now)
            return False
        return now - since >= patience

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"

    def _read(self, digest: str) -> str | None:
        try:
            return self._path(digest).read_text()
        except FileNotFoundError:
            return None

    def _replace(self, digest: str, holder: Holder) -> None:
        draft = self._folder / f".{digest}.draft"  # one is enough: writers hold the lock
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(json.dumps(asdict(holder)))
        draft.replace(self._path(digest))


class Lease:
    """A lease held by this process, kept alive by a thread until it is released or lost."""

    def __init__(self, leases: Leases, digest: str, holder: Holder) -> None:
        self._leases, self._digest, self._holder = leases, digest, holder
        self._lost = False
        self._checked = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """Names this holding of the lease."""
        return self._holder.token

    @property
    def threads(self) -> int:
        """Cores that the work was given."""
        return self._holder.threads

    def check(self) -> None:
        """Raise `LeaseLostError` when another worker has taken over."""
        now = time.monotonic()
        if not self._lost and now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._lost = not self._ours()
        if self._lost:
            raise LeaseLostError(self._digest)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Do something that nobody can take over meanwhile; `LeaseLostError` when it is late."""
        with self._leases.locked():
            if not self._ours():
                self._lost = True
                raise LeaseLostError(self._digest)
            yield

    @property
    def lost(self) -> bool:
        """Whether another worker has taken over."""
        self._lost = self._lost or not self._ours()
        return self._lost

    def release(self) -> None:
        """Give the stage back; a lease that was lost is left to its new holder."""
        self._stop.set()
        with contextlib.suppress(LeaseLostError), self.guard():
            self._leases._path(self._digest).unlink()
        self._leases._held.pop(self._digest, None)
        self._thread.join()

    def _ours(self) -> bool:
        holder = self._leases.holder(self._digest)
        return holder is not None and holder.token == self.token

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            # A full disk or a network file system that is away for a moment: the next beat may
            # get through, and if none does a waiter takes over, which is noticed above.
            with contextlib.suppress(OSError):
                try:
                    with self.guard():
                        self._holder = replace(self._holder, beat=self._holder.beat + 1)
                        self._leases._replace(self._digest, self._holder)
                except LeaseLostError:
                    return


def _parse(text: str | None) -> Holder | None:
    try:
        fields = json.loads(text or "")
        return Holder(**{**fields, "cpus": tuple(fields.get("cpus", ()))})
    except (ValueError, TypeError):
        return None
