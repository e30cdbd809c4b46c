from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import toy
from programs import say
from steps import Deadly, Device, Failing, Pooled, Resumed, Step, Wide, journal
from sweeps import slurm_is_here, sweep

from benchmark.api import UserError
from benchmark.cli import main
from benchmark.engine.executors import inline, jobs, slurm
from benchmark.engine.executors.commands import bundles
from benchmark.engine.executors.resources import Resources, Settings, _minutes
from benchmark.engine.progress import Outcome, Report, Reporter
from benchmark.engine.store import Store
from benchmark.evaluation.embed import Embed
from benchmark.registry import registry
from benchmark.runner import bring
from benchmark.stage import topological
from benchmark.status import status
from benchmark.status import text as status_text

with_slurm = pytest.mark.skipif(
    not slurm_is_here(), reason="there is no SLURM of .ci/slurm here (Debian, as root, starts one)"
)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(slurm, "POLL_SECONDS", (0.2, 0.5))
    yield Store()
    left = [job["job"] for job in jobs.queued(Store())]
    if left:
        subprocess.run(["scancel", *left], check=True)


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "journal"
    path.touch()
    return str(path)


def do(store, *targets, **settings):
    stream = io.StringIO()
    settings = {"device": "cpu", "reporter": Reporter(stream), **settings}
    return slurm.execute(targets, store, **settings), stream.getvalue()


def value(store, stage):
    return int((Store(store.root).open(stage) / "value").read_text())


def tangle(notes, count=4, seconds=0.2):
    """Return a stage that stands on several others that stand on one."""
    base = Step(key="base", journal=notes)
    middle = [
        Step(key=f"m{n}", journal=notes, terms=(base,), seconds=seconds) for n in range(count)
    ]
    return Step(key="top", journal=notes, terms=tuple(middle))


def keys(notes):
    return sorted(note["key"] for note in journal(notes))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def at_work(store):
    """Return the processes that are at work on a stage."""
    holders = (store.holder(digest) for digest in store.held())
    return [holder.pid for holder in holders if holder is not None]


# ------------------------------------------------------------------------------- what is run


@with_slurm
def test_jobs_make_everything_once_and_report_as_inline_does(store, notes, tmp_path):
    (tmp_path / "obstacle").touch()
    bad = Failing(key="bad", journal=notes, obstacle=str(tmp_path / "obstacle"))
    blocked = Step(key="blocked", journal=notes, terms=(bad,))
    top = tangle(notes)
    there, text = do(store, top, blocked)
    assert value(store, top) == 9
    assert keys(notes) == sorted([*(s.key for s in topological([top])), "bad"])
    assert os.getpid() not in {note["pid"] for note in journal(notes)}
    assert "submitted 3 jobs for 8 stages" in text
    assert "step bad failed: RuntimeError: an obstacle" in text
    assert not there.ok
    assert not there.queued
    here = inline.execute([top, blocked], Store(tmp_path / "inline"), train=None, device="cpu")
    for kind in ("ran", "found", "failed", "blocked"):
        named = [
            {(outcome.digest, outcome.label, outcome.message) for outcome in getattr(report, kind)}
            for report in (here, there)
        ]
        assert named[0] == named[1], kind


@with_slurm
def test_who_comes_back_finds_the_jobs_and_a_job_whose_time_is_up_goes_on(store, notes):
    step = Resumed(key="long", journal=notes, seconds=2.5)
    report, text = do(store, step, detach=True)
    assert report.ok
    assert [outcome.label for outcome in report.queued] == ["step long"]
    assert "scancel" in text
    _, text = do(store, step, detach=True)
    assert "SLURM has 1 jobs for this already" in text
    (queued,) = jobs.queued(store)
    assert queued["stages"] == [step.digest]
    assert f"SLURM's jobs {queued['job']}: 1 " in status_text(status(store))
    wait_for(lambda: list(store.root.glob("work/*/resume/step")))
    (worker,) = at_work(store)
    subprocess.run(["scancel", "--signal=USR2", queued["job"]], check=True)  # time is nearly up
    wait_for(lambda: not psutil.pid_exists(worker))
    assert not list(store.held()), "it has given its stage back"
    report, text = do(store, step)
    assert "SLURM has 1 jobs for this already" in text
    assert "submitted" not in text
    assert report.ok
    first, second = (note["first"] for note in journal(notes))
    assert first == 0 < second
    assert not list((store.root / "slurm").iterdir()), "files of what is done are removed"


