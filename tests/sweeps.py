"""The same sweep with several executors, and what of its boards has to be the same."""

import re
import subprocess
from pathlib import Path


def boards(folder):
    """Return every file of a board but the costs, and the rows without them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("cost."):
            text = path.read_text()
            if "rows" in path.parts:
                text = re.sub(r'"(\w+_seconds|peak_\w+)": [^,\n]+', r'"\1": 0', text)
            found[str(path.relative_to(folder))] = text
    assert found
    return found


def sweep(ecgcmr, tmp_path, methods, tasks, seeds, executors=("inline", "local")):
    """Run one request with each executor, each in a store of its own; return the boards."""
    asked = ["--method", methods, "--task", tasks, "--seeds", seeds, "--scale", "smoke"]
    made = {}
    for name in executors:
        where = ["--leaderboards", tmp_path / f"{name}-boards", "--executor", name]
        ecgcmr("run", *asked, *where, "--workers", 2, store=tmp_path / name, timeout=3000)
        made[name] = boards(tmp_path / f"{name}-boards")
    return made


def slurm_is_here():
    """Whether the SLURM of .ci/slurm runs: tests kill its jobs and its node, and no other's."""
    config = Path("/etc/slurm/slurm.conf")
    if not config.exists() or "ClusterName=ecgcmr-test" not in config.read_text():
        return False
    asked = ["sinfo", "--noheader", "--states=idle,alloc,mix"]
    try:
        done = subprocess.run(asked, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return bool(done.stdout.strip())
