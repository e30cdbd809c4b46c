"""What jobs ask SLURM for: cores, memory, time and GPUs, from what stages say of themselves."""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.api import UserError
from benchmark.engine.executors.commands import Bundle
from benchmark.engine.executors.inline import KINDS
from benchmark.names import suggestion

SLACK = 3.0
"""Time asked for, in multiples of the estimate, which may come from a faster machine."""
LEAST_MINUTES = 30
POOL_CORES = 8
"""Cores for what spreads over as many as it is given."""
GB_PER_CORE = 4
DEVICE_GB = 16
PATIENCE = 600.0
"""How long a job without a GPU waits for somebody with one to make what it needs."""
OWN = ("array", "comment", "dependency", "error", "open_mode", "output", "requeue", "signal")
"""What the executor sets itself."""
FROM_ENVIRONMENT = ("account", "constraint", "partition", "qos", "reservation")
"""Options that a user may have set for all jobs, as ``SBATCH_ACCOUNT``."""
GPU_OPTIONS = frozenset({"gres", "gpus", "gpus_per_node", "gpus_per_task", "gpus_per_socket"})


@dataclass(frozen=True)
class Settings:
    """Options of sbatch, by kind of job: empty for all, else one of `KINDS`."""

    by_kind: Mapping[str, Mapping[str, Any]]

    @classmethod
    def parse(cls, options: Sequence[str]) -> Settings:
        """Read ``partition=long``, ``device.gres=gpu:a100:1`` or ``exclusive``.

        Raises
        ------
        UserError
            When it is no option, or one that the executor sets itself.
        """
        found: dict[str, dict[str, Any]] = {kind: {} for kind in ("", *KINDS)}
        given_before = {name: os.environ.get(f"SBATCH_{name.upper()}") for name in FROM_ENVIRONMENT}
        found[""] = {name: value for name, value in given_before.items() if value}
        for text in options:
            key, given, value = text.partition("=")
            kind, _, name = key.strip().rpartition(".")
            if kind not in found:
                raise UserError(
                    f"--slurm {text!r} is for no kind of job; {suggestion(kind, KINDS)}"
                )
            name = name.lstrip("-").replace("-", "_")
            if not re.fullmatch(r"[a-z][a-z_]*", name) or (given and not value):
                raise UserError(f"--slurm {text!r}: write KEY=VALUE, as of sbatch --KEY=VALUE")
            if name in OWN:
                raise UserError(f"--slurm {name} cannot be set: this command does it itself")
            found[kind][name] = value if given else True
            if name == "time":
                _minutes(value)
        return cls(found)

    def of(self, kind: str) -> dict[str, Any]:
        """Return the options of one kind of job."""
        return {**self.by_kind[""], **self.by_kind[kind]}


@dataclass(frozen=True)
class Asked:
    """What each job of an array asks for.

    Attributes
    ----------
    cpus, minutes
        Cores and time.
    options
        Of sbatch, without the time.
    setup
        Lines of shell that come first.
    worker
        Options of the worker.
    """

    cpus: int
    minutes: int
    options: Mapping[str, Any]
    setup: Sequence[str]
    worker: Sequence[str]

    def __str__(self) -> str:
        """Return it for people."""
        parts = [f"{self.cpus} {'core' if self.cpus == 1 else 'cores'}", f"{self.minutes} min"]
        known = sorted(self.options.keys() & ({"mem", "partition"} | GPU_OPTIONS))
        return ", ".join([*parts, *(str(self.options[name]) for name in known)])


