from __future__ import annotations

import json
import stat

import pytest
from steps import Settings, Step

from benchmark.api import UserError
from benchmark.catalogue import Catalogue
from benchmark.engine.plan import by_urgency, read_plan, write_plan
from benchmark.engine.store import Store
from benchmark.planning import Request, expand, plan
from benchmark.stage import topological

FIRST = Step(key="first", settings=Settings(weights=(1.0, 0.1), note="ü"), hint="of no account")
SECOND = Step(key="second", terms=(FIRST,))
THIRD = Step(key="third", terms=(FIRST, SECOND), seconds=1e-7)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "plan.json"
    write_plan(path, [THIRD, SECOND, THIRD], ["token"])
    return path


def test_a_plan_gives_back_the_same_stages(path):
    found = read_plan(path, Catalogue)
    assert found.targets == (THIRD.digest, SECOND.digest)
    assert found.tried == {"token"}
    assert list(found.stages.values()) == [FIRST, SECOND, THIRD]
    third = found.stages[THIRD.digest]
    assert third.terms[0] is found.stages[FIRST.digest], "what is shared stays one object"
    assert third.terms[0].hint == "of no account"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_names_that_are_no_part_of_the_identity_are_kept_apart(tmp_path):
    terms = (FIRST, FIRST.replace(hint="another"))
    both = [Step(key=str(n), terms=(term,)) for n, term in enumerate(terms)]
    write_plan(tmp_path / "plan.json", both)
    found = read_plan(tmp_path / "plan.json", Catalogue)
    hints = [found.stages[stage.digest].terms[0].hint for stage in both]
    assert hints == ["of no account", "another"]


def test_each_spec_is_written_once(path):
    content = json.loads(path.read_text())
    assert len(content["specs"]) == 5, "three stages, two settings"
    assert path.read_text().count("first") == 1


def test_every_stage_of_every_method_and_task_can_be_planned(tmp_path):
    path = tmp_path / "plan.json"
    methods = expand("all", "method")
    for track, scale in (("harmonised", "smoke"), ("paper", "smoke")):
        names = tuple(n for n in methods if n in expand("all", "method", track))
        request = Request(names, expand("all", "task"), scale=scale, track=track, replicates=2)
        targets = [job.score for job in plan(request).jobs]
        write_plan(path, targets)
        found = read_plan(path, Catalogue)
        wanted = topological(targets)
        assert list(found.stages) == [stage.digest for stage in wanted]
        assert [s.label for s in found.stages.values()] == [s.label for s in wanted]
        assert [s.describe() for s in found.stages.values()] == [s.describe() for s in wanted]


def test_a_stage_is_found_by_the_beginning_of_its_digest(path):
    found = read_plan(path, Catalogue)
    assert found.find(SECOND.digest[:16]) == SECOND
    with pytest.raises(UserError, match="no stage of the plan begin with 'xyz'"):
        found.find("xyz")
    with pytest.raises(UserError, match="several stages"):
        found.find("")


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def described(content, stage):
    return next(entry[1] for entry in content["specs"] if entry[0] == stage.digest)


def other_value(content):
    described(content, SECOND)["name"] = "Settings"


def other_version(content):
    described(content, FIRST)["version"] = 2


def other_fields(content):
    described(content, FIRST)["more"] = 1


def no_class(content):
    described(content, FIRST)["name"] = "Gone"


def another_digest(content):
    described(content, FIRST)["seconds"] = 2.0


@pytest.mark.parametrize(
    "change", [other_value, other_version, other_fields, no_class, another_digest]
)
def test_other_code_than_the_plans_is_refused(path, change):
    with pytest.raises(UserError, match="not the code that the plan was written with"):
        read_plan(changed(path, change), Catalogue)


def test_a_module_that_is_not_here_is_named(path):
    def rename(content):
        content["modules"].append("not_installed_here")

    with pytest.raises(UserError, match="needs the module not_installed_here"):
        read_plan(changed(path, rename), Catalogue)


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"format": 1}', "\x80"])
def test_what_is_no_plan_is_one_line(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="is not a plan"):
        read_plan(path, Catalogue)


def test_a_plan_of_another_version_or_none_at_all(path, tmp_path):
    with pytest.raises(UserError, match="another version"):
        read_plan(changed(path, lambda content: content.update(format=0)), Catalogue)
    with pytest.raises(UserError, match="cannot read the plan"):
        read_plan(tmp_path / "nowhere.json", Catalogue)


def test_what_the_longest_chain_stands_on_comes_first(tmp_path):
    quick = Step(key="quick", seconds=5.0)
    base = Step(key="base", seconds=1.0)
    middle = Step(key="middle", seconds=2.0, terms=(base,))
    last = Step(key="last", seconds=4.0, terms=(middle,))
    order = by_urgency(topological([quick, last]), Store(tmp_path / "store"))
    assert order == [base, middle, quick, last]
