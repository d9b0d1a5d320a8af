"""Says what can run here and what a dataset asks of this machine, before a run is started.

Without --data: the sources of images and what the missing ones need, the GPUs and their precision. With --data
also the dataset's size against the memory, the memory of the loader's buffers, and the images a second that this
machine's cores can feed, measured on some of its images (a few seconds).
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.evaluate.command_line import number  # noqa: E402
from loaders.errors import exit_on_user_error, require_writable  # noqa: E402
from loaders.files import write_json  # noqa: E402
from loaders.startup import late_imports  # noqa: E402


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE", help="a .beton file, a folder, tars, …")
    text = "ranks on this machine (default: one a GPU)"
    parser.add_argument("--ranks", type=number("--ranks", least=1), metavar="N", help=text)
    text = "of all ranks together (default: the recipe's)"
    parser.add_argument("--batch-size", type=number("--batch-size", least=1), metavar="B", help=text)
    parser.add_argument("--rcfg", metavar="RECIPE", help="a file, or a name such as ep100 (default: ep100's values)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what is found as JSON, too")
    given = parser.parse_args(words)
    require_writable(given.json)

    with late_imports():
        from fastintl.config import load
        from fastintl.training.doctor import examine

    logging.getLogger("loaders").addHandler(logging.NullHandler())  # bad images are counted in the table
    found = examine(load(given.rcfg), given.data, given.ranks, given.batch_size)
    if given.json is not None:
        write_json(given.json, found.as_json())
    found.print()


if __name__ == "__main__":
    main()
