"""The checkouts of the authors' repositories that the user names: what is read from them, and which revision it is."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loaders.errors import UserError

RECIPES = Path(__file__).resolve().parents[2] / "rcfgs"
ADDRESSES = {"intl": "https://github.com/winci-ai/INTL", "cw_rgp": "https://github.com/winci-ai/CW-RGP"}


@dataclass(frozen=True)
class Checkouts:
    """Where the two repositories lie.

    Attributes:
        intl, cw_rgp: their folders.
    """

    intl: Path
    cw_rgp: Path

    def check(self) -> None:
        """Looks for the programs that are run; raises as ``file``."""
        for command in COMMANDS.values():
            self.file(command.whose, command.script)
        self.file("intl", "evaluate.py")

    def file(self, whose: str, name: str) -> Path:
        """A file of a checkout.

        Raises:
            UserError: it is not there.
        """
        root = getattr(self, whose)
        option = f"--{whose.replace('_', '-')}"
        if not root.is_dir():
            raise UserError(
                f"{option} {root}: there is no such folder; git clone {ADDRESSES[whose]} and name the clone"
            )
        if not (root / name).is_file():
            raise UserError(f"{option} {root} holds no {name}: it must be a clone of {ADDRESSES[whose]}")
        return root / name

    def revisions(self) -> dict[str, str | None]:
        """The commit of each; None where git knows of none."""
        return {whose: _commit(getattr(self, whose)) for whose in ADDRESSES}


@dataclass(frozen=True)
class Command:
    """The command with which the authors train what one of our recipes trains.

    Attributes:
        whose: of the two checkouts.
        listing: the shell script that has the command.
        script: the program that it starts.
        pick: a pattern of its arguments, where the script starts the program several times.
    """

    whose: str
    listing: str
    script: str
    pick: str = ""

    def arguments(self, checkouts: Checkouts) -> list[str]:
        """The arguments as the checkout has them.

        Raises:
            UserError: the checkout has no such command.
        """
        listing = checkouts.file(self.whose, self.listing)
        # A line goes on behind a backslash, behind which a comment may stand.
        for line in re.sub(r"\\ *(#.*)?(\n|$)", " ", listing.read_text()).splitlines():
            words = re.sub(r"--imagenet_path \[.*?\]", "", line)
            if words.startswith(f"python {self.script} ") and re.search(self.pick, words):
                return shlex.split(words)[2:]
        raise UserError(f"{listing} starts no {self.script} {self.pick}".rstrip() + ": the checkout is another version")


def _intl(listing: str, script: str = "main.py") -> Command:
    return Command("intl", f"scripts/{listing}.sh", script)


def _small(dataset: str, views: int) -> Command:
    wanted = r"(?=.*--num_samples 4)" if views == 4 else r"(?!.*--num_samples)"
    return Command("cw_rgp", "scripts/base.sh", "base/train.py", rf"^{wanted}.*--dataset {dataset} ")


COMMANDS = {
    **{name: _intl(f"{name}_multi-crop_ema") for name in ("ep100", "ep200", "ep400", "ep800")},
    "ep800_two_crop": _intl("ep800"),
    "in100": _intl("in100"),
    **{name: _intl(name, "cifar/main.py") for name in ("cifar10", "cifar100")},
    **{
        f"cw_rgp/{ours}_{views}": _small(theirs, views)
        for ours, theirs in {
            "cifar10": "cifar10",
            "cifar100": "cifar100",
            "stl10": "stl10",
            "tiny_imagenet": "tiny_in",
        }.items()
        for views in (2, 4)
    },
    "cw_rgp/imagenet_ep100": Command("cw_rgp", "scripts/ImageNet.sh", "ImageNet/train.py", r"^(?!.*--epochs)"),
    "cw_rgp/imagenet_ep200": Command("cw_rgp", "scripts/ImageNet.sh", "ImageNet/train.py", "--epochs 200 "),
}  # our recipe -> their command


def _commit(folder: Path) -> str | None:
    try:
        words = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
