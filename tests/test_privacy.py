"""Nothing that identifies a person is printed, kept about a failure, or published."""

import base64
import bz2
import dataclasses
import fcntl
import gzip
import io
import json
import logging
import re
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark import privacy, privacy_scan
from benchmark.api import Predictions, UserError
from benchmark.evaluation.metrics import RecallAt
from benchmark.privacy_scan import scan
from benchmark.reports.rows import Cell, row_of, versus_of, without_small_counts
from benchmark.reports.rows import dumps as rows_text

ROOT = Path(__file__).resolve().parent.parent
EID = 4_871_233
OTHER = EID + 977

# --------------------------------------------------------------------------------- what an id is


@pytest.mark.parametrize(
    "text",
    [
        "{eid}",
        "id={eid},",
        "/bulk/{eid}_20209_2_0.zip",
        "{eid}.20209.zip",
        "f.{eid}.2.0",
        "sub-{eid}",
        "eid{eid}",
        "-{eid}",
        "person {eid}.",
        "loading...{eid}",
        "{eid}.0",
        "1,{eid}",
    ],
)
def test_ids_are_masked_wherever_they_stand(text):
    assert privacy.mask(text.format(eid=EID)) == text.format(eid="[id]")


@pytest.mark.parametrize(
    "text",
    [
        "0{eid}",
        "{eid}0",
        "0.{eid}",
        "-.{eid}",
        "{eid}.25",
        "{eid}.5e-05",
        "deadbeef{eid}cafe",
        "SIM-000001 9000001 7000000 4,000,000 5_363_328",
    ],
)
def test_what_is_no_id_stays(text):
    assert privacy.mask(text.format(eid=EID)) == text.format(eid=EID)


# -------------------------------------------------------------------------------------- messages


def test_log_records_of_any_logger_are_masked(monkeypatch):
    stream, factory = io.StringIO(), logging.getLogRecordFactory()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("some.library")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        privacy.mask_messages()
        privacy.mask_messages()
        logger.error("person %s of %d", EID, 3)
        try:
            raise ValueError(f"no cine for {EID}")
        except ValueError:
            logger.exception("failed", stack_info=True)
    finally:
        logging.setLogRecordFactory(factory)
        logger.removeHandler(handler)
    text = stream.getvalue()
    assert "person [id] of 3" in text
    assert "ValueError: no cine for [id]" in text
    assert str(EID) not in text


