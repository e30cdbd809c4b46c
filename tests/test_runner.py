"""From a request to jobs."""

from dataclasses import replace

import pytest

from benchmark.api import UserError
from benchmark.evaluation.separate import Assembled
from benchmark.planning import Request, expand, jobs_of, plan, why_not
from benchmark.recording import board_folder, board_of
from benchmark.registry import registry
from benchmark.stage import topological


def request(methods, tasks, **more):
    return Request(methods=tuple(methods), tasks=tuple(tasks), scale="smoke", **more)


def test_expand():
    assert expand("mae, ptacl,mae", "method") == ("mae", "ptacl")
    assert set(expand("references", "method")) == {
        *("random-init", "supervised", "tabular", "ecg-features"),
        *("cmr-supervised", "cmr-mae", "cmr-simclr", "cmr-random-init"),
    }
    assert "cmr-swin" not in expand("all", "method"), "it belongs to another track"
    assert set(expand("all", "task")) == {
        *("cvd", "cvd-as-coded", "retrieval", "demographics", "demographics-sex"),
        *("phenotype", "phenotype-global13", "phenotype-sax61", "phenotype-all82"),
        *("reconstruction", "temporal-alignment", "localisation"),
    }


def test_jobs_of_a_two_tower_method():
    jobs = plan(request(["ptacl"], ["retrieval"])).jobs
    assert [(job.head, job.modality) for job in jobs] == [("none", "ecg"), ("none", "ecg-cmr")]


def test_jobs_per_fraction_and_replicate():
    jobs = plan(request(["mae"], ["cvd"], replicates=3, fractions=(1.0, 0.1))).jobs
    assert [(job.replicate, job.fraction) for job in jobs] == [
        *((0, 1.0), (0, 0.1), (1, 1.0), (1, 0.1), (2, 1.0), (2, 0.1))
    ]
    assert len({job.score.digest for job in jobs}) == 6


def test_heads_that_methods_are_tied_to():
    names = ("supervised", "cmr-supervised", "cmr-mae", "eccl-wo-cl", "tabular", "mae")
    jobs = {m: plan(request([m], ["cvd"])).jobs[0] for m in names}
    assert {m: (job.head, job.modality) for m, job in jobs.items()} == {
        "supervised": ("finetune", "ecg"),
        "cmr-supervised": ("finetune", "cmr"),
        "cmr-mae": ("linear", "cmr"),
        "eccl-wo-cl": ("finetune", "ecg"),
        "tabular": ("xgboost", "covariates"),
        "mae": ("linear", "ecg"),
    }
    assert len(plan(request(["supervised"], ["cvd"])).jobs) == 1, "fine-tuned at 100% only"


def test_supervised_has_nothing_to_retrieve_with():
    found = plan(request(["supervised"], ["retrieval"]))
    assert not found.jobs
    assert found.not_applicable == [
        "supervised on retrieval: it exists fine-tuned only, without features of its own"
    ]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("tabular", "demographics", {}), "its covariates hold what is to be predicted"),
        (("tabular", "demographics-sex", {}), "its covariates hold what is to be predicted"),
        (("supervised", "cvd", {"fractions": (0.1,)}), "at smoke it is fine-tuned on all labels"),
        (("mae", "cvd", {"modality": "cmr"}), "it has no encoder of CMR"),
        (
            ("eccl", "cvd", {"track": "paper", "modality": "cmr"}),
            "its own output reads the ECG alone",
        ),
    ],
)
def test_what_does_not_apply_says_why(asked, reason):
    method, task, more = asked
    found = plan(request([method], [task], **more))
    assert not found.jobs
    (text,) = found.not_applicable
    assert text.startswith(f"{method} on {task}: {reason}")


def test_a_board_is_the_same_whatever_was_run_last():
    asked = request(["mae"], ["retrieval"])
    task = registry().task("retrieval")
    board = board_of(asked, task)
    assert any(method.why_not for method in board.methods)
    assert board_of(replace(asked, modality="cmr", fractions=(0.5,)), task) == board


def test_methods_that_share_a_reason_share_a_line():
    found = plan(request(["supervised", "mae", "mmcl"], ["reconstruction", "retrieval"]))
    assert len(found.idle) == 3
    assert found.not_applicable == [
        "supervised, mmcl on reconstruction: it fills in no hidden parts of an ECG",
        "supervised on retrieval: it exists fine-tuned only, without features of its own",
    ]


