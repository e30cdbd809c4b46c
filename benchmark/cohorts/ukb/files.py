"""Finding the bulk files of UK Biobank, wherever a site keeps them.

They are told by their names, ``<eid>_<field>_<instance>_<array>.<ending>``, read from the right,
anywhere below the given folders: ukbfetch writes one flat folder, the Research Analysis Platform
mounts a tree. Images that somebody has converted with ukbb_cardiac are told by a folder with
``sa.nii.gz`` (or ``la_4ch.nii.gz``) whose name is ``<eid>``, ``<eid>_<instance>`` or that of the
bulk file.

Listing a mounted folder of 100,000 files takes minutes, so listings are kept in the store and a
folder is listed again only when it has changed. Of people who have withdrawn nothing is kept, so a
folder that still holds their files is listed every time.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.api import UserError
from benchmark.cohorts.ukb.labels import ECG, LONG_AXIS, SHORT_AXIS
from benchmark.privacy import mask

if TYPE_CHECKING:
    import pandas as pd

NIFTI = {
    f"{name}{ending}": number
    for name, number in (("sa", SHORT_AXIS), ("la_4ch", LONG_AXIS))
    for ending in (".nii.gz", ".nii")
}
IMAGING_VISIT = 2

_BULK = re.compile(
    r"(?:.*_)?([0-9]{1,18})_([0-9]{1,9})_([0-9]{1,3})_([0-9]{1,3})\.(xml|zip)", re.IGNORECASE
)
_WHOLE = re.compile(r"[0-9]{1,18}")
_ENDINGS = {ECG: "xml", LONG_AXIS: "zip", SHORT_AXIS: "zip"}
_SETTLED_SECONDS = 10.0
"""A folder changed more recently is listed again: its time stamp may not tell the next change."""


class BulkFile(NamedTuple):
    """One file, or one folder of NIfTI files, of one person.

    ``path`` is relative to the given folder that it was found below, number ``root``.
    """

    eid: int
    field: int
    instance: int
    array: int
    converted: bool
    root: int
    path: str


_COLUMNS = ["folder", "kind", "mtime", "others", *BulkFile._fields]


@dataclass(frozen=True)
class BulkFiles:
    """Everything found below the given folders.

    Attributes
    ----------
    roots
        The folders.
    files
        One row per `BulkFile`, in the order of its columns; each (eid, field, instance) once.
    repeated
        Files left out because another one is of the same person, field and visit.
    others
        Files of any other name.
    """

    roots: tuple[Path, ...]
    files: pd.DataFrame
    repeated: int
    others: int

    def path(self, root: int, path: str) -> Path:
        """Return where a file lies."""
        return self.roots[root] / path


def find_files(
    roots: Sequence[Path],
    cache: Path | None = None,
    withdrawn: Set[int] = frozenset(),
) -> BulkFiles:
    """Find the bulk files below some folders.

    Where a person has both a zip and converted images of a visit, the converted ones count: they
    may bring a segmentation. Otherwise the lowest array number and then the first path counts.

    Parameters
    ----------
    roots
        Folders.
    cache
        Folder for listings; None keeps none.
    withdrawn
        People whose files are found but not kept in listings.

    Raises
    ------
    UserError
        For a folder that cannot be read, or when there is no bulk file at all.
    """
    import pandas as pd

    roots = tuple(Path(os.path.abspath(root)) for root in roots)  # noqa: PTH100 - keeps links
    if not all(_is_text(str(root)) for root in roots):
        raise UserError("the path of a folder with files is not UTF-8; rename it")
    found: list[BulkFile] = []
    others = 0
    for number, root in enumerate(roots):
        for folder in _Walk(root, cache, withdrawn).folders():
            others += folder.others
            found += [file._replace(root=number) for file in folder.files]
    if cache is not None:
        for path in cache.glob("files-*.parquet"):
            if path not in {_listing(cache, root) for root in roots}:
                path.unlink()  # of a folder that is no longer given: nobody would renew it
    if not found:
        raise UserError(
            f"no file below {', '.join(map(str, roots))} is named like UK Biobank's bulk files "
            f"(<eid>_{ECG}_2_0.xml, <eid>_{SHORT_AXIS}_2_0.zip)"
        )
    table = pd.DataFrame(found, columns=BulkFile._fields)
    table = table.sort_values(
        ["eid", "field", "instance", "converted", "array", "root", "path"],
        ascending=[True, True, True, False, True, True, True],
        kind="stable",
    )
    once = table.drop_duplicates(["eid", "field", "instance"]).reset_index(drop=True)
    return BulkFiles(roots, once, len(table) - len(once), others)


@dataclass
class _Folder:
    """What stands directly in one folder."""

    mtime: int
    subfolders: list[str]
    files: list[BulkFile]
    others: int


class _Walk:
    """Lists a tree, or takes what an earlier walk has kept of it."""

    def __init__(self, root: Path, cache: Path | None, withdrawn: Set[int]) -> None:
        self._root, self._withdrawn = root, withdrawn
        self._cache = _listing(cache, root) if cache else None

    def folders(self) -> list[_Folder]:
        """Return every folder of the tree, each once even where links lead back into it."""
        kept = self._load()
        found: dict[str, _Folder] = {}
        seen: set[tuple[int, int]] = set()
        waiting = [""]
        while waiting:
            path = waiting.pop()
            try:
                now = time.time()
                status = (self._root / path).stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                folder = kept.get(path)
                if folder is None or folder.mtime != status.st_mtime_ns:
                    folder = self._list(path)
                    settled = now - status.st_mtime > _SETTLED_SECONDS
                    folder.mtime = status.st_mtime_ns if settled else -1
            except OSError as error:
                where = mask(str(self._root / path))
                raise UserError(f"cannot read the folder {where}: {error.strerror}") from None
            found[path] = folder
            waiting += sorted((os.path.join(path, sub) for sub in folder.subfolders), reverse=True)  # noqa: PTH118
        self._save(found)
        return list(found.values())

    def _list(self, path: str) -> _Folder:
        folder = _Folder(-1, [], [], 0)
        with os.scandir(self._root / path) as entries:
            for entry in entries:
                if not _is_text(entry.name):
                    if entry.is_dir():
                        raise UserError(
                            f"a folder in {mask(str(self._root / path))} has a name that is not "
                            "UTF-8; rename it"
                        )
                    folder.others += 1
                elif entry.is_dir():
                    folder.subfolders.append(entry.name)
                elif (file := _converted(path, entry.name) or _bulk(path, entry.name)) is not None:
                    folder.files.append(file)
                else:
                    folder.others += 1
        return folder

    def _load(self) -> dict[str, _Folder]:
        if self._cache is None or not self._cache.exists():
            return {}
        import pandas as pd

        try:
            table = pd.read_parquet(self._cache)
        except (OSError, ValueError):  # half-written by a process that was killed
            return {}
        kept: dict[str, _Folder] = {}
        for path, kind, mtime, others, *file in zip(
            *(table[column].tolist() for column in _COLUMNS), strict=True
        ):
            folder = kept.setdefault(path, _Folder(-1, [], [], 0))
            if kind == "folder":
                folder.mtime, folder.others = mtime, others
            elif kind == "subfolder":
                folder.subfolders.append(file[-1])
            else:
                folder.files.append(BulkFile(*file))
        return kept

    def _save(self, found: dict[str, _Folder]) -> None:
        if self._cache is None:
            return
        import pandas as pd

        no_file = BulkFile(0, 0, 0, 0, False, 0, "")
        rows: list[tuple[Any, ...]] = []
        for path, folder in self._without_withdrawn(found).items():
            rows.append((path, "folder", folder.mtime, folder.others, *no_file))
            for name in folder.subfolders:
                rows.append((path, "subfolder", 0, 0, *no_file._replace(path=name)))
            rows += [(path, "file", 0, 0, *file) for file in folder.files]
        table = pd.DataFrame(rows, columns=_COLUMNS)
        part = self._cache.with_suffix(".part")
        table.to_parquet(part, index=False)
        part.chmod(0o600)
        part.replace(self._cache)

    def _without_withdrawn(self, found: dict[str, _Folder]) -> dict[str, _Folder]:
        """Leave out their files, and their folders, of which the names tell ids as well."""
        if not self._withdrawn:
            return found
        theirs = {
            path
            for path, folder in found.items()
            if any(file.converted and file.eid in self._withdrawn for file in folder.files)
        }
        kept = {}
        for path, folder in found.items():
            files = [file for file in folder.files if file.eid not in self._withdrawn]
            names = [n for n in folder.subfolders if os.path.join(path, n) not in theirs]  # noqa: PTH118
            whole = (files, names) == (folder.files, folder.subfolders)
            mtime = folder.mtime if whole else -1
            if path not in theirs:
                kept[path] = _Folder(mtime, names, files, folder.others)
        return kept


def _is_text(name: str) -> bool:
    """Whether a name can stand in a table; names on disk are any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listing(cache: Path, root: Path) -> Path:
    return cache / f"files-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.parquet"


def _bulk(folder: str, name: str) -> BulkFile | None:
    """Return the bulk file that a name stands for."""
    parts = _BULK.fullmatch(name)
    if parts is None:
        return None
    eid, field, instance, array = map(int, parts.groups()[:4])
    if _ENDINGS.get(field) != parts[5].lower() or eid == 0:
        return None
    return BulkFile(eid, field, instance, array, False, 0, os.path.join(folder, name))  # noqa: PTH118


def _converted(folder: str, name: str) -> BulkFile | None:
    """Return the converted images that a file stands for: its folder, and of which field."""
    parts = os.path.basename(folder).split("_")  # noqa: PTH119
    places = {1: None, 2: 1, 4: 2}  # <eid>, <eid>_<instance>, <eid>_<field>_<instance>_<array>
    if name not in NIFTI or len(parts) not in places or not all(map(_WHOLE.fullmatch, parts)):
        return None
    place = places[len(parts)]
    instance = IMAGING_VISIT if place is None else int(parts[place])
    eid = int(parts[0])
    return BulkFile(eid, NIFTI[name], instance, 0, True, 0, folder) if eid else None