def test_stderr_is_masked_whoever_writes_to_it_workers_included(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import sys, threading, warnings
            from pathlib import Path
            import numpy as np
            from benchmark.cohorts.blocks import finished_blocks
            from benchmark.privacy import mask_messages

            EID = {EID - 1} + 1

            def make(block):
                print("worker reads", EID, file=sys.stderr)
                return {{"x": np.zeros(1)}}

            def thread():
                raise KeyError(f"thread {{EID}}")

            if __name__ == "__main__":
                mask_messages()
                with finished_blocks(make, [0, 1], Path(sys.argv[1]), 2) as done:
                    print(len(list(done)), EID)
                warnings.warn(f"warning {{EID}}")
                worker = threading.Thread(target=thread)
                worker.start()
                worker.join()
                raise ValueError(f"crash {{EID}}")
            """)
    )
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    # Results are not touched: a program may read numbers of seven digits there.
    assert done.stdout == f"2 {EID}\n"
    assert str(EID) not in done.stderr
    for message in ("worker reads [id]", "warning [id]", "thread [id]", "crash [id]"):
        assert message in done.stderr


def test_arguments_with_an_id_are_refused_without_it(ecgcmr, tmp_path):
    record = tmp_path / f"{EID}_20205_2_0"
    for arguments in (
        ["neighbours", record, "--method", "mae"],
        ["privacy", record],
        ["list", f"--{EID}"],
    ):
        done = ecgcmr(*arguments, store=tmp_path / "store", check=False)
        assert done.returncode == 2
        assert "[id]" in done.stderr
        assert str(EID) not in done.stdout + done.stderr


# ------------------------------------------------------------------------------------ pseudonyms


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def test_a_pseudonym_is_one_installations_and_no_number(store, tmp_path, monkeypatch):
    names = [privacy.pseudonym(str(EID + k)) for k in range(1000)]
    assert len(set(names)) == 1000
    assert all(re.fullmatch("[a-z]{12}", name) for name in names)
    privacy._secret.cache_clear()  # as in another process
    assert privacy.pseudonym(str(EID)) == names[0]
    monkeypatch.setenv("ECGCMR_STORE", str(tmp_path / "elsewhere"))
    assert privacy.pseudonym(str(EID)) != names[0]


def test_the_secret_is_the_users_alone(store):
    store.mkdir()
    (store / "secret").write_bytes(b"short")  # of a process that died while writing it
    (store / "secret").chmod(0o644)
    privacy.pseudonym("a")
    assert stat.S_IMODE((store / "secret").stat().st_mode) == 0o600
    assert len((store / "secret").read_bytes()) == 32


def test_processes_that_start_at_once_agree_on_the_secret(store):
    store.mkdir()
    code = "from benchmark.privacy import pseudonym; print(pseudonym('a'))"
    with (store / "secret").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as the process that came first does
        second = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.5)
        file.write(b"s" * 32)
    assert second.communicate()[0].strip() == privacy.pseudonym("a")
    assert (store / "secret").read_bytes() == b"s" * 32


# --------------------------------------------------------------------------------------- scanner


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def parquet(**columns):
    file = io.BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(name, content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def png(kind, data):
    """Return a picture of one pixel with one chunk of text."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), (kind, data)]
    chunks += [(b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def notebook(output):
    cell = {"cell_type": "code", "source": ["1"], "outputs": [{"data": output}]}
    return json.dumps({"cells": [cell]}).encode()


TEXT = f"eid,age\n{EID},63\n".encode()
NOISE = np.random.default_rng(0).bytes(300)
HIDING = {
    "source.py": f"WITHDRAWN = [{EID}]\n".encode(),
    "windows.csv": TEXT.decode().encode("utf-16"),
    "latin.xml": f"<Name>M\u00fcller</Name><PID>{EID}</PID>".encode("latin-1"),
    f"figures/{EID}_20209_2_0.txt": b"nothing\n",
    "table.csv.gz": gzip.compress(TEXT),
    "table.csv.bz2": bz2.compress(TEXT),
    "archive.zip": zipped(a=b"nothing", b=zipped(c=TEXT)),
    "names.zip": zipped(**{f"{EID}_20205_2_0.txt": b"nothing"}),
    "archive.tar.gz": tarred("a/b.txt", TEXT),
    "whole.npy": npy(np.array([[EID, 1], [2, 3]])),
    "unsigned.npy": npy(np.array([EID], np.uint32)),
    "floats.npy": npy(np.array([EID, np.nan, OTHER])),
    "words.npy": npy(np.array([f"{EID}_2"])),
    "fields.npy": npy(np.array([(EID, 0.5)], [("eid", "i8"), ("x", "f4")])),
    "arrays.npz": zipped(**{"ids.npy": npy(np.arange(EID, EID + 9))}),
    "whole.parquet": parquet(x=[0.5, 0.25], who=[EID, OTHER]),
    "words.parquet": parquet(who=[f"{EID}"] * 50),
    "lists.parquet": parquet(who=[[f"{EID}"], []]),
    "index.parquet": parquet(x=pd.Series([0.5], index=pd.Index([EID], name="eid"))),
    "text.png": png(b"tEXt", b"Title\0person %d" % EID),
    "cut.png": png(b"PLTE", b"///%d:::" % EID)[:53],
    "cut text.png": png(b"zTXt", b"Title\0\0" + zlib.compress(b"person %d" % EID) + NOISE)[:99],
    "packed.png": png(b"zTXt", b"Title\0\0" + zlib.compress(b"person %d" % EID)),
    "international.png": png(b"iTXt", b"Title\0\1\0en\0T\0" + zlib.compress(b"person %d" % EID)),
    "printed.ipynb": notebook({"text/plain": [f"eid {EID}\n"]}),
    "drawn.ipynb": notebook(
        {"image/png": base64.encodebytes(png(b"tEXt", b"Title\0%d " % EID + NOISE)).decode()}
    ),
}


@pytest.mark.parametrize("name", HIDING)
def test_ids_are_found_wherever_they_hide_and_never_shown(name):
    found = list(privacy_scan.look_into(name, HIDING[name]))
    assert any(re.search("like an id|like ids|held an id", finding.text) for finding in found)
    assert str(EID) not in "".join(map(repr, found))


def test_a_line_is_shown_without_what_stands_beside_the_id():
    text = f"first\nwho;{OTHER};{EID};77;Smith\n" + f"{EID}\n" * 100
    found = list(privacy_scan.look_into("a.txt", text.encode()))
    assert str(found[0]) == "a.txt:2: looks like an id: who;[id];#######;##;Smith"
    assert len(found) == privacy_scan.MOST_LINES + 1
    assert found[-1].text == "81 more lines that look like ids"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", b'{"value": 0.1234567, "digest": "%s"}' % (b"%da" % EID * 8)),
        ("code.py", b"BYTES = 5_363_328; SIM = 9_000_000\n"),
        ("phone.md", b"call 12345678, or 123456\n"),
        ("picture.png", png(b"tEXt", b"Title\0no person")),
        ("greys.png", png(b"PLTE", b"///%d:::" % EID)),
        ("plain.ipynb", notebook({"text/plain": ["63\n"]})),
        ("archive.zip", zipped(a=b"nothing")),
        ("empty.txt", b""),
    ],
)
def test_what_holds_no_id_is_clean(name, content):
    assert not list(privacy_scan.look_into(name, content))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("slice", b"\0" * 128 + b"DICM" + b"\0" * 64, "DICOM"),
        ("image.dcm", b"", "DICOM"),
        ("ecg.txt", b'<?xml version="1.0"?>\n<CardiologyXML>', "CardioSoft XML"),
        ("sa.nii.gz", gzip.compress(b"\0" * 400), "image volume"),
        ("x.safetensors", b"\2\0\0\0\0\0\0\0{}", "array"),
        ("x.bin", b"\2\0\0\0\0\0\0\0{}", "array"),
        ("x.bin", npy(np.zeros(3)), "array"),
        ("x.bin", parquet(x=[0.5]), "table"),
        ("last.ckpt", b"", "pickle or weights"),
        ("state", b"\x80\x04}\x94\x8c\x03age\x94K=s.", "pickle or weights"),
        ("00001_hr.hea", b"00001_hr 12 500 5000\n", "recording"),
        ("ukb.tab", b"f.eid\tf.31.0.0\n", "table"),
        ("ukb.csv", b'\xef\xbb\xbf"eid","31-0.0"\n', "table"),
        ("bulk.zip", zipped(**{"1.2.3.dcm": b""}), "DICOM"),
    ],
)
def test_data_of_single_people_is_found_whatever_is_in_it(name, content, kind):
    texts = [finding.text for finding in privacy_scan.look_into(name, content)]
    assert any(text.startswith(f"{kind}: data of single people") for text in texts)


