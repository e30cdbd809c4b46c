"""Why SLURM leaves a job pending: the reasons that do not pass by themselves, and what to change.

After the job reason codes of SLURM's manual, https://slurm.schedmd.com/job_reason_codes.html.
Limits for a user or a group pass as other jobs end; those for one job, or one node, do not.
"""

from __future__ import annotations

import re

_TIME = "with less --slurm time=, or another partition or qos"
_OTHERS = "with another --slurm partition= or qos="
_RULES = (
    (r"PartitionTimeLimit|\w*WallDurationPerJob\w*|\w*MinutesPerJob\w*", _TIME),
    (r"(QOS|Assoc)MaxCpuPer(Job|Node)\w*", "with fewer --slurm cpus-per-task="),
    (r"(QOS|Assoc)MaxMem(ory)?Per(Job|Node)\w*|MaxMemPerLimit", "with less --slurm mem="),
    (r"(QOS|Assoc)MaxGRESPer(Job|Node)\w*", "with another --slurm device.gres=, or --device cpu"),
    (r"(QOS|Assoc)Max\w+Per(Job|Node)(Limit)?|QOSMin\w+", _OTHERS),
    (r"Partition(Config|Down|Inactive|NodeLimit)", "with another --slurm partition="),
    (r"BadConstraints", "with another --slurm constraint=, nodelist= or partition="),
    (r"AccountNotAllowed|InvalidAccount", "with another --slurm account="),
    (r"QOSNotAllowed|InvalidQOS", "with another --slurm qos="),
    (r"ReservationDeleted", "with another --slurm reservation="),
)
_HELD = re.compile(r"JobHeld\w+|JobHoldMaxRequeue|.*held.*", re.IGNORECASE)


def advice(reason: str, jobs: str) -> str:
    """Return what to do about jobs that wait for a reason; empty where it passes by itself.

    Parameters
    ----------
    reason
        As squeue names it.
    jobs
        Their ids, as scancel and scontrol take them.
    """
    if _HELD.fullmatch(reason):
        return f"scontrol release {jobs.replace(' ', ',')} lets them begin"
    for pattern, change in _RULES:
        if re.fullmatch(pattern, reason):
            return f"scancel --state=PENDING {jobs}, and repeat the command {change}"
    return ""
