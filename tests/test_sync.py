"""Artifacts carried through a folder: whole, checked, resumable, and only where they may go."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass

import pytest

from benchmark.api import UserError
from benchmark.cli import main
from benchmark.cohorts.prepared import prepared_folder, write_current
from benchmark.cohorts.wfdb_cohort import WFDB
from benchmark.engine import sync, verified
from benchmark.engine.progress import Reporter
from benchmark.engine.store import Store
from benchmark.engine.sync import Wish, pull, push
from benchmark.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Parcel(Stage):
    size: int = 3
    cohort: Stage | None = None


def make(store, stage):
    claim = store.claim(stage)
    (claim.out / "sub").mkdir()
    (claim.out / "a.txt").write_text("some text")
    (claim.out / "sub" / "b.bin").write_bytes(bytes(range(256)) * stage.size)
    claim.commit(float(stage.size))
    claim.close()
    return stage.digest


def quiet():
    return Reporter(io.StringIO())


@pytest.fixture
def here(tmp_path):
    return Store(tmp_path / "here")


@pytest.fixture
def there(tmp_path):
    return Store(tmp_path / "there")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "disk" / "results"


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def files(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_there_and_back_again_is_the_same_artifact(here, there, folder):
    digests = {make(here, Parcel(size=n)) for n in (1, 2)}
    gone = push(here, folder, Wish(), quiet())
    assert {item.digest for item in gone.moved} == digests
    assert gone.bytes == 2 * 9 + 3 * 256
    come = pull(there, folder, Wish(), quiet())
    assert come.ok
    assert set(there.stages()) == digests
    for digest in digests:
        there.verify(digest)
        assert files(there.path(digest)) == files(here.path(digest))
    assert list((there.root / "work").iterdir()) == []
    for again in (push(here, folder, Wish(), quiet()), pull(there, folder, Wish(), quiet())):
        assert (len(again.moved), len(again.there)) == (0, 2)


def test_everything_carried_is_closed_to_others(here, there, folder):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    pull(there, folder, Wish(), quiet())
    for place in (folder, there.path(digest)):
        for path in (place, *place.rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_store_can_be_pulled_from_as_it_is_but_not_pushed_to(here, there):
    digest = make(here, Parcel())
    assert pull(there, here.root, Wish(), quiet()).ok
    assert there.has(digest)
    assert there.seconds(Parcel()) == 3.0
    with pytest.raises(UserError, match="is a store itself"):
        push(here, there.root, Wish(), quiet())
    with pytest.raises(UserError, match="this machine's store"):
        pull(here, here.root, Wish(), quiet())


def test_a_folder_with_something_else_is_left_alone(here, folder):
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds something else"):
        push(here, folder, Wish(), quiet())
    with pytest.raises(UserError, match="holds no artifacts"):
        pull(here, folder, Wish(), quiet())
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_only_what_was_asked_for_and_nothing_on_a_dry_run(here, folder):
    first, _ = make(here, Parcel(size=1)), make(here, Parcel(size=2))
    planned = push(here, folder, Wish(digests={first, "f" * 64}, dry_run=True), quiet())
    assert [item.digest for item in planned.moved] == [first]
    assert not folder.exists()
    push(here, folder, Wish(digests={first, "f" * 64}), quiet())
    assert [path.name for path in (folder / "done").iterdir()] == [first]


DAMAGE = [
    ("sub/b.bin", lambda path: flip(path / "sub" / "b.bin")),
    ("a.txt", lambda path: os.truncate(path / "a.txt", 3)),
    ("a.txt", lambda path: (path / "a.txt").unlink()),
    ("manifest.json", lambda path: os.truncate(path / "manifest.json", 20)),
    ("manifest.json", lambda path: (path / "manifest.json").write_text('{"digest": 1}')),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_what_is_damaged_is_named_and_stays_behind_while_the_rest_goes(
    here, there, folder, file, damage
):
    bad, good = make(here, Parcel(size=1)), make(here, Parcel(size=2))
    damage(here.path(bad))
    gone = push(here, folder, Wish(), quiet())
    assert [(item.digest, item.message) for item in gone.damaged] == [(bad, file)]
    assert not gone.ok
    assert [item.digest for item in pull(there, folder, Wish(), quiet()).moved] == [good]
    assert list(there.stages()) == [good]


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_what_the_disk_has_damaged_never_enters_a_store_and_is_brought_again(
    here, there, folder, file, damage
):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    damage(folder / "done" / digest)
    come = pull(there, folder, Wish(), quiet())
    assert [(item.digest, item.message) for item in come.damaged] == [(digest, file)]
    assert not there.has(digest)
    assert len(push(here, folder, Wish(verify=True), quiet()).moved) == 1
    assert pull(there, folder, Wish(), quiet()).ok
    there.verify(digest)


def test_what_is_good_is_never_written_again_and_what_is_damaged_only_when_asked(
    here, there, folder
):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    pull(there, folder, Wish(), quiet())
    before = {path: path.stat().st_ino for path in there.path(digest).rglob("*")}
    assert len(pull(there, folder, Wish(verify=True), quiet()).there) == 1
    assert {path: path.stat().st_ino for path in there.path(digest).rglob("*")} == before
    flip(there.path(digest) / "a.txt")
    assert len(pull(Store(there.root), folder, Wish(), quiet()).there) == 1
    assert len(pull(Store(there.root), folder, Wish(verify=True), quiet()).moved) == 1
    Store(there.root).verify(digest)
    assert (there.root / "corrupt" / digest).is_dir()


@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize(("stop", "unread"), [(1, 4), (2, 3), (3, 2), (4, 2)])
def test_a_killed_journey_shows_nothing_half_and_goes_on(
    here, there, folder, monkeypatch, way, stop, unread
):
    """Stopped in front of the n-th rename: both files and the manifest of either artifact."""
    digests = {make(here, Parcel(size=n)) for n in (1, 2)}
    if way == "pull":
        push(here, folder, Wish(), quiet())
    go = {"push": lambda: push(here, folder, Wish(), quiet()),
          "pull": lambda: pull(there, folder, Wish(), quiet())}[way]  # fmt: skip
    if way == "push":
        sync.permit(folder, (), "")  # so that only artifacts are counted
    target = folder / "done" if way == "push" else there.root / "done"
    real, calls = type(folder).replace, []

    def replace(self, other):
        calls.append(other)
        if len(calls) == stop:
            os._exit(9)
        return real(self, other)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(type(folder), "replace", replace)
        go()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    whole = [path for path in target.iterdir() if (path / "manifest.json").exists()]
    assert len(whole) == (stop - 1) // 3
    read = []
    monkeypatch.setattr(
        verified, "_read", lambda *a, real=verified._read: read.append(a) or real(*a)
    )
    assert go().ok
    assert len(read) == 4 - min(stop - 1, 2) - max(stop - 4, 0)  # files that were whole stay
    assert {path.name for path in target.iterdir()} == digests
    assert not list(target.rglob("*.part"))
    there = there if way == "pull" else Store(folder)
    for digest in digests:
        there.verify(digest)


def test_a_full_disk_says_how_far_it_got(here, folder, monkeypatch):
    for size in (1, 2):
        make(here, Parcel(size=size))
    push(here, folder, Wish(), quiet())
    shutil.rmtree(folder / "done")
    real, calls = sync.copy_file, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(sync, "copy_file", full)
    with pytest.raises(UserError, match="is full; 1 artifacts"):
        push(here, folder, Wish(), quiet())


def test_a_disk_that_forgets_what_it_is_told_is_noticed(here, folder, monkeypatch):
    make(here, Parcel())
    real = os.fsync

    def forgetful(handle):
        real(handle)
        if os.fstat(handle).st_size == 9:
            os.truncate(handle, 0)

    monkeypatch.setattr(os, "fsync", forgetful)
    with pytest.raises(UserError, match="does not give back"):
        push(here, folder, Wish(), quiet())


@pytest.mark.parametrize(
    "name",
    [
        *("../../outside", "/tmp/outside", "sub/../../x", "a\\b", "./a.txt", "."),
        *("a\0b", "a\nb", "x" * 250, "sub"),
    ],
)
def test_a_manifest_that_names_files_elsewhere_is_damaged(here, there, folder, name):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    path = folder / "done" / digest / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = manifest["files"].pop("a.txt")
    path.write_text(json.dumps(manifest))
    come = pull(there, folder, Wish(), quiet())
    assert [item.message for item in come.damaged] == ["manifest.json"]


def test_a_link_out_of_the_folder_is_not_followed(here, there, folder, tmp_path):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    (tmp_path / "elsewhere").write_text("some text")
    (folder / "done" / digest / "a.txt").unlink()
    (folder / "done" / digest / "a.txt").symlink_to(tmp_path / "elsewhere")
    assert [item.message for item in pull(there, folder, Wish(), quiet()).damaged] == ["a.txt"]


def test_a_folder_that_leads_elsewhere_is_not_followed(here, there, folder, tmp_path):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    (folder / "done" / digest / "sub").rename(tmp_path / "elsewhere")
    (folder / "done" / digest / "sub").symlink_to(tmp_path / "elsewhere")
    assert [i.message for i in pull(there, folder, Wish(), quiet()).damaged] == ["sub/b.bin"]


def test_what_is_no_file_or_another_size_is_not_read(here, there, folder, monkeypatch):
    """A pipe would be waited for, and a file without end fill the disk."""
    pipe, large = make(here, Parcel(size=1)), make(here, Parcel(size=2))
    push(here, folder, Wish(), quiet())
    (folder / "done" / pipe / "a.txt").unlink()
    os.mkfifo(folder / "done" / pipe / "a.txt")
    os.truncate(folder / "done" / large / "a.txt", 1 << 40)  # without a block on the disk
    read = []
    monkeypatch.setattr(
        verified, "_read", lambda path, *a, real=verified._read: read.append(path) or real(path, *a)
    )
    come = pull(there, folder, Wish(), quiet())
    assert {(item.digest, item.message) for item in come.damaged} == {
        (pipe, "a.txt"), (large, "a.txt")
    }  # fmt: skip
    assert "a.txt" not in {path.name for path in read}


def test_a_file_that_grows_while_it_is_read_is_left(here, there, folder, monkeypatch):
    make(here, Parcel())
    push(here, folder, Wish(), quiet())
    pieces = []

    def endless(path, damaged):
        while True:
            pieces.append(path)
            yield b"some text"

    monkeypatch.setattr(verified, "_read", endless)
    assert [item.message for item in pull(there, folder, Wish(), quiet()).damaged] == ["a.txt"]
    assert len(pieces) == 2


def test_only_digests_are_artifacts(here, there, folder):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    other = shutil.copytree(folder / "done" / digest, folder / "done" / "another name")
    manifest = json.loads((other / "manifest.json").read_text()) | {"digest": other.name}
    (other / "manifest.json").write_text(json.dumps(manifest))
    pull(there, folder, Wish(), quiet())
    assert list(there.stages()) == [digest]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path / "a.txt", 3),
        lambda path: (path / "a.txt").unlink(),
        lambda path: (path / "manifest.json").unlink(),
        lambda path: os.truncate(path / "manifest.json", 20),
    ],
)
def test_what_is_half_there_is_set_aside_and_brought_whole(here, there, folder, damage):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    make(there, Parcel())
    damage(there.path(digest))
    assert len(pull(there, folder, Wish(), quiet()).moved) == 1
    Store(there.root).verify(digest)
    assert (there.root / "corrupt" / digest).is_dir()


def test_what_another_artifact_of_the_stage_left_halfway_does_not_come_in(here, there, folder):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    arriving = there.root / "work" / digest / "arriving" / "old"
    arriving.mkdir(parents=True)
    for name in ("x.npy", ".a.txt.1234.part"):
        (arriving / name).write_text("of a killed pull")
    pull(there, folder, Wish(), quiet())
    assert files(there.path(digest)) == files(here.path(digest))


def test_a_second_pull_waits_for_the_first(here, there, folder, monkeypatch):
    make(here, Parcel())
    push(here, folder, Wish(), quiet())
    real, second, said = sync.copy_file, [], io.StringIO()

    def meanwhile(*arguments):
        if not second:
            second.append(os.fork())
            if second[0] == 0:
                # Its own line comes before it waits, and so before the first is let go.
                monkeypatch.setattr(Reporter, "line", lambda self, text: os.write(mouth, b"waits"))
                monkeypatch.setattr(sync, "copy_file", real)
                come = pull(Store(there.root), folder, Wish(), quiet())
                os._exit(0 if (len(come.moved), len(come.there)) == (0, 1) else 1)
            assert os.read(ear, 5) == b"waits"
        return real(*arguments)

    ear, mouth = os.pipe()
    monkeypatch.setattr(sync, "copy_file", meanwhile)
    assert len(pull(there, folder, Wish(), Reporter(said)).moved) == 1
    assert os.waitstatus_to_exitcode(os.waitpid(second[0], 0)[1]) == 0


def test_what_somebody_else_has_pushed_meanwhile_is_not_taken_apart(here, folder, monkeypatch):
    """Killed in between, the slower of two would leave what the other had said to be there."""
    first, second = sorted(make(here, Parcel(size=n)) for n in (1, 2))
    real, begun = sync.copy_file, []

    def overtaken(original, *rest):
        if not begun:
            begun.append(original)
            monkeypatch.setattr(sync, "copy_file", real)
            push(here, folder, Wish(digests={second}), quiet())
            monkeypatch.setattr(sync._Folder, "begin", begin)
        return real(original, *rest)

    def begin(self, digest):
        raise AssertionError(digest)

    monkeypatch.setattr(sync, "copy_file", overtaken)
    gone = push(here, folder, Wish(), quiet())
    assert ([i.digest for i in gone.moved], [i.digest for i in gone.there]) == ([first], [second])


def test_a_disk_that_is_pulled_out_is_one_line(here, folder, monkeypatch):
    make(here, Parcel())

    def gone(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sync, "copy_file", gone)
    with pytest.raises(UserError, match=r"can no longer be written to \(Input/output error"):
        push(here, folder, Wish(), quiet())


def test_a_worker_who_finishes_the_same_stage_meanwhile_keeps_its_result(
    here, there, folder, monkeypatch
):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    real = sync.copy_file

    def overtaken(*arguments):
        if not there.has(digest):
            make(there, Parcel())
        return real(*arguments)

    monkeypatch.setattr(sync, "copy_file", overtaken)
    come = pull(there, folder, Wish(), quiet())
    assert come.ok
    assert len(come.there) == 1
    there.verify(digest)
    assert list((there.root / "work").iterdir()) == []


def test_a_failure_is_forgotten_once_the_stage_has_come(here, there, folder):
    digest = make(here, Parcel())
    push(here, folder, Wish(), quiet())
    there.fail(Parcel(), "no memory")
    pull(there, folder, Wish(), quiet())
    assert there.failure(digest) is None


def test_durations_come_along_once_and_only_of_what_was_never_made_here(here, there, folder):
    make(here, Parcel(size=5))
    push(here, folder, Wish(), quiet())
    for _ in range(2):
        pull(there, folder, Wish(), quiet())
    assert (there.root / "durations.jsonl").read_text() == '["Parcel 1", 5.0]\n'
    assert Store(there.root).seconds(Parcel()) == 5.0


def test_durations_that_are_none_stay(here, there, folder):
    make(here, Parcel())
    push(here, folder, Wish(), quiet())
    lines = '["A 1", NaN]\n["B 1", -4]\n["C 1", 1e999]\n["D 1", 2]\n'
    (folder / "durations" / "other.jsonl").write_text(lines)
    pull(there, folder, Wish(), quiet())
    assert (there.root / "durations.jsonl").read_text().splitlines()[1:] == ['["D 1", 2.0]']


# ------------------------------------------------------------------------------ real people


def prepare(fingerprint):
    """Leave what says that a cohort is prepared."""
    folder = prepared_folder("wfdb")
    (folder / fingerprint[:16] / "data").mkdir(parents=True)
    write_current("wfdb", {"fingerprint": fingerprint, "people": 2, "holds": ["ecg"]})
    return WFDB(fingerprint=fingerprint, people=2, holds=("ecg",))


@pytest.fixture
def real(here, monkeypatch):
    """A stage on real people in the store that commands use."""
    monkeypatch.setenv("ECGCMR_STORE", str(here.root))
    cohort = prepare("a" * 64)
    make(here, Parcel(cohort=cohort))
    return Parcel(cohort=cohort)


def test_data_of_real_people_go_only_where_somebody_permits_it(real, folder, capsys):
    assert main(["store", "push", str(folder), "--all"]) == 2
    assert "--permitted-by" in capsys.readouterr().err
    assert not folder.exists()
    once = ("--permitted-by", "B. Steward, ref. 7")
    assert main(["store", "push", str(folder), "--all", *once]) == 0
    assert "individual-level data of wfdb" in capsys.readouterr().out
    assert json.loads((folder / "about.json").read_text())["permitted_by"] == {"wfdb": once[1]}
    assert main(["store", "push", str(folder), "--all"]) == 0
    assert "1 were there already" in capsys.readouterr().out


def test_a_prepared_cohort_itself_stays_with_the_ids_that_are_in_it(real, here, folder, capsys):
    cohort = real.cohort
    claim = here.claim(cohort)
    (claim.out / "ids.parquet").write_text("who they are")
    claim.commit(1.0)
    claim.close()
    asked = ("store", "push", str(folder), "--all", "--permitted-by", "B. Steward")
    assert main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [item["digest"] for item in told["moved"]] == [real.digest]
    assert [item["digest"] for item in told["left"]] == [cohort.digest]
    assert main([*asked]) == 0
    assert "left where it is: wfdb cohort of 2 people" in capsys.readouterr().out
    assert not list(folder.rglob("ids.parquet"))


def test_people_whose_stage_is_finished_only_after_they_were_counted_wait(
    here, folder, monkeypatch, capsys
):
    """Nobody has been asked for them."""
    monkeypatch.setenv("ECGCMR_STORE", str(here.root))
    make(here, Parcel(cohort=prepare("a" * 64)))
    monkeypatch.setattr(sync, "described", lambda store, digests: ())
    assert main(["store", "push", str(folder), "--all"]) == 1
    assert "nobody has been asked" in capsys.readouterr().out
    assert not list((folder / "done").iterdir())


def test_what_git_would_see_takes_no_data_of_real_people(real, tmp_path, capsys):
    subprocess.run(["git", "init", "-q", str(tmp_path / "work")], check=True)
    asked = ("store", "push", str(tmp_path / "work" / "results"), "--all")
    assert main([*asked, "--permitted-by", "B. Steward"]) == 2
    error = capsys.readouterr().err
    assert "git would see it" in error
    assert "--out" not in error


def test_people_who_have_withdrawn_are_neither_sent_nor_taken(
    real, here, there, folder, monkeypatch, capsys
):
    permitted = ("--permitted-by", "B. Steward")
    push(here, folder, Wish(), quiet())
    prepare("b" * 64)  # without them
    assert main(["store", "push", str(folder.parent / "new"), "--all", *permitted]) == 1
    assert "people who have withdrawn" in capsys.readouterr().out
    assert not list((folder.parent / "new" / "done").iterdir())
    monkeypatch.setenv("ECGCMR_STORE", str(there.root))
    assert main(["store", "pull", str(folder)]) == 1
    assert "no wfdb cohort has been prepared" in capsys.readouterr().out
    prepare("b" * 64)
    assert main(["store", "pull", str(folder), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [item["digest"] for item in told["refused"]] == [real.digest]
    assert not list(there.stages())


def test_people_of_a_cohort_that_nobody_knows_stay(here, folder, monkeypatch, capsys):
    @dataclass(frozen=True, kw_only=True)
    class Elsewhere(Stage):
        fingerprint: str = "c"

    monkeypatch.setenv("ECGCMR_STORE", str(here.root))
    make(here, Parcel(cohort=Elsewhere()))
    assert main(["store", "push", str(folder), "--all", "--permitted-by", "me"]) == 1
    assert "no cohort Elsewhere is known here" in capsys.readouterr().out


def test_a_cohort_itself_that_nobody_knows_stays(here, folder, monkeypatch, capsys):
    monkeypatch.setenv("ECGCMR_STORE", str(here.root))
    make(here, Parcel())
    assert main(["store", "push", str(folder), "--all"]) == 1
    assert "whose data Parcel holds is not known here" in capsys.readouterr().out
    assert not list((folder / "done").iterdir())


# ------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what is to be carried"),
        (["--all", "--method", "mae"], "exclude each other"),
        (["--task", "cvd", "--all"], "--task goes with --method"),
        (["--scale", "smoke", "--all"], "--scale goes with --method"),
        (["--method", "mea"], "mae"),
        (["--method", "mae", "--scale", "smole"], "smoke"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(here, folder, monkeypatch, capsys, arguments, said):
    monkeypatch.setenv("ECGCMR_STORE", str(here.root))
    assert main(["store", "push", str(folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not folder.exists()


def test_a_method_brings_what_it_stands_on_and_nothing_else(here, folder, monkeypatch, capsys):
    from benchmark.registry import registry
    from benchmark.stage import bind

    monkeypatch.setenv("ECGCMR_STORE", str(here.root))
    cohort = registry().cohort("simulated").at("smoke")
    method = bind(registry().method("ptacl").on_track("harmonised", "smoke"), cohort=cohort, seed=0)
    other = bind(registry().method("byol").on_track("harmonised", "smoke"), cohort=cohort, seed=0)
    stages = [cohort, *method.inputs, method, other]
    for stage in stages:
        claim = here.claim(stage)
        (claim.out / "a.txt").write_text("some text")
        claim.commit(1.0)
        claim.close()
    asked = ("--method", "ptacl", "--task", "retrieval", "--scale", "smoke", "--json")
    assert main(["store", "push", str(folder), *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    wanted = {stage.digest for stage in stages} - {other.digest}
    assert {item["digest"] for item in told["moved"]} == wanted
