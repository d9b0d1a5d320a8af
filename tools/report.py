"""Runs as a page.

    python tools/report.py runs/demo                 draws runs/demo/report.html anew
    python tools/report.py runs/demo runs/other      compares runs, in comparison.html

Runs under way can be looked at too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import UserError, exit_on_user_error  # noqa: E402


@exit_on_user_error
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, such as runs/demo")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: report.html in the run's folder; of several runs, comparison.html here)",
    )
    given = parser.parse_args(arguments)

    from fastintl.report import comparison, run_page
    from fastintl.report.record import RunRecord
    from loaders.files import write_text

    folders = list(dict.fromkeys(given.runs))
    names = [folder.resolve().name for folder in folders]
    twice = {name for name in names if names.count(name) > 1}
    runs = [
        RunRecord(folder, str(folder) if name in twice else None) for folder, name in zip(folders, names, strict=True)
    ]
    for run in runs:
        if run.broken:
            lines = ", ".join(map(str, run.broken))
            print(f"{run.folder.metrics}: left out, since it cannot be read: line {lines}", file=sys.stderr)
    alone = len(runs) == 1
    out = given.out or (runs[0].folder.report if alone else Path("comparison.html"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, run_page.draw(runs[0]) if alone else comparison.draw(runs))
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    print(out)


if __name__ == "__main__":
    main()
