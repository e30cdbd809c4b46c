"""``ecgcmr privacy``: what must not be published, in everything that git would see.

Two things are looked for: numbers that look like UK Biobank ids, in contents and in names, and
kinds of files that hold data of single people whatever is in them. What cannot be looked into is
reported too, so that nothing passes unseen.

UK Biobank asks researchers to run its own Git Audit Tool before they publish code; this follows
its idea of what an id is, looks into archives, tables and pictures as well, and never prints an
id. What was reviewed and may stay stands in ``.privacy-allow`` at the root of the repository, a
line each::

    path-glob  sha256-of-the-file | pattern-in-the-finding's-text  reason
"""

from __future__ import annotations

import base64
import bz2
import fnmatch
import gzip
import hashlib
import io
import lzma
import os
import re
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from benchmark.api import UserError
from benchmark.privacy import ids_in, mask

if TYPE_CHECKING:
    import numpy as np

ALLOW_LIST = ".privacy-allow"
MOST_BYTES = 1 << 29
"""Of one file, packed and unpacked: more cannot be looked into."""
MOST_DEPTH = 4
"""Of archives in archives."""
LOWEST, HIGHEST = 1_000_000, 6_999_999
MOST_LINES = 20
"""Lines of one content that are reported one by one."""
_AROUND = 40  # characters of a line that are shown on either side of what was found

