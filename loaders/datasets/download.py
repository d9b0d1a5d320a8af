"""Fetches a dataset's public archive, checks it and unpacks it."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

from loaders.datasets.checksums import PublicFiles, check_file
from loaders.errors import UserError


def download(public: PublicFiles, out: Path, url: str | None = None) -> Path:
    """Leaves ``out/<public.folder>``, whole or not at all; the archive is removed then.

    Args:
        url: another place that has the archive; its checksum must be the same.

    Returns:
        The folder. One that is there already is left as it is.

    Raises:
        UserError: the archive cannot be fetched, is not the published one, or cannot be unpacked.
    """
    from torchvision.datasets.utils import download_url, extract_archive  # late: it imports torch

    folder, archive, url = out / public.folder, out / public.archive, url or public.url
    if folder.exists():
        return folder
    arriving = archive.with_name(f".{archive.name}.arriving")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not archive.exists():
            arriving.unlink(missing_ok=True)  # torchvision would take what a killed run left for the whole
            download_url(url, str(out), arriving.name)
    except (OSError, RuntimeError, ValueError) as error:  # a URLError is an OSError
        raise UserError(f"{url} cannot be fetched ({error}): put the archive at {archive} by other means") from error
    if archive.exists():
        check_file(archive, public.md5)
    else:
        check_file(arriving, public.md5)
        os.replace(arriving, archive)
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
