"""Types the commands of the README one after the other, as a newcomer would, over miniatures of the data they name.

    python tests/follow_readme.py                                 # in a temporary folder
    python tests/follow_readme.py folder --images photographs   # in a new folder, which stays, with your images
    python tests/follow_readme.py . --pages docs/*.md             # in this clone, and then those of the docs

Each command is shown as the page has it, below it (+) what is added to make it small (``small_commands.py``), and the
end of its output. Everything runs on the CPU. It ends with the number of commands that ran, and with status 1 if one
failed or is new to the tables of ``small_commands.py``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers import documents, named_data, small_commands  # noqa: E402
from tests.helpers.documents import ROOT, Command  # noqa: E402
from tests.helpers.processes import kill  # noqa: E402

README = ROOT / "README.md"
LINES_SHOWN = 6
TIME_LIMIT_S = 900


@dataclass
class Outcome:
    """What became of a command: its status, None if it was left out, and what is to be said of it, if anything."""

    command: Command
    status: int | None
    remark: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="a new folder, or a clone (default: a temporary folder)")
    parser.add_argument("--images", type=Path, help="your folder class/image for the README's images/")
    parser.add_argument("--imagenet", type=Path, help="a folder with train/ and val/ for its /path/to/imagenet")
    parser.add_argument("--pages", nargs="*", type=Path, default=[], help="pages to follow after the README")
    given = parser.parse_args()
    pages = [README, *(page.resolve() for page in given.pages)]
    for page in pages:
        if page not in documents.PAGES:
            parser.error(f"{page} is no page of this clone")
    with tempfile.TemporaryDirectory() as temporary:
        place = given.folder or Path(temporary) / "clone"
        yours = {"images": given.images, "imagenet": given.imagenet}
        taken = [name for name in ("runs", *(name for name in yours if yours[name])) if (place / name).exists()]
        if taken:  # ``make demo`` removes the run before it
            parser.error(f"{place} holds {' and '.join(taken)} already: name a new folder or a clean clone")
        prepare(place, yours)
        outcomes = follow(pages, place)
    summarise(outcomes)
    sys.exit(int(any(outcome.remark for outcome in outcomes if outcome.status is not None)))


def prepare(place: Path, yours: dict[str, Path | None]) -> None:
    """A clone with the data that the pages name; ``yours`` are folders that take the place of a miniature."""
    if not (place / "fastintl").exists():
        named_data.link_code(place)
    for name, folder in yours.items():
        if folder is not None:
            (place / name).symlink_to(folder.resolve())
    named_data.lay_out(place)


def follow(pages: list[Path], place: Path) -> list[Outcome]:
    """Runs the pages' commands in order; what a page or an earlier one has had already is not repeated."""
    outcomes, seen = [], set()
    for page in pages:
        for command in documents.commands():
            if command.page == page and command.words not in seen:
                seen.add(command.words)
                outcomes.append(carry_out(command, place))
    return outcomes


def carry_out(command: Command, place: Path) -> Outcome:
    reason = small_commands.reason_to_leave_out(command.words)
    if reason is not None:
        return Outcome(command, None, f"left out, {reason}")
    words, more = list(command.words), small_commands.added(command.words)
    print(f"{command.page.relative_to(ROOT)}:{command.line}\n$ {' '.join(words)}")
    if more:
        print(f"  + {' '.join(more)}")
    for name, other in named_data.stand_in(place, words).items():
        print(f"  {name} is {other} here")
    begin = time.monotonic()
    status, output = run([*named_data.placed(words), *more], place)
    for line in output.rstrip().splitlines()[-LINES_SHOWN if status == 0 else 0 :]:
        print(f"  | {line}")
    print(f"  status {status}, {time.monotonic() - begin:.1f} s\n", flush=True)
    if status:
        return Outcome(command, status, f"status {status}")
    known = small_commands.known(command.words)
    return Outcome(command, status, "" if known else "new to tests/helpers/small_commands.py")


def run(words: list[str], place: Path) -> tuple[int, str]:
    """Status and output of a command, as after ``source .venv/bin/activate`` of this Python's, without GPUs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryFile("w+") as output:
        try:
            process = subprocess.Popen(words, cwd=place, env=environment, stdout=output, stderr=subprocess.STDOUT)
        except OSError as error:
            return 127, str(error)
        try:
            process.wait(TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"  longer than {TIME_LIMIT_S} s: killed")
        finally:
            kill(process)
        output.seek(0)
        return process.returncode, output.read()


def summarise(outcomes: list[Outcome]) -> None:
    for page in dict.fromkeys(outcome.command.page for outcome in outcomes):
        here = [outcome for outcome in outcomes if outcome.command.page == page]
        ran = [outcome.status for outcome in here if outcome.status is not None]
        print(f"{page.relative_to(ROOT)}: {len(here)} commands, {len(ran)} run, {ran.count(0)} of them with status 0")
        for outcome in here:
            if outcome.remark:
                print(f"  {outcome.remark}: {' '.join(outcome.command.words)}")


if __name__ == "__main__":
    main()