class Resources:
    """What there is in a cluster, and what jobs ask for of it.

    Parameters
    ----------
    settings
        The user's.
    device
        ``auto``, ``cpu`` or ``cuda``.
    devices
        How many of them, of one node, share the training of one stage.

    Raises
    ------
    UserError
        When no node has as many.
    """

    def __init__(self, settings: Settings, device: str, devices: int = 1) -> None:
        self._settings, self._device, self.devices = settings, device, devices
        self._nodes = {kind: _nodes(settings.of(kind).get("partition")) for kind in KINDS}
        asked = GPU_OPTIONS & settings.of("device").keys()
        self.gpus = device == "cuda" or (
            device == "auto" and bool(asked or self._nodes["device"].gpus)
        )
        """Whether jobs ask for a GPU, for what is done on a device."""
        nodes = self._nodes["device"]
        there, what, way = nodes.gpus, "GPUs", ", or have processes share it with --device cpu"
        if device == "cpu":
            there, what, way = nodes.cpus, "cores", ""
        if 1 < devices > there:
            raise UserError(
                f"--devices is {devices}, and the largest node has {there} {what}; ask for fewer, "
                f"or name another partition with --slurm device.partition=NAME{way}"
            )

    def grouped(
        self, wave: Sequence[Bundle], lost: Mapping[str, int]
    ) -> Iterator[tuple[Asked, list[Bundle]]]:
        """Yield the jobs of a wave by what they ask for.

        Parameters
        ----------
        wave
            Jobs.
        lost
            How many jobs a stage has cost already, by digest: too little memory and too little time
            are the usual reasons, so the next job asks for twice as much.
        """
        groups: dict[Any, tuple[Asked, list[Bundle]]] = {}
        for bundle in wave:
            losses = max(lost.get(stage.digest, 0) for stage in bundle.stages)
            asked = self._asked(bundle, losses)
            key = (bundle.on_device, bundle.devices, asked.cpus, asked.minutes, losses)
            groups.setdefault(key, (asked, []))[1].append(bundle)
        yield from groups.values()

    def _asked(self, bundle: Bundle, losses: int) -> Asked:
        kind = KINDS[bundle.on_device]
        own, nodes = self._settings.of(kind), self._nodes[kind]
        gpu = self.gpus and bundle.on_device
        several = bundle.devices
        cpus = min(max(bundle.cores(gpu), POOL_CORES if bundle.pools else 1), nodes.cpus)
        cpus = int(own.get("cpus_per_task", cpus))
        options: dict[str, Any] = {"cpus_per_task": cpus}
        if nodes.gigabytes and not own.keys() & {"mem", "mem_per_cpu", "mem_per_gpu"}:
            memory = 2**losses * (DEVICE_GB * several if gpu else GB_PER_CORE * cpus)
            options["mem"] = f"{min(memory, nodes.gigabytes)}G"
        if gpu and not own.keys() & GPU_OPTIONS:
            options["gres"] = f"gpu:{several}"
        elif gpu and several > 1:
            own |= {n: _at_least(several, n, str(own[n])) for n in GPU_OPTIONS & own.keys()}
        # In steps of two, so that a wave is a few arrays; no more than the partition allows, since
        # what is cut off goes on.
        steps = math.ceil(math.log2(max(1.0, SLACK * bundle.seconds / 60 / LEAST_MINUTES)))
        minutes = min(LEAST_MINUTES * 2 ** (steps + losses), nodes.minutes)
        minutes = _minutes(own.pop("time")) if "time" in own else minutes
        device = ("cuda" if gpu else "cpu") if self.gpus else self._device
        worker = ["--device", device, "--workers", str(cpus)]
        worker += ["--devices", str(several)] if several > 1 else []
        if self.gpus and not gpu:
            # What is lost on a GPU is not made up for without one.
            worker += ["--only", "cpu", "--patience", str(PATIENCE)]
        setup = [own.pop("setup")] if "setup" in own else []
        return Asked(cpus, minutes, options | own, setup, worker)


@dataclass(frozen=True)
class _Nodes:
    """The largest there is of everything in a partition; no memory where SLURM does not know it."""

    cpus: int
    gigabytes: int
    minutes: int
    gpus: int


def _nodes(partition: str | None) -> _Nodes:
    """Ask SLURM what a partition, by default its default one, has.

    Raises
    ------
    UserError
        When it does not answer, or knows no such partition.
    """
    command = ["sinfo", "--noheader", "--exact", "--format=%P|%c|%m|%l|%G"]
    command += [f"--partition={partition}"] if partition else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        raise UserError(f"SLURM does not answer: {said}") from None
    rows = [line.strip().split("|", 4) for line in done.stdout.splitlines()]
    rows = [row for row in rows if partition or row[0].endswith("*")] or rows
    if not rows:
        raise UserError(f"SLURM has no partition {partition!r}; sinfo shows those there are")
    return _Nodes(
        max(_number(row[1]) for row in rows),
        max(_number(row[2]) for row in rows) // 1024,
        min(_minutes(row[3]) for row in rows),
        max(_gpus(row[4]) for row in rows),
    )


def _gpus(text: str) -> int:
    """Return how many GPUs ``gpu:a100:4(S:0-1),lustre:1`` of a node are."""
    items = map(_counted, re.sub(r"\([^)]*\)", "", text).split(","))
    return sum(number for name, number in items if name.partition(":")[0] == "gpu")


def _counted(item: str) -> tuple[str, int]:
    """Split ``gpu:a100:4`` or ``4``; without a number one is meant."""
    name, _, count = item.rpartition(":")
    return (name, int(count)) if count.isdigit() else (item, 1)


def _at_least(number: int, option: str, asked: str) -> str:
    """Return what asks for so many GPUs, of the kind that an option of sbatch names."""
    items = []
    for item in asked.split(","):
        name, own = _counted(item)
        other = option == "gres" and name.partition(":")[0] != "gpu"
        items.append(item if other else f"{name}:{max(number, own)}".lstrip(":"))
    return ",".join(items)


def _number(text: str) -> int:
    return int(re.match(r"\d+", text)[0])  # 128+ where nodes differ


def _minutes(text: str) -> int:
    """Return the minutes that ``90``, ``90:00``, ``1:30:00`` or ``2-12`` are, as SLURM reads them.

    Raises
    ------
    UserError
        When it is no time.
    """
    if text.lower() in ("infinite", "unlimited"):
        return 366 * 24 * 60
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise UserError(f"time={text!r} is no time of SLURM's; write 90, 12:00:00 or 2-00:00:00")
    days, *rest = (int(part or 0) for part in match.groups())
    if match[1] is not None or match[4] is not None:  # [days-]hours:minutes:seconds
        hours, minutes, seconds = rest
    else:  # minutes:seconds
        hours, (minutes, seconds) = 0, rest[:2]
    return max(1, days * 24 * 60 + hours * 60 + minutes + math.ceil(seconds / 60))