def locked():
    """Return an archive that says it is encrypted."""
    content = bytearray(zipped(a=TEXT))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + offset] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.zip", zipped(a=TEXT)[:-30]),
        ("cut.gz", gzip.compress(TEXT)[:-12]),
        ("locked.zip", locked()),
        ("paper.pdf", b"%PDF-1.4\n"),
        ("objects.npy", npy(np.array([{}], object))),
        ("bomb.gz", gzip.compress(b"\0" * 3_000_000)),
        ("bomb.zip", zipped(a=b"\0" * 1_500_000, b=b"\0" * 1_500_000)),
        ("deep.gz", b"many"),
        ("large.txt", None),
    ],
)
def test_what_cannot_be_looked_into_does_not_pass(name, content, monkeypatch):
    monkeypatch.setattr(privacy_scan, "MOST_BYTES", 2_000_000)
    if name == "deep.gz":
        for _ in range(privacy_scan.MOST_DEPTH + 1):
            content = gzip.compress(content)
    texts = [finding.text for finding in privacy_scan.look_into(name, content)]
    assert any(text.startswith("cannot be looked into") for text in texts)


# ----------------------------------------------------------------------------------- repositories


class Repository:
    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.git("init", "-b", "main")

    def git(self, *arguments):
        who = ["-c", "user.name=a", "-c", f"user.email={EID}+a@users.noreply.github.com"]
        command = ["git", "-C", self.folder, *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def write(self, name, text):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def commit(self, message="change"):
        self.git("add", "-A")
        self.git("commit", "-m", message)

    def files(self, **options):
        report = scan([self.folder], **options)
        return {finding.file for finding in report.findings}


@pytest.fixture
def repository(tmp_path):
    made = Repository(tmp_path / "repository")
    made.write("README.md", "nothing\n")
    made.commit()
    return made


def test_everything_git_would_see_is_looked_at_and_nothing_else(repository):
    repository.write(".gitignore", "private/\n*.log\n")
    repository.write("tracked.txt", f"{EID}\n")
    repository.commit()
    repository.write("folder/untracked.txt", f"{EID}\n")
    repository.write("private/a.txt", f"{EID}\n")
    repository.write("run.log", f"{EID}\n")
    (repository.folder / "link").symlink_to(f"/bulk/{EID}_20209_2_0.zip")
    assert repository.files() == {"tracked.txt", "folder/untracked.txt", "link"}
    # A folder that git ignores is looked at where it is asked for: it may be sent by other ways.
    report = scan([repository.folder / "private"])
    assert [finding.file for finding in report.findings] == ["private/a.txt"]
    assert [f.file for f in scan([repository.folder / "run.log"]).findings] == ["run.log"]


def test_a_folder_without_git_is_looked_at_as_a_whole(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text(f"{EID}")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert len(scan([tmp_path]).findings) == 1
    monkeypatch.chdir(tmp_path)
    for arguments in ({}, {"paths": [tmp_path], "history": True}):
        with pytest.raises(UserError, match="no git repository"):
            scan(**arguments)
    with pytest.raises(UserError, match="no such file"):
        scan([tmp_path / "none"])


def test_the_history_holds_what_the_files_no_longer_do(repository):
    repository.write("table.txt", f"{EID}\n")
    repository.write(f"plots/{EID}.txt", "a plot\n")
    repository.commit()
    (repository.folder / "table.txt").unlink()
    (repository.folder / "plots" / f"{EID}.txt").unlink()
    repository.commit(f"Leave out {EID}")
    repository.git("branch", f"without-{EID}")
    repository.git("tag", "-a", "v1", "-m", f"without {EID}")
    assert scan([repository.folder]).ok
    report = scan([repository.folder], history=True)
    assert str(EID) not in report.text()
    kinds = {re.sub(" [0-9a-f]{12}$", "", finding.file) for finding in report.findings}
    names = {"table.txt", "plots/[id].txt", "names of branches and tags"}
    assert kinds == {*names, "tree", "commit", "tag"}


def test_a_shallow_history_does_not_pass(repository, tmp_path):
    repository.write("a.txt", "more\n")
    repository.commit()
    subprocess.run(
        ["git", "clone", "--depth", "1", f"file://{repository.folder}", tmp_path / "clone"],
        check=True,
        capture_output=True,
    )
    texts = [finding.text for finding in scan([tmp_path / "clone"], history=True).findings]
    assert len(texts) == 1
    assert "shallow" in texts[0]


def test_what_was_reviewed_passes_until_it_changes(repository, monkeypatch):
    monkeypatch.chdir(repository.folder)
    repository.write("data/a.hea", "a 12 500 5000\n")
    repository.write("docs/numbers.md", f"record {EID} of Zenodo\n")
    [sha256] = {f.sha256 for f in scan().findings if f.file == "data/a.hea"}
    allowed = f"data/*.hea {sha256} an open recording\ndocs/*.md Zenodo$ number of a data set\n"
    repository.write(".privacy-allow", f"# what and why\n\n{allowed}")
    repository.commit()
    report = scan(history=True)
    assert report.ok
    assert report.allowed == 2
    repository.write("data/a.hea", "a 12 500 4999\n")
    assert [finding.file for finding in scan().findings] == ["data/a.hea"]
    repository.git("checkout", "data/a.hea")
    repository.write(".privacy-allow", f"{allowed}gone/* DICOM no longer there\n")
    stale = scan(history=True)
    assert stale.stale == ["gone/* DICOM no longer there"]
    assert not stale.ok
    assert scan().ok  # only the history can tell
    for line in ("data/*.hea", "data/*.hea [ broken"):
        repository.write(".privacy-allow", line)
        with pytest.raises(UserError, match="line 1"):
            scan()


def test_the_command_says_what_it_found(ecgcmr, repository, tmp_path):
    def privacy(*arguments):
        return ecgcmr("privacy", *arguments, store=tmp_path / "store", check=False)

    clean = privacy(repository.folder, "--history")
    assert clean.returncode == 0
    assert "0 findings" in clean.stdout
    repository.write("a.txt", f"\neid = {EID}\n")
    found = privacy(repository.folder)
    assert found.returncode == 1
    assert "a.txt:2: looks like an id: eid = [id]" in found.stdout
    record = json.loads(privacy(repository.folder, "--json").stdout)
    assert not record["ok"]
    assert [(f["file"], f["line"]) for f in record["findings"]] == [("a.txt", 2)]


@pytest.fixture(scope="module")
def own_repository():
    if not (ROOT / ".git").exists():
        pytest.skip("the project's files are not in a repository")


def test_this_repository_and_its_history_are_clean(own_repository):
    report = scan([ROOT], history=True)
    assert not report.findings, report.text()


def test_boards_of_real_people_are_not_seen_by_git(own_repository):
    places = ("leaderboards/{}/cvd.md", "leaderboards/rows/{}/harmonised/cvd/mae.json")
    for cohort, expected in (("ukb-full", 0), ("wfdb-full", 0), ("simulated-tiny", 1)):
        for place in places:
            command = ["git", "-C", ROOT, "check-ignore", "-q", place.format(cohort)]
            assert subprocess.run(command).returncode == expected


# ---------------------------------------------------------------------------------- small counts


def cell(method="mae", n=500, positives=None, n_min=None, **others):
    rng = np.random.default_rng(len(method))
    smaller = n if positives is None else min(positives, n - positives)
    return Cell(
        method=method,
        head="linear",
        modality="ecg",
        target="AF",
        metric="AUROC",
        fraction=1.0,
        task_version=1,
        cohort_fingerprint="f",
        recipe_digest=method,
        replicates=(0, 1),
        score_digests=(f"{method}0", f"{method}1"),
        theta=np.array([0.71, 0.73]),
        psi=rng.normal(size=(500, 2)),
        n=n,
        positives=positives,
        n_min=smaller if n_min is None else n_min,
        chance=0.5,
        **others,
    )


NUMBERS = ("value", "lo", "hi", "se", "v_subj", "s2", "e2", "sigma2", "v", "nu", "chance")


@pytest.mark.parametrize(
    ("exact", "shown"),
    [
        ({"n": 500, "positives": 60}, {"n": 500, "positives": 60}),
        ({"n": 495, "positives": 5}, {"n": 495, "positives": 5}),
        ({"n": 497, "positives": 60}, {"n": ">495", "positives": 60}),
        ({"n": 500, "unmatched": 3, "ties": 499}, {"n": 500, "unmatched": "<5", "ties": None}),
        ({"n": 500, "unmatched": 0, "ties": 5}, {"n": 500, "unmatched": 0, "ties": 5}),
    ],
)
def test_counts_below_five_are_not_published(exact, shown):
    result = row_of(without_small_counts(cell(**exact), 500))["result"]
    assert {name: result.get(name) for name in shown} == shown
    assert result["status"] == "ok"
    assert result["value"] == pytest.approx(0.72)


@pytest.mark.parametrize("replicates", [1, 2])
@pytest.mark.parametrize("n", [496, 498, 499])
def test_degrees_of_freedom_do_not_tell_a_count_that_is_withheld(n, replicates):
    def published(n):
        whole = cell(n=n, n_min=n)
        part = {name: getattr(whole, name)[:replicates] for name in ("replicates", "score_digests")}
        part |= {"theta": whole.theta[:replicates], "psi": whole.psi[:, :replicates]}
        few = without_small_counts(dataclasses.replace(whole, **part), 500)
        return row_of(few), versus_of(few, dataclasses.replace(few, method="mmcl"))

    assert published(n) == published(497)
    assert published(n) != published(500)


def searched(*found):
    """How often the own scan came first, in as many replicates as there are numbers of people."""
    metric, parts = RecallAt(k=1), []
    for count in found:
        own = np.zeros((500, 3))
        own[count:, 0], own[:count, 2] = 1, 1
        parts.append((metric.smallest(p := Predictions((), {"own": own})), *metric.influence(p)))
    columns = {
        "theta": np.concatenate([theta for _, theta, _ in parts]),
        "psi": np.concatenate([psi for *_, psi in parts], axis=1),
        "n_min": min(smallest for smallest, *_ in parts),
        "score_digests": tuple(f"r{i}" for i in range(len(found))),
        "replicates": tuple(range(len(found))),
    }
    return dataclasses.replace(cell(), share=metric.share, scale=metric.scale, **columns)


def test_a_share_of_people_tells_no_count_of_them():
    def published(*found):
        return row_of(without_small_counts(searched(*found), 500))["result"]

    assert published(40)["value"] == 0.08
    for near in (38, 39, 41, 42):
        assert published(near) == published(40)
    assert published(43) != published(40)
    assert published(498 - 40)["value"] == pytest.approx(0.92)
    simulated = row_of(searched(41))["result"]
    assert simulated["value"] == pytest.approx(0.082)
    assert published(41)["se"] == pytest.approx(simulated["se"], rel=0.05)
    # Who is found by one replicate and not by the other is known to three digits of a variance.
    two = published(38, 52)
    assert two["values"] == [0.08, 0.1]
    assert all(two[name] == float(f"{two[name]:.3g}") for name in ("v_subj", "e2", "se", "nu"))
    assert published(4)["value"] is None


@pytest.mark.parametrize(
    ("exact", "shown"),
    [
        ({"n": 500, "positives": 4}, {"n": 500, "positives": "<5"}),
        ({"n": 500, "positives": 497}, {"n": 500, "positives": None}),
        ({"n": 4, "positives": 2}, {"n": "<5", "positives": None}),
        ({"n": 500, "unmatched": 498}, {"n": 500, "unmatched": None}),
        ({"n": 500, "n_min": 3}, {"n": 500}),
    ],
)
def test_nothing_is_derived_from_fewer_than_five_people(exact, shown):
    few = without_small_counts(cell(**exact), 500)
    result = row_of(few)["result"]
    assert {name: result.get(name) for name in shown} == shown
    assert result["status"] == "fewer than 5 people"
    assert [result[name] for name in NUMBERS] == [None] * len(NUMBERS)
    assert result["values"] == []
    for a, b in ((few, cell("mmcl")), (cell("mmcl"), few)):
        assert versus_of(a, b) is None


def test_a_status_stays_when_a_count_is_withheld():
    few = cell(positives=3)
    few = without_small_counts(type(few)(**{**vars(few), "status": "too few positives"}), 500)
    assert row_of(few)["result"]["status"] == "too few positives"
    assert json.loads(rows_text(row_of(few)))["result"]["positives"] == "<5"
