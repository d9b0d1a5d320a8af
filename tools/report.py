"""Runs as a page.

    python tools/report.py runs/demo                 draws runs/demo/report.html anew
    python tools/report.py runs/demo runs/other      compares runs, in comparison.html

Runs under way can be looked at too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import exit_on_user_error  # noqa: E402


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, such as runs/demo")
    text = "the page (default: report.html in the run's folder; of several runs, comparison.html here)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)
    given = parser.parse_args(words)

    from fastintl.report.page_file import write_page

    print(write_page(given.runs, given.out))


if __name__ == "__main__":
    main()