PEOPLE = {
    **dict.fromkeys((".dcm", ".ima"), "DICOM"),
    **dict.fromkeys((".nii", ".nii.gz", ".mgz", ".nrrd", ".mha"), "image volume"),
    **dict.fromkeys((".hea", ".dat", ".edf", ".mat"), "recording"),
    **dict.fromkeys((".npy", ".npz", ".safetensors", ".h5", ".hdf5", ".zarr"), "array"),
    **dict.fromkeys((".parquet", ".feather", ".arrow", ".dta", ".sav", ".rds"), "table"),
    **dict.fromkeys((".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".joblib"), "pickle or weights"),
}
"""Endings of files that hold single people's data, or weights fitted on them."""
_PEOPLE_BEGIN = {
    b"\x93NUMPY": "array",
    b"\x89HDF": "array",
    b"PAR1": "table",
    b"ARROW1": "table",
    b"MATLAB 5.0": "recording",
}
_EID_COLUMN = re.compile(rb"(\xef\xbb\xbf)?[\"']?(f\.|n_|participant\.)?eid[\"']?[,;\t]", re.I)
_OPAQUE_BEGIN = {
    b"%PDF-": "PDF",
    b"7z\xbc\xaf\x27\x1c": "7z archive",
    b"Rar!": "RAR archive",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
PNG = b"\x89PNG\r\n\x1a\n"
_STREAMS: dict[bytes, Callable[[io.BytesIO], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
# Base64, as notebooks keep pictures in; a path is long only where it has other characters too.
_BASE64 = re.compile(
    r"(?<![A-Za-z0-9+/])(?=[+/0-9A-Z]*[a-z])(?=[+/0-9a-z]*[A-Z])[A-Za-z0-9+/]{200,}={0,2}"
)
# GitHub's addresses for those who hide theirs begin with the number of the account.
_NOREPLY = re.compile(rb"\d+(?=\+[\w.\-\[\]]+@users\.noreply\.github\.com)")


@dataclass(frozen=True)
class Finding:
    """Something that must not be published, or cannot be looked into.

    Attributes
    ----------
    file
        Ids in it are masked.
    place
        Member of an archive after ``!``, object of the history after ``@``.
    line
        Of a text, from 1.
    text
        What it is, with the line around it, ids masked.
    sha256
        Of the file's content, as the list of what is allowed names it.
    """

    file: str
    place: str
    line: int | None
    text: str
    sha256: str

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        return f"{self.file}{self.place}{line}: {self.text}"


@dataclass
class Report:
    """What a scan saw.

    ``stale`` are lines of the allow-list that nothing needs any more: known only once everything,
    with its history, was looked at. ``allowed`` counts findings that the list covers.
    """

    findings: list[Finding]
    stale: list[str]
    allowed: int
    files: int
    objects: int

    @property
    def ok(self) -> bool:
        """Whether there is nothing to do."""
        return not self.findings and not self.stale

    def text(self) -> str:
        """Return everything for people."""
        seen = f"{self.files:,} files"
        seen += f" and {self.objects:,} objects of the history" if self.objects else ""
        lines = [str(finding) for finding in self.findings]
        lines += [
            f"{ALLOW_LIST}: nothing needs this line any more: {mask(line)}" for line in self.stale
        ]
        allowed = f"{self.allowed:,} more allowed by {ALLOW_LIST}"
        lines.append(f"{len(self.findings):,} findings in {seen}, {allowed}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return everything for programs."""
        return {"ok": self.ok, **asdict(self)}


def scan(paths: Sequence[Path] = (), history: bool = False) -> Report:
    """Look for ids and for data of single people.

    Parameters
    ----------
    paths
        Files and folders; of a folder in a git repository what git would see of it, unless git
        ignores the folder itself, else everything. By default the repository one stands in.
    history
        Also every object of every branch and tag of the repository: contents, names, messages.

    Raises
    ------
    UserError
        When a path does not exist, git is needed and missing, or a line of the allow-list is none.
    """
    root = _repository(Path(paths[0]) if paths else Path())
    if root is None and (history or not paths):
        raise UserError("this is no git repository; name the files or folders to look at")
    allow = _read_allow_list(root / ALLOW_LIST) if root else []
    findings: list[Finding] = []
    seen: set[tuple[str, bytes]] = set()
    counts = {"files": 0, "objects": 0}

    def look(kind: str, name: str, content: bytes | None, place: str = "") -> None:
        """Look at one content once, however many commits and branches have it."""
        counts[kind] += 1
        key = (name, hashlib.sha256(content or b"").digest())
        if content is None or key not in seen:
            seen.add(key)
            findings.extend(look_into(name, content, place))

    for given in paths or [root]:
        for file in _files(Path(given)):
            shown = file.relative_to(root) if root and file.is_relative_to(root) else file
            look("files", shown.as_posix(), _read(file))
    if history:
        if _git(root, "rev-parse", "--is-shallow-repository").strip() == b"true":
            text = "a shallow clone: what its older commits hold cannot be looked into"
            findings.append(Finding("the history", "", None, text, ""))
        for name, content, place in _history(root):
            look("objects", name, content, place)

    used: set[int] = set()
    kept = []
    for finding in findings:
        matching = {k for k, entry in enumerate(allow) if entry.covers(finding)}
        used |= matching
        if not matching:
            kept.append(finding)
    stale: list[str] = []
    if history and not paths:  # only after everything is it known what nothing needs
        stale = [entry.line for k, entry in enumerate(allow) if k not in used]
    return Report(kept, stale, len(findings) - len(kept), **counts)


# ---------------------------------------------------------------------------- what is allowed


@dataclass(frozen=True)
class _Allowed:
    line: str
    glob: str
    what: str

    def covers(self, finding: Finding) -> bool:
        """Whether this line is about the finding: by the file's content, or by a pattern."""
        if not fnmatch.fnmatchcase(finding.file, self.glob):
            return False
        if re.fullmatch("[0-9a-f]{64}", self.what):
            return finding.sha256 == self.what
        return re.search(self.what, finding.text) is not None


def _read_allow_list(path: Path) -> list[_Allowed]:
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split(maxsplit=2)
        if len(parts) < 3:
            raise UserError(f"{path}, line {number}: a glob, a sha256 or pattern, and a reason")
        try:
            re.compile(parts[1])
        except re.error as error:
            raise UserError(f"{path}, line {number}: no pattern: {error}") from None
        entries.append(_Allowed(" ".join(parts), parts[0], parts[1]))
    return entries


# -------------------------------------------------------------------------- one file's content


def look_into(name: str, content: bytes | None, place: str = "") -> Iterator[Finding]:
    """Yield what is found in a file's name and content, and in what it holds packed.

    Parameters
    ----------
    name
        The file's name, with its folders.
    content
        None where it is too large to look into.
    place
        Where in the history it stands.
    """
    sha256 = hashlib.sha256(content or b"").hexdigest()

    def found(where: str, line: int | None, text: str) -> Finding:
        return Finding(mask(name), place + where, line, text, sha256)

    if any(ids_in(name)):
        yield found("", None, "the name looks as if it held an id")
    if content is None:
        yield found("", None, f"cannot be looked into: larger than {MOST_BYTES >> 20} MiB")
        return
    for where, inner, part in contents(name, content):
        if isinstance(part, str):
            yield found(where, None, f"cannot be looked into: {part}")
            continue
        if kind := _people_kind(inner, part):
            yield found(where, None, f"{kind}: data of single people (sha256 {sha256})")
        for text in _table_ids(part):
            yield found(where, None, text)
        lines = 0
        for line, text in _text_ids(_decoded(_without_pixels(part))):
            lines += 1
            if lines <= MOST_LINES:
                yield found(where, line, text)
        if lines > MOST_LINES:
            yield found(where, None, f"{lines - MOST_LINES:,} more lines that look like ids")


def contents(name: str, content: bytes) -> Iterator[tuple[str, str, bytes | str]]:
    """Yield a file's content and everything packed in it, at any depth.

    Each as its place in the file, its name, and its bytes or, in words, why they cannot be had.
    """
    return _parts("", name, content, [MOST_BYTES], 0)


def _parts(
    where: str, name: str, content: bytes, budget: list[int], depth: int
) -> Iterator[tuple[str, str, bytes | str]]:
    yield where, name, content
    begin = next((b for b in _OPAQUE_BEGIN if content.startswith(b)), None)
    if begin is not None:
        yield where, name, _OPAQUE_BEGIN[begin]
        return
    try:
        for inner, part in _unpacked(name, content, budget):
            if depth >= MOST_DEPTH:
                yield where, name, f"archives in archives, {MOST_DEPTH} deep"
                return
            yield from _parts(f"{where}!{mask(inner)}", inner, part, budget, depth + 1)
    except _TooLargeError:
        yield where, name, f"more than {MOST_BYTES >> 20} MiB unpacked"
    except Exception as error:  # damaged or encrypted archives raise whatever their library does
        yield where, name, f"{type(error).__name__} on unpacking"


class _TooLargeError(Exception):
    pass


def _unpacked(name: str, content: bytes, budget: list[int]) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of what an archive, a compressed file or a picture holds."""

    def read(file: IO[bytes]) -> bytes:
        data = file.read(budget[0] + 1)
        budget[0] -= len(data)
        if budget[0] < 0:
            raise _TooLargeError
        return data

    begin = next((b for b in _STREAMS if content.startswith(b)), None)
    if begin is not None:
        with _STREAMS[begin](io.BytesIO(content)) as file:
            yield PurePosixPath(name).stem, read(file)
    elif content.startswith((b"PK\3\4", b"PK\5\6")):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as file:
                        yield member.filename, read(file)
    elif content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    yield member.name, read(file)
    elif content.startswith(PNG):
        for chunk, data in _png_texts(content):
            yield chunk, read(io.BytesIO(data))
    else:
        for match in _BASE64.finditer(_decoded(content).replace("\\n", "")):
            token = match[0].rstrip("=")
            data = base64.b64decode(token + "=" * (-len(token) % 4) if len(token) % 4 != 1 else "")
            yield "base64", read(io.BytesIO(data))


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, slice]]:
    """Yield kind and place of each chunk of a PNG; the last one may be cut short."""
    at = 8
    while at + 8 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        yield content[at + 4 : at + 8], slice(at + 8, end)
        at = end + 4


def _png_texts(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the compressed texts of a PNG; the others are read as they stand."""
    for kind, place in _png_chunks(content):
        keyword, _, rest = content[place].partition(b"\0")
        if kind == b"zTXt":
            yield "zTXt", keyword + b" " + _inflated(rest[1:])
        elif kind == b"iTXt" and rest[:1] == b"\1":
            yield "iTXt", keyword + b" " + _inflated(rest[2:].split(b"\0", 2)[2])


def _without_pixels(content: bytes) -> bytes:
    """Leave out a PNG's pixels and colours: the greys 48 to 57 of a palette read as digits."""
    if not content.startswith(PNG):
        return content
    legible = bytearray(content)
    for kind, place in _png_chunks(content):
        if kind in (b"PLTE", b"tRNS", b"IDAT") and place.stop <= len(content):
            legible[place] = b" " * (place.stop - place.start)
    return bytes(legible)


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, MOST_BYTES)


def _people_kind(name: str, content: bytes) -> str | None:
    """Return what kind of individual-level file this is, by its name or its first bytes."""
    by_name = next((kind for end, kind in PEOPLE.items() if name.lower().endswith(end)), None)
    if by_name is not None:
        return by_name
    if content[128:132] == b"DICM":
        return "DICOM"
    if content[344:347] in (b"n+1", b"ni1"):
        return "image volume"
    if b"<CardiologyXML" in content[:4096]:
        return "CardioSoft XML"
    if _EID_COLUMN.match(content):
        return "table"
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content) - 8:
        return "array"  # safetensors
    if content[:1] == b"\x80" and content[1:2] in b"\2\3\4\5" and content.endswith(b"."):
        return "pickle or weights"
    return next((kind for b, kind in _PEOPLE_BEGIN.items() if content.startswith(b)), None)


# --------------------------------------------------------------------------------- texts, tables


def _decoded(content: bytes) -> str:
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return content.decode("utf-16" if utf16 else "utf-8", "replace")


def _text_ids(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, masked words around) of every line that has something like an id."""
    pictures = [match.span() for match in _BASE64.finditer(text)]
    number, at, shown = 1, 0, 0
    for begin, end in ids_in(text):
        number, at = number + text.count("\n", at, begin), begin
        if number > shown and not any(a <= begin < b for a, b in pictures):
            shown = number
            yield number, f"looks like an id: {_around(text, begin, end)}"


def _around(text: str, begin: int, end: int) -> str:
    """Return the line around an id, without any digit: what stands beside it is a person's too."""
    before = text[max(0, begin - _AROUND) : begin].rpartition("\n")[2]
    after = text[end : end + _AROUND].partition("\n")[0]
    line = "".join(c if c.isprintable() else " " for c in f"{before}[id]{after}")
    return " ".join(re.sub("[0-9]", "#", line).split())


def _table_ids(content: bytes) -> Iterator[str]:
    """Say which columns of an array or a table hold ids.

    Numbers count where all of a column are whole, as in ids that were read as floats.
    """
    import numpy as np

    try:
        found = list(columns(content))
    except Exception as error:  # damaged, or made of objects
        yield f"cannot be looked into: {type(error).__name__} on reading the table"
        return
    for name, values in found:
        count = 0
        if values.dtype.kind in "iuf":
            known = values[np.isfinite(values)]
            if (known == np.round(known)).all():
                count = int(((known >= LOWEST) & (known <= HIGHEST)).sum())
        elif values.dtype.kind in "OUS":
            count = sum(any(ids_in(str(value))) for value in values)
        if count:
            yield f"{mask(name)}: {count:,} values look like ids"


def columns(content: bytes) -> Iterable[tuple[str, np.ndarray]]:
    """Return name and values of each column of a table, or of an array; none of anything else.

    Raises whatever the reading library does for a damaged one, and for arrays of objects.
    """
    import numpy as np

    if content.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if array.dtype.names:
            return [(name, array[name].ravel()) for name in array.dtype.names]
        return [("array", array.ravel())]
    if content.startswith((b"PAR1", b"ARROW1")):
        import pandas as pd

        read = pd.read_parquet if content.startswith(b"PAR1") else pd.read_feather
        table = read(io.BytesIO(content)).reset_index()
        return [(str(name), column.to_numpy()) for name, column in table.items()]
    return ()


# --------------------------------------------------------------------------------------- git


def _git(folder: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True)
    except OSError:
        raise UserError("git is needed for this and was not found") from None
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise UserError(f"git {arguments[0]}: {message or done.returncode}")
    return done.stdout


def _repository(place: Path) -> Path | None:
    """Return the root of the git repository of a file or folder."""
    if not place.exists():
        raise UserError(f"{place}: there is no such file or folder")
    try:
        top = _git(place if place.is_dir() else place.parent, "rev-parse", "--show-toplevel")
    except UserError:
        return None
    return Path(os.fsdecode(top).rstrip("\n"))


def _files(place: Path) -> Iterator[Path]:
    """Yield the files of a place, links among them, which are not followed."""
    if not place.exists():
        raise UserError(f"{place}: there is no such file or folder")
    if not place.is_dir():
        yield place.parent.resolve() / place.name
        return
    place = place.resolve()  # as git names the root
    if _repository(place) is not None and not _ignored(place):
        listed = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
        names = os.fsdecode(_git(place, *listed)).split("\0")
        found = (place / name for name in names if name)
    else:
        found = place.rglob("*")
    # Of what git tracks some may be removed, and of what is not tracked some may just be going.
    yield from sorted(file for file in found if file.is_symlink() or file.is_file())


def _ignored(folder: Path) -> bool:
    done = subprocess.run(["git", "-C", folder, "check-ignore", "-q", "."], capture_output=True)
    return done.returncode == 0


def _read(file: Path) -> bytes | None:
    """Return a file's bytes, of a link where it points, as git keeps it; None beyond the cap."""
    try:
        if file.is_symlink():
            return os.fsencode(file.readlink())
        return file.read_bytes() if file.stat().st_size <= MOST_BYTES else None
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"{file}: cannot read it: {error.strerror}") from None


def _history(root: Path) -> Iterator[tuple[str, bytes | None, str]]:
    """Yield name, content and place of every object that a branch, a tag or a stash reaches.

    A tree counts by the names in it, a commit and a tag by what they say.
    """
    yield "names of branches and tags", _git(root, "for-each-ref", "--format=%(refname)"), ""
    listed = os.fsdecode(_git(root, "rev-list", "--objects", "--all")).splitlines()
    names = dict(line.partition(" ")[::2] for line in listed)
    command = ["git", "-C", root, "cat-file", "--buffer"]
    with tempfile.TemporaryFile() as wanted:
        wanted.write("\n".join(names).encode())
        wanted.seek(0)
        sizes = subprocess.run([*command, "--batch-check"], stdin=wanted, capture_output=True)
    objects = [line.split() for line in sizes.stdout.decode().splitlines()]
    if any(len(found) != 3 for found in objects):
        raise UserError("objects of the history are missing here: is this a partial clone?")
    with tempfile.TemporaryFile() as wanted:
        for sha, kind, size in objects:
            if int(size) <= MOST_BYTES:
                wanted.write(f"{sha}\n".encode())
            else:
                yield names[sha], None, f"@{kind} {sha[:12]}"
        wanted.seek(0)
        with subprocess.Popen(
            [*command, "--batch"], stdin=wanted, stdout=subprocess.PIPE
        ) as reading:
            while header := reading.stdout.readline().decode().split():
                sha, kind, size = header
                content = reading.stdout.read(int(size) + 1)[:-1]
                if kind == "tree":
                    # Between the names are modes of six digits and hashes of any bytes.
                    entry = rb"[0-7]+ ([^\0]+)\0.{%d}" % (len(sha) // 2)
                    content = b"\n".join(re.findall(entry, content, re.DOTALL))
                elif kind != "blob":
                    content = _NOREPLY.sub(b"", content)
                name = names[sha] if kind == "blob" else f"{kind} {sha[:12]}"
                yield name, content, f"@{sha[:12]}" if kind == "blob" else ""