@with_slurm
def test_what_slurm_refuses_is_said(store, notes):
    step = Step(key="one", journal=notes)
    with pytest.raises(UserError, match=r"SLURM refuses the job: .*feature"):
        do(store, step, options=["constraint=none-such"])
    with pytest.raises(UserError, match="no partition 'none-such'"):
        do(store, step, options=["partition=none-such"])
    assert not list((store.root / "slurm").glob("*"))


class Obedient(io.StringIO):
    """Does what the message says one could."""

    def write(self, text):
        if "does not pass by itself: " in text:
            todo = text.partition("does not pass by itself: ")[2].partition(" lets")[0]
            subprocess.run(shlex.split(todo), check=True)
        return super().write(text)


@with_slurm
def test_jobs_that_will_not_begin_are_named_with_what_to_do(store, notes):
    step = Step(key="held", journal=notes)
    stream = Obedient()
    report, _ = do(store, step, options=["hold"], reporter=Reporter(stream))
    assert report.ok
    assert stream.getvalue().count("(JobHeldUser), which does not pass by itself: scontrol") == 1


@pytest.mark.nightly
@with_slurm
def test_devices_of_one_job_share_a_training_and_the_costs_say_so(store):
    method = toy.ToyLabelled(
        cohort=toy.COHORT, seed=0, fraction=1.0, task=registry().task("phenotype")
    )
    embedding = Embed(method=method)
    report, text = do(store, embedding, devices=2)
    assert report.ok
    assert "x1: 2 cores, 30 min, 8G" in text
    store = Store(store.root)
    assert json.loads((store.open(method) / "history.json").read_text())["devices"] == 2
    assert [store.manifest(s.digest)["devices"] for s in (method, embedding)] == [2, None]


# ------------------------------------------------------------------------------ what goes wrong


