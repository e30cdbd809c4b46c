"""From a request to jobs."""

import pytest

from benchmark.api import UserError
from benchmark.runner import Request, board_folder, expand, plan
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
    assert set(expand("all", "task")) == {"cvd", "phenotype", "retrieval"}


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
        "supervised on retrieval: it exists fine-tuned only, without features to rank people by"
    ]


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
    assert sorted(stage.fraction for stage in found) == [0.01, 0.1, 1.0]


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
