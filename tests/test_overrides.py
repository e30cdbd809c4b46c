"""Fields changed in a method's name: what is typed is what runs, or it is refused."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

from benchmark.api import UserError
from benchmark.names import file_name, split_list
from benchmark.overrides import apply, parse, settable, written
from benchmark.planning import Request, expand, plan
from benchmark.recording import OVERRIDDEN, changed_fields
from benchmark.registry import registry
from benchmark.stage import UNSET, Spec, bind, values_of

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Inner(Spec):
    updates: int = 10
    rounds: int = 5
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self):
        super().__post_init__()
        if self.updates % self.rounds:
            raise UserError(f"{self.updates} updates cannot be cut into {self.rounds} rounds")


@dataclass(frozen=True, kw_only=True)
class Outer(Spec):
    cohort: Spec = UNSET
    later: float = UNSET
    inner: Inner | None = Inner()
    weight: float = 1.0
    kind: Literal["hard", "soft"] = "hard"
    steps: tuple[int, ...] = (1, 2)
    on: bool = False
    exotic: "Fraction" = 0.5  # a name that is there for type checkers only


def changed(text, spec=None):
    name, changes = parse(f"outer[{text}]")
    return apply(spec or Outer(), changes, name)


# ------------------------------------------------------------------------------ the grammar


def test_lists_split_outside_brackets_and_quotes():
    assert split_list("mae, ptacl[a=1,b=(2,3)],,x[k='a,]b']") == [
        *("mae", "ptacl[a=1,b=(2,3)]", "x[k='a,]b']")
    ]


@pytest.mark.parametrize("text", ["a[b=(1]", "a[b", "a]", "a['b]"])
def test_unclosed_brackets_and_quotes(text):
    with pytest.raises(ValueError, match=r"bracket|quote"):
        split_list(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0.10", 0.1), ("1e-3", 0.001), ("-2", -2), ("True", True), ("None", None)),
        *(("cosine", "cosine"), ("'two words'", "two words"), ('"7"', "7"), ("nan", "nan")),
        *(("(1,2)", (1, 2)), ("[1, 2]", (1, 2)), ("(1,)", (1,)), ("hp-0.5/x", "hp-0.5/x")),
    ],
)
def test_values_are_literals_or_words(text, value):
    assert parse(f"m[f={text}]") == ("m", (("f", value),))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m[", "write it as NAME"),
        ("m[]", "changes no field"),
        ("[f=1]", "write it as NAME"),
        ("m[f=1]x", "write it as NAME"),
        ("m[f]", "'f' in m.f. is no FIELD=VALUE"),
        ("m[f=]", "no FIELD=VALUE"),
        ("m[f=1,f=2]", "gives f twice"),
        ("m[f=1e999]", "not finite"),
        ("m[f={1: 2}]", "is a dict"),
        ("m[f=b'x']", "is a bytes"),
        ("m[f=__import__('os')]", "no number, word"),
        ("m[f='x]", "leaves a quote open"),
    ],
)
def test_what_is_no_name_with_fields(name, message):
    with pytest.raises(UserError, match=message):
        parse(name)


@pytest.mark.parametrize(
    "name",
    ["m[a=0.5,b.c=(1,2)]", "m[a=word]", "m[a='two words']", "m[a='True']", "m[a='7']", "m[a=(1,)]"],
)
def test_a_name_has_one_spelling(name):
    assert written(*parse(name)) == name


def test_file_names():
    assert file_name("ptacl-global@retrieval") == "ptacl-global@retrieval"
    assert file_name("m[a=0.5,b.c=(1,2)]") == "m+a-0.5-b.c-1-2+456c22"
    assert file_name("m[a=1.0]") != file_name("m[a='1.0']")
    assert len(file_name(f"m[a={'x' * 500}]")) < 100


# ------------------------------------------------------------------------------ the fields


def test_fields_of_all_types():
    outer = changed("weight=2,kind=soft,steps=(3,),on=True,exotic=0.25,inner.betas=(0.5,1)")
    assert (outer.weight, outer.kind, outer.steps) == (2.0, "soft", (3,))
    assert (outer.on, outer.exotic, outer.inner.betas) == (True, 0.25, (0.5, 1.0))
    assert isinstance(outer.weight, float)
    assert changed("inner=None").inner is None


def test_fields_that_only_fit_together_are_set_together():
    inner = changed("inner.rounds=3,inner.updates=9").inner
    assert (inner.updates, inner.rounds) == (9, 3)
    with pytest.raises(UserError, match=r"outer: 9 updates cannot be cut into 5 rounds"):
        changed("inner.updates=9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wieght=1", "no field 'wieght'; did you mean weight"),
        ("rounds=1", "no field 'rounds'; did you mean inner.rounds"),
        ("inner.rond=1", "no field 'inner.rond'; did you mean inner.rounds"),
        ("zzz=1", "no field 'zzz'; there is exotic, kind, on, steps, weight"),
        ("weight=big", "of type float .now 1.0., not 'big'"),
        ("weight=True", "of type float"),
        ("inner.updates=2.5", "of type int"),
        ("on=1", "of type bool"),
        ("kind=sotf", "kind of outer cannot be 'sotf'; did you mean soft"),
        ("kind=1", "cannot be 1; there is hard, soft"),
        ("steps=(1,2.5)", "of type tuple"),
        ("inner.betas=(0.9,)", "of type tuple"),
        ("exotic=word", "of type Fraction"),
        ("inner=3", "has fields of its own to be set: inner.updates, inner.rounds"),
        ("inner=None,inner.updates=5", "the whole of which it is a part"),
        ("inner.updates=5,inner.updates.x=5", "the whole of which it is a part"),
        ("weight.x=1", "weight of outer is 1.0: there is no x in it"),
        ("cohort=1", "set by the harness: --cohort"),
        ("seed=1", "no field 'seed'"),
        ("later=1", "later of outer is set by the harness"),
    ],
)
def test_what_a_field_cannot_be(text, message):
    with pytest.raises(UserError, match=message):
        changed(text)


def test_settable_fields_are_neither_unset_nor_stages():
    assert list(settable(Outer())) == [
        *("inner.updates", "inner.rounds", "inner.betas", "weight", "kind", "steps"),
        *("on", "exotic"),
    ]


# ------------------------------------------------------------------------------ methods


def test_a_changed_method_is_a_control_under_its_one_name():
    entry = registry().method("ptacl[sigma=0.20, local_weight=1]")
    assert entry.name == "ptacl[local_weight=1.0,sigma=0.2]"
    assert entry is registry().method("ptacl[sigma=0.20, local_weight=1]")
    assert entry == registry().method(entry.name)
    assert (entry.variant.role, entry.paper) == ("control", "")
    assert entry.summary == "ptacl with local_weight=1.0, sigma=0.2."
    assert entry.name not in registry().methods


def test_what_was_typed_runs_even_where_the_track_fixes_it():
    entry = registry().method("ptacl[ecg.mask_ratio=0.5,frozen_blocks=2,sigma=0.1]")
    method = entry.on_track("harmonised", "tiny")
    assert (method.ecg.mask_ratio, method.frozen_blocks) == (0.5, 2)
    assert method.label == entry.name
    told = entry.overrides("harmonised", "tiny")
    assert told["ecg.mask_ratio"] == {"value": 0.5, "instead_of": 0.8, "fixed": True}
    assert told["frozen_blocks"] == {"value": 2, "instead_of": 1, "fixed": True}
    assert told["sigma"] == {"value": 0.1, "instead_of": 0.1, "fixed": False}
    assert not entry.overrides("paper", "full")["ecg.mask_ratio"]["fixed"]


def test_a_field_as_it_is_anyway_is_the_same_stage():
    names = ("mmcl", "mmcl[hidden=512]")
    one, other = (registry().method(name).on_track("paper", "full") for name in names)
    cohort = registry().cohort("simulated").at("full")
    assert bind(one, cohort=cohort, seed=0).digest == bind(other, cohort=cohort, seed=0).digest


def test_labels_may_go_with_a_stage():
    assert registry().method("mmcl-label-frozen").uses_labels
    assert registry().method("eccl[recipe.batch_size=8]").uses_labels
    assert not registry().method("ptacl[ecg=None]").uses_labels
    assert registry().method("ptacl[ecg=None]").as_declared().ecg is None


def test_a_field_that_is_there_on_one_track_alone():
    """The paper's transformer of stacks is the paper's alone: the harmonised track has another."""
    name = "dual-phase-3d-ed[cmr_encoder.depth=1]"
    assert request(name).methods == (name,)
    with pytest.raises(UserError, match="has no field 'cmr_encoder"):
        request(name, track="paper")
    assert registry().method(name).as_declared().cmr_encoder.depth == 1
    with pytest.raises(UserError, match="no method is called 'ptaclx'"):
        registry().method("ptaclx[sigma=1]")
    with pytest.raises(UserError, match="not part of the harmonised track"):
        request("mae@eccl[mask_ratio=0.5]")


# ------------------------------------------------------------------------------ runs and boards


def request(*methods, **more):
    return Request(methods=methods, tasks=("phenotype",), scale="smoke", **more)


def test_requests_use_the_one_spelling():
    assert expand("mae,ptacl[sigma=0.20],ptacl[sigma=0.2]", "method") == ("mae", "ptacl[sigma=0.2]")
    assert request("ptacl[sigma=0.20]").methods == ("ptacl[sigma=0.2]",)
    with pytest.raises(UserError, match="leaves a bracket open"):
        expand("mae,ptacl[sigma=0.2", "method")


def test_the_plan_says_what_is_changed_and_trains_it():
    asked = request("ptacl[sigma=0.2,ecg.mask_ratio=0.5]", fractions=(1.0,))
    (job,) = plan(asked).jobs
    assert list(values_of(job.score, "sigma")) == [0.2]
    (text,) = changed_fields(asked)
    assert "ecg.mask_ratio is 0.5 instead of 0.8, which the harmonised track fixes for all" in text
    assert "sigma is 0.2 instead of 0.1" in text
    assert f"{OVERRIDDEN}/" in text
    (text,) = changed_fields(request("ptacl[sigma=0.1]"))
    assert "sigma is 0.1 as it is anyway" in text
    assert list(changed_fields(request("ptacl"))) == []


def test_rows_of_changed_methods_never_meet_the_published_ones(ecgcmr, shared_store, tmp_path):
    name = "random-init[ecg_encoder.depth=1]"
    boards = tmp_path / "boards"
    asked = ("--method", f"random-init,{name}", "--task", "phenotype", "--fractions", "1.0")
    place = ("--scale", "smoke", "--leaderboards", boards)
    done = ecgcmr("run", *asked, *place, store=shared_store)
    assert "ecg_encoder.depth is 1 instead of 2, which the harmonised track fixes" in done.stderr

    place = ("rows", "simulated-smoke", "harmonised", "phenotype")
    (published,) = boards.joinpath(*place).glob("*.json")
    (apart,) = (boards / OVERRIDDEN).joinpath(*place).glob("*.json")
    assert published.name == "random-init.json"
    assert apart.name == f"{file_name(name)}.json"
    for path in (boards / "simulated-smoke").iterdir():
        assert name not in path.read_text()
    assert all(e["other"] != name for e in json.loads(published.read_text())["versus"])

    file = json.loads(apart.read_text())
    assert (file["method"], file["role"]) == (name, "control")
    assert file["overrides"] == {"ecg_encoder.depth": {"fixed": True, "instead_of": 2, "value": 1}}
    assert "random-init" in {entry["other"] for entry in file["versus"]}
    board = (boards / OVERRIDDEN / "simulated-smoke" / "phenotype.md").read_text()
    assert board.startswith("# CMR phenotypes, with changed fields")
    lines = board.splitlines()
    assert any(line.startswith(f"| {name} (control)") for line in lines)
    assert any(line.startswith("| random-init ") for line in lines), "beside the recorded one"