@pytest.mark.nightly
@with_slurm
def test_ctrl_c_leaves_the_jobs(store, notes, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    stream = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(slurm._Watch, "_wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            slurm.execute([tangle(notes)], store, device="cpu", reporter=Reporter(stream))
    assert "interrupted: SLURM goes on without this command" in stream.getvalue()
    wait_for(lambda: store.has(tangle(notes).digest))
    report, _ = do(store, tangle(notes))
    assert [len(report.ran), len(report.found)] == [0, 6]


@pytest.mark.nightly
@with_slurm
def test_a_lost_job_takes_no_other_with_it(store, notes):
    # Its worker is killed in its own job, and in the one after it, which needs it and makes it.
    deadly = Deadly(key="deadly", journal=notes, times=2)
    beside = Wide(key="beside", journal=notes, seconds=0.2)
    top = Step(key="top", journal=notes, terms=(deadly, beside))
    report, text = do(store, top)
    assert report.ok
    assert value(store, top) == 3
    assert keys(notes).count("deadly") == 4, "two deaths, one go, and the note of it"
    assert keys(notes).count("beside") == 1
    assert "has ended without step deadly: once more" in text


@pytest.mark.nightly
@with_slurm
def test_a_stage_that_costs_every_job_fails(store, notes):
    deadly = Deadly(key="deadly", journal=notes, times=99)
    top = Step(key="top", journal=notes, terms=(deadly,))
    report, text = do(store, deadly, top)
    assert [outcome.label for outcome in report.failed] == ["step deadly"]
    assert "has ended without it, as 3 have" in report.failed[0].message
    assert [outcome.label for outcome in report.blocked] == ["step top"]
    # Each time a job asks for twice as much, since that is what is mostly missing.
    assert text.index("30 min") < text.index("60 min") < text.index("120 min")


@pytest.mark.nightly
@with_slurm
def test_a_cancelled_job_is_not_submitted_again(store, notes):
    step = Step(key="slow", journal=notes, seconds=60)
    do(store, step, detach=True)
    wait_for(lambda: at_work(store))
    (queued,) = jobs.queued(store)
    subprocess.run(["scancel", queued["job"]], check=True)
    report, _ = do(store, step)
    assert [outcome.label for outcome in report.failed] == ["step slow"]
    assert "(cancelled) was ended by somebody" in report.failed[0].message
    assert not list(store.held())


@pytest.mark.nightly
@with_slurm
def test_a_node_that_is_lost_mid_job(store, notes):
    step = Step(key="slow", journal=notes, seconds=8)
    do(store, step, detach=True)
    wait_for(lambda: at_work(store))
    (worker,) = at_work(store)
    # All there is of the node dies at once, as when its power fails.
    daemon = psutil.Process(int(Path("/run/slurmd.pid").read_text()))
    steps = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "slurmstepd"]
    tree = [child for step in steps for child in step.children(recursive=True)]
    assert worker in {process.pid for process in tree}
    for process in (daemon, *steps, *tree):
        process.kill()
    wait_for(
        lambda: subprocess.run(["sinfo", "-ho", "%t"], capture_output=True).stdout[:4] == b"down"
    )
    subprocess.run(["slurmd"], check=True)
    report, _ = do(store, step)
    assert report.ok
    assert value(store, step) == 1
    assert len(journal(notes)) == 1, "the lost attempt had not come to its end"


@pytest.mark.nightly
@with_slurm
def test_a_job_that_is_preempted_goes_on_later(store, notes):
    step = Resumed(key="slow", journal=notes, seconds=5.0)
    do(store, step, detach=True)
    wait_for(lambda: list(store.root.glob("work/*/resume/step")))
    urgent = ["--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(["sbatch", *urgent], check=True)
    report, text = do(store, step)
    assert report.ok
    assert "submitted" not in text
    first, second = (note["first"] for note in journal(notes))
    assert first == 0 < second


@pytest.mark.nightly
@with_slurm
def test_time_that_runs_out_is_followed_by_more(store, notes):
    # SLURM gives notice 90 s before the two minutes are over, give or take half a minute.
    step = Resumed(key="slow", journal=notes, seconds=100.0)
    report, _ = do(store, step, options=["time=2"])
    assert report.ok
    firsts = [note["first"] for note in journal(notes)]
    assert len(firsts) > 1
    assert firsts == sorted(set(firsts))


@pytest.mark.nightly
@with_slurm
def test_boards_are_the_inline_executors(ecgcmr, tmp_path):
    made = sweep(ecgcmr, tmp_path, "random-init", "retrieval", 1, ["inline", "slurm"])
    assert made["slurm"] == made["inline"]


# ------------------------------------------------------------------- what needs no SLURM to try


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Make programs that say what SLURM's would."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return partial(say, folder)


GPU_NODES = "gpu*|64|256000|1-00:00:00|gpu:a100:4\nlong|128+|512000|infinite|(null)"


def asked(programs, store, wave, options=(), device="auto", lost=None, nodes=GPU_NODES, devices=1):
    programs("sinfo", nodes)
    (jobs_of_wave,) = bundles(wave, store, devices)
    resources = Resources(Settings.parse(options), device, devices)
    return {
        tuple(getattr(stage, "key", "") for bundle in group for stage in bundle.stages): asked
        for asked, group in resources.grouped(jobs_of_wave, lost or {})
    }


def test_jobs_ask_for_what_their_stages_need(store, programs):
    wave = [Step(key="small"), Wide(key="wide"), Pooled(key="pool"), Device(key="train")]
    found = asked(programs, store, wave, ["device.time=2:00:00", "cpu.partition=long", "qos=low"])
    assert [found[(key,)].cpus for key in ("small", "wide", "pool", "train")] == [1, 2, 8, 1]
    small, train = found[("small",)], found[("train",)]
    assert small.options == {"cpus_per_task": 1, "mem": "4G", "partition": "long", "qos": "low"}
    assert small.worker[:2] == ["--device", "cpu"]
    assert "--only" in small.worker, "nothing is trained where no GPU was asked for"
    assert train.options == {"cpus_per_task": 1, "mem": "16G", "gres": "gpu:1", "qos": "low"}
    assert train.worker == ["--device", "cuda", "--workers", "1"]
    assert [small.minutes, train.minutes] == [30, 120]


def shared(programs, store, options=(), **settings):
    """Return what a training, and what is done beside it on one device, ask for."""
    wave = [Device(key="embed"), toy.ToyMethod(cohort=toy.COHORT, seed=0, recipe=toy.QUICK)]
    found = asked(programs, store, wave, options, devices=2, **settings)
    return found[("",)], found[("embed",)]


def test_a_training_asks_for_the_gpus_that_share_it_and_nothing_else_does(store, programs):
    train, embed = shared(programs, store)
    assert train.options == {"cpus_per_task": 4, "mem": "32G", "gres": "gpu:2"}
    assert train.worker == ["--device", "cuda", "--workers", "4", "--devices", "2"]
    assert embed.options == {"cpus_per_task": 1, "mem": "16G", "gres": "gpu:1"}
    assert "--devices" not in embed.worker


@pytest.mark.parametrize(
    ("option", "train", "embed"),
    [
        ("gres=gpu:a100:1", "gpu:a100:2", "gpu:a100:1"),
        ("gres=gpu:a100,lustre:1", "gpu:a100:2,lustre:1", "gpu:a100,lustre:1"),
        ("gpus=4", "4", "4"),
        ("gpus_per_node=a100", "a100:2", "a100"),
    ],
)
def test_options_of_the_user_name_the_kind_of_gpu(store, programs, option, train, embed):
    name = option.partition("=")[0]
    found = shared(programs, store, [f"device.{option}"])
    assert [one.options[name] for one in found] == [train, embed]


def test_processes_that_share_a_training_ask_for_their_cores(store, programs):
    train, embed = shared(programs, store, device="cpu")
    assert train.options == {"cpus_per_task": 2, "mem": "8G"}
    assert train.worker == ["--device", "cpu", "--workers", "2", "--devices", "2"]
    assert embed.options == {"cpus_per_task": 1, "mem": "4G"}
    assert "--devices" not in embed.worker


@pytest.mark.parametrize(
    ("nodes", "device", "there"),
    [
        ("a*|8|64000|1-0|gpu:a100:1(S:0,1)\na*|8|64000|1-0|gpu,lustre:9", "auto", "1 GPUs"),
        ("a*|8|64000|infinite|(null)", "auto", "0 GPUs"),
        ("a*|1|64000|infinite|gpu:8", "cpu", "1 cores"),
    ],
)
def test_nodes_that_are_too_small_are_told_before_anything_is_submitted(
    store, programs, nodes, device, there
):
    for name, said in (("sinfo", nodes), ("squeue", ""), ("sbatch", "Submitted batch job 9")):
        programs(name, said)
    method = toy.ToyMethod(cohort=toy.COHORT, seed=0, recipe=toy.QUICK)
    with pytest.raises(UserError, match=f"--devices is 2, and the largest node has {there};"):
        do(store, method, device=device, devices=2)
    assert not (store.root / "slurm").exists()
    programs("sinfo", "b*|8|64000|infinite|gpu:a100:1,gpu:v100:1(IDX:0-1)")
    Resources(Settings.parse([]), "auto", 2)


def test_options_of_the_environment_hold_unless_others_are_given(store, programs, monkeypatch):
    for name, value in (("ACCOUNT", "ours"), ("PARTITION", "gpu"), ("TIMELIMIT", "1")):
        monkeypatch.setenv(f"SBATCH_{name}", value)
    (one,) = asked(programs, store, [Step(key="s")], ["partition=long"]).values()
    assert one.options["account"] == "ours"
    assert one.options["partition"] == "long"
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1")
    with jobs._clean_environment():
        seen = {name for name in os.environ if name.startswith(("SBATCH_", "SLURM_"))}
    assert seen == {"SLURM_CONF"}, "what would stand above a job's own options is hidden"
    assert os.environ["SBATCH_ACCOUNT"] == "ours"


def test_no_memory_is_asked_for_where_slurm_does_not_know_of_any(store, programs):
    (one,) = asked(programs, store, [Step(key="s")], nodes="all*|4|1|infinite|(null)").values()
    assert "mem" not in one.options


def test_jobs_without_a_gpu_make_everything(store, programs):
    wave = [Step(key="small"), Device(key="train")]
    for settings in ({"device": "cpu"}, {"nodes": "all*|4|7000|infinite|(null)"}):
        found = asked(programs, store, wave, **settings)
        for one in found.values():
            assert not {"gres", "gpus"} & one.options.keys()
            assert "--only" not in one.worker


def test_long_work_and_work_that_was_lost_ask_for_more_within_the_partition(store, programs):
    hours = [Step(key=f"h{n}", seconds=3600.0 * n) for n in (1, 2, 20)]
    found = asked(programs, store, hours)
    minutes = [found[(f"h{n}",)].minutes for n in (1, 2, 20)]
    assert minutes == [240, 480, 24 * 60], "three times as long, in steps of two, at most a day"
    step = Step(key="lost")
    for lost, memory in ((1, "8G"), (2, "16G"), (9, "250G")):
        (one,) = asked(programs, store, [step], lost={step.digest: lost}).values()
        assert one.options["mem"] == memory
    (one,) = asked(programs, store, [step], ["mem=1G"], lost={step.digest: 2}).values()
    assert one.options["mem"] == "1G", "as the user says"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 91), ("1:30:00", 90), ("2-12", 3600), ("2-0:30", 2910), ("0:10", 1)],
)
def test_times_are_read_as_slurm_does(text, minutes):
    assert _minutes(text) == minutes


