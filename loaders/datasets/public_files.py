"""Datasets as they are published: where their archives are, their MD5 sums, and whether the files on disk have them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from loaders.datasets.split import file_stamp
from loaders.download import download
from loaders.errors import UserError
from loaders.files import cache_folder, file_digest


@dataclass(frozen=True)
class PublicFiles:
    """How a dataset is published: an archive, and the folder of files in it.

    Attributes:
        url: where the archive can be downloaded.
        archive: the archive's file name.
        md5: the archive's MD5 sum in hexadecimal.
        folder: the folder that the archive holds.
        files: the MD5 sum of each file in the folder, by name; empty where there are too many to be published.
    """

    url: str
    archive: str
    md5: str
    folder: str
    files: dict[str, str]


def public_files() -> dict[str, PublicFiles]:
    """How each dataset is published, by its name; torchvision knows most."""
    from torchvision.datasets import CIFAR10, CIFAR100, STL10  # late: it imports torch

    found = {}
    for name, theirs in {"cifar10": CIFAR10, "cifar100": CIFAR100, "stl10": STL10}.items():
        files = dict(map(tuple, theirs.train_list + theirs.test_list))
        if hasattr(theirs, "meta"):
            files[theirs.meta["filename"]] = theirs.meta["md5"]
        found[name] = PublicFiles(theirs.url, theirs.filename, theirs.tgz_md5, theirs.base_folder, files)
    found["tiny-imagenet"] = PublicFiles(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
        "tiny-imagenet-200",
        {},
    )
    return found


def download_dataset(public: PublicFiles, out: Path, url: str | None = None) -> Path:
    """Downloads and unpacks a dataset: ``out/<public.folder>`` is there, whole, or not at all; the archive is removed.

    Args:
        url: another place that has the archive; its checksum must be the same.

    Returns:
        The folder. One that is there already is left as it is.

    Raises:
        UserError: the archive cannot be fetched, is not the published one, or cannot be unpacked.
    """
    from torchvision.datasets.utils import extract_archive  # late: it imports torch

    folder, archive = out / public.folder, out / public.archive
    if folder.exists():
        return folder
    if archive.exists():
        check_file(archive, public.md5)
    download(url or public.url, archive, md5=public.md5)
    unpacked = out / f".{public.folder}.unpacking"
    try:
        shutil.rmtree(unpacked, ignore_errors=True)
        extract_archive(str(archive), str(unpacked))
        os.rename(unpacked / public.folder, folder)
        unpacked.rmdir()
        archive.unlink()
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive} cannot be unpacked: {error}") from error
    return folder


def verify(name: str, root: Path) -> None:
    """Compares the files that would be read with their published sums; those of other datasets have none.

    What was right once is not read again before its size or time changes.

    Raises:
        UserError: a file that is not the published one.
    """
    public = public_files().get(name)
    if public is None or not public.files:
        return
    first = next(iter(public.files))
    place = next((folder for folder in (root, root / public.folder) if (folder / first).is_file()), None)
    wanted = {place / file: md5 for file, md5 in public.files.items()} if place else {root / public.archive: public.md5}
    for path, md5 in wanted.items():
        if path.is_file():  # what is missing is said by who opens it
            check_file(path, md5)


def check_file(path: Path, md5: str) -> None:
    """Compares a file with its MD5 sum, unless that was done before.

    Raises:
        UserError: it has another.
    """
    mark = _mark(path, md5)
    if mark.exists():
        return
    found = file_digest(path, "md5")
    if found != md5:
        raise UserError(
            f"{path} is not the published file: its MD5 sum is {found} and should be {md5}; download it again"
        )
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:  # a read-only home: it is read again next time
        pass


def _mark(path: Path, md5: str) -> Path:
    """An empty file whose presence says that the file, as it is now, has been found right."""
    identity = repr((str(path.absolute()), file_stamp([path]), md5))
    return cache_folder("verified") / hashlib.sha256(identity.encode()).hexdigest()
