"""The memory that a process has to itself."""

from __future__ import annotations


def own_bytes() -> int:
    """This process's memory that is of no file.

    "Private_Dirty" would hold the pages of a file just written, too, until they are on the disk; the pages of files,
    which the system can drop, would be in "VmRSS".
    """
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:"))