@pytest.mark.parametrize(
    "option", ["array=1-3", "gpu.mem=4G", "Mem 4", "mem=", "time=soon", "--output=x", "=3"]
)
def test_options_that_are_none_are_refused(option):
    with pytest.raises(UserError, match=r"--slurm|no time of SLURM"):
        Settings.parse([option])


def test_a_scheduler_that_does_not_answer_has_lost_nothing(store, programs):
    programs("squeue", code=1)
    assert jobs.states() is None
    programs("squeue", "CLUSTER: a\n7_1|RUNNING|None|ecgcmr-a\n8|PENDING|a|b|ecgcmr-c|d")
    found = jobs.states()
    assert found["ecgcmr-a", "7_1"] == jobs.State("RUNNING", "None")
    submission = jobs.Submission(store.root / "slurm" / "a", jobs={"7_1": ["x"], "7_2": ["y"]})
    assert list(submission.live(found)) == ["7_1"]
    other = jobs.Submission(store.root / "slurm" / "b", jobs={"7_1": ["x"]})
    assert not other.live(found), "an id that a cluster set up anew gives again is another job"


def test_nothing_is_submitted_or_removed_while_squeue_is_silent(store, programs, notes):
    step = Step(key="one", journal=notes)
    folder = store.root / "slurm" / "a"
    folder.mkdir(parents=True)
    jobs.Submission(folder, jobs={"7": [step.digest]}).save()
    programs("sinfo", GPU_NODES)
    programs("squeue", code=1)
    programs("sbatch", "Submitted batch job 9")
    with pytest.raises(UserError, match="SLURM does not answer"):
        do(store, step)
    assert [path.name for path in folder.parent.iterdir()] == ["a"]
    assert "SLURM's jobs 7: 1 unknown (SLURM does not answer here)" in status_text(status(store))
    inline.execute([step], store, train=None, device="cpu")
    jobs.tidy(store)
    assert folder.exists()
    programs("squeue", "7|PENDING|Priority|ecgcmr-a")
    jobs.tidy(store)
    assert folder.exists(), "its job is still to come"
    programs("squeue")
    jobs.tidy(store)
    assert not folder.exists()