def test_a_variant_without_protocol_ranks_people_alone():
    entry = registry().method("ptacl")
    entry = replace(entry, variant=replace(entry.variant, protocol=""))
    paper = request(["ptacl"], ["cvd"], track="paper")
    cvd, cohort = registry().task("cvd"), paper.make_cohort()
    assert not list(jobs_of(entry, cvd, cohort, 0, paper))
    reason = why_not(entry, cvd, cohort, paper)
    assert reason == "no protocol says how its paper predicts from it"
    assert len(list(jobs_of(entry, registry().task("retrieval"), cohort, 0, paper))) == 2


@pytest.mark.parametrize("track", ["harmonised", "paper"])
def test_every_method_has_jobs_with_inputs_on_every_task_or_says_why_not(track):
    methods, tasks = expand("all", "method", track), expand("all", "task")
    found = plan(request(methods, tasks, track=track, fractions=(1.0,)))
    applied = {(job.method.name, job.task.name) for job in found.jobs}
    assert len(applied) + len(found.idle) == len(methods) * len(tasks)
    for stage in topological([job.score for job in found.jobs]):
        if isinstance(stage, Assembled):
            names = [name for part in stage.parts for name in part.task.names]
            assert sorted(names) == sorted(stage.task.names), stage.label


def test_label_free_stages_are_shared_by_fractions_and_tasks():
    jobs = plan(request(["mae", "mmcl", "ptacl"], ["cvd", "phenotype"])).jobs
    stages = topological([job.score for job in jobs])
    names = [type(stage).__name__ for stage in stages]
    assert names.count("MAE") == 1
    assert names.count("Embed") == 3
    assert names.count("LinearHead") == 3 * 2 * 3


def trainings(methods, tasks, kind):
    stages = topological([job.score for job in plan(request(methods, tasks)).jobs])
    return [stage for stage in stages if type(stage).__name__ == kind]


@pytest.mark.parametrize(
    ("method", "kind"), [("eccl", "ECCL"), ("eccl", "CMRLabelled"), ("mmcl-label-frozen", "MMCL")]
)
def test_label_using_methods_learn_a_task_per_fraction(method, kind):
    found = trainings([method], ["cvd", "phenotype"], kind)
    guides = [stage if hasattr(stage, "task") else stage.cmr for stage in found]
    assert sorted((g.task.name, g.fraction) for g in guides) == sorted(
        (task, fraction) for task in ("cvd", "phenotype") for fraction in (1.0, 0.1, 0.01)
    )
    assert len({stage.digest for stage in found}) == 6


def test_retrieval_reads_the_encoder_that_knows_every_phenotype():
    (stage,) = trainings(["eccl"], ["retrieval"], "ECCL")
    assert (stage.task.name, stage.fraction) == ("phenotype", 1.0)
    assert (stage.cmr.task.name, stage.cmr.fraction) == ("phenotype", 1.0)
    assert stage.digest in {s.digest for s in trainings(["eccl"], ["phenotype"], "ECCL")}


def test_dual_phase_learns_phenotypes_whatever_the_task():
    found = trainings(["dual-phase"], ["cvd", "phenotype", "retrieval"], "PhaseSupervised")
    trained = sorted((stage.phase, stage.fraction) for stage in found)
    assert trained == [(phase, f) for phase in ("ed", "es") for f in (0.01, 0.1, 1.0)]


def test_all_methods_share_their_label_free_stages():
    methods, tasks = expand("all", "method"), expand("all", "task")
    assert len(trainings(methods, tasks, "MAE")) == 1
    assert len(trainings(methods, tasks, "CMRMAE")) == 1
    views = [stage.views()["cmr"].shape for stage in trainings(methods, tasks, "CMRSimCLR")]
    assert sorted(views) == [(1, 3, 48, 48), (1, 16, 48, 48)]


def test_board_folder():
    assert board_folder(request([], [])) == "simulated-smoke"


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5])
def test_fractions_out_of_range(fraction):
    with pytest.raises(UserError, match="fraction"):
        request(["mae"], ["cvd"], fractions=(fraction,))