def test_what_is_queued_is_not_asked_for_again(store, monkeypatch):
    calls = []

    def execute(targets, *_, **__):
        calls.append(targets)
        return Report(queued=[Outcome(stage.label, stage.digest) for stage in targets])

    monkeypatch.setattr(slurm, "execute", execute)
    assert bring([Step(key="one")], store, executor="slurm", detach=True).ok
    assert len(calls) == 1


@pytest.fixture
def ctrl_c():
    """Whoever runs tests in the background has made them deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_until_jobs_are_written_down(ctrl_c):
    written = []

    def work():
        with slurm._undivided():
            os.kill(os.getpid(), signal.SIGINT)
            # As sbatch, which a terminal tells too.
            child = subprocess.run(["sh", "-c", "kill -INT $$; echo on"], capture_output=True)
            written.append(child.stdout)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert written == [b"on\n"]


@pytest.mark.parametrize(
    ("reason", "option"),
    [
        ("PartitionTimeLimit", "--slurm time="),
        ("QOSMaxWallDurationPerJobLimit", "--slurm time="),
        ("AssocMaxCpuMinutesPerJobLimit", "--slurm time="),
        ("QOSMaxCpuPerJobLimit", "--slurm cpus-per-task="),
        ("QOSMaxMemoryPerJob", "--slurm mem="),
        ("MaxMemPerLimit", "--slurm mem="),
        ("AssocMaxGRESPerNode", "--slurm device.gres="),
        ("QOSMaxNodePerJobLimit", "qos="),
        ("QOSMinGRES", "qos="),
        ("PartitionConfig", "--slurm partition="),
        ("BadConstraints", "--slurm constraint="),
        ("InvalidAccount", "--slurm account="),
        ("InvalidQOS", "--slurm qos="),
        ("JobHeldAdmin", "scontrol release 7,8 "),
        ("launch_failed_requeued_held", "scontrol release 7,8 "),
    ],
)
def test_reasons_that_do_not_pass_come_with_the_option_to_change(reason, option):
    (line,) = jobs.stuck([("7_1", reason), ("7_2", reason), ("8", reason), ("9", "Resources")])
    assert line.startswith(f"SLURM does not begin 3 of the jobs ({reason})")
    assert option in line
    assert "release" in line or "scancel --state=PENDING 7 8, and" in line


@pytest.mark.parametrize(
    "reason",
    [
        *("None", "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit"),
        *("QOSMaxJobsPerUserLimit", "QOSMaxCpuPerUserLimit", "AssocGrpCpuLimit", "Reservation"),
        *("AssocMaxJobsLimit", "MaxGRESPerAccount", "ReqNodeNotAvail,_UnavailableNodes:n1"),
    ],
)
def test_reasons_that_pass_by_themselves_are_no_trouble(reason):
    assert jobs.stuck([("7", reason)]) == []


def test_without_slurm_the_command_says_so(store, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no SLURM here"):
        do(store, Step(key="one"))
    asked = ["run", "--method", "random-init", "--task", "retrieval", "--detach"]
    assert main(asked) == 2
    assert "add that, or leave them out" in capsys.readouterr().err
