# PYTHON_ARGCOMPLETE_OK
"""The command ``fastintl``: each tool under one name."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable
from types import ModuleType

import fastintl
from loaders import terminal
from loaders.errors import UserError, exit_on_user_error

# What is imported for a command: its module in this package, or fastintl.train.
COMMANDS = {
    "train": "pretrain a backbone without labels",
    "knn": "classify held-out images by their nearest training images",
    "linear": "test a backbone by a linear classifier on its frozen features",
    "finetune": "fine-tune a backbone on few labels",
    "features": "write the features of images as memory-mapped arrays",
    "detect": "train a detector on a backbone and test it",
    "export": "write a backbone for torchvision, timm or detectron2",
    "report": "draw the page of a run, or of several over each other",
    "neighbours": "show what a run learnt: nearest images, a map, accuracy per class",
    "doctor": "say what can run here, and what this machine can feed",
    "crops": "draw the crops of some images through every loader",
    "download": "fetch a public dataset and unpack it",
    "write-ffcv": "write a dataset as FFCV files",
    "bench": "measure speed beside other ways",
    "demo": "draw a small dataset, learn from it, print how well that went",
}
_MODULES = {"train": "fastintl.train", "crops": ".show_crops"}


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="fastintl",
        usage="fastintl [-h] [--version] COMMAND ...",
        description="Pretrains image encoders without labels and evaluates them.",
        epilog="commands:\n"
        + "".join(f"  {name:12}{summary}\n" for name, summary in COMMANDS.items())
        + "\nfastintl COMMAND --help tells more. On several GPUs:\n"
        "  torchrun --nproc-per-node 8 --no-python fastintl COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastintl {fastintl.__version__}")
    command = parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    if "_ARGCOMPLETE" in os.environ:
        command.choices = list(COMMANDS)
        _complete(parser)
    name = parser.parse_args(sys.argv[1:2]).command  # what stands behind it is the command's own
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1) or ["--help"]
        raise UserError(f"fastintl {name}: there is no such command; did you mean fastintl {near[0]}?")
    module = _module(name)
    sys.argv = [f"fastintl {name}", *sys.argv[2:]]  # as its usage shows it
    terminal.as_typed = as_command
    argparse.ArgumentParser.format_help = _help_of(argparse.ArgumentParser.format_help)
    try:
        module.main.__wrapped__()  # its errors are told here
    except UserError as error:
        raise UserError(as_command(str(error))) from error


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answers a shell that asks for the rest of a word; returns only where argcomplete is not installed.

    The shell names the whole line, ``_ARGCOMPLETE`` the word that the parser's own stand behind. Which options a tool
    has it tells itself: it runs until it would parse its words.
    """
    try:
        import argcomplete
    except ImportError:
        return
    typed = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")
    words = [word for word in typed if word]
    name = words[1] if len(words) > 1 else ""
    if name not in COMMANDS or (len(words) == 2 and typed[-1]):
        argcomplete.autocomplete(parser)

    def answer(tool: argparse.ArgumentParser, *_: object) -> None:
        os.environ["_ARGCOMPLETE"] = "2"
        argcomplete.autocomplete(tool)

    argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_intermixed_args = answer
    sys.argv = [name]
    _module(name).main.__wrapped__()


def _module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(_MODULES.get(name, f".{name.replace('-', '_')}"), __package__)


def _help_of(original: Callable[..., str]) -> Callable[..., str]:
    """The examples of a tool's help as one types them here, without a clone."""
    return lambda parser: as_command(original(parser))


def as_command(text: str) -> str:
    """``python tools/knn.py`` becomes ``fastintl knn``, and so on."""
    names = {module.lstrip("."): name for name, module in _MODULES.items()}

    def command(match: re.Match[str]) -> str:
        tool = match["tool"] or match["module"]
        launcher = f"{match['launcher']}--no-python " if match["launcher"] else ""
        return f"{launcher}fastintl {names.get(tool, tool.replace('_', '-'))}"

    launcher = r"(?:python |(?P<launcher>torchrun (?:--[\w-]+ \d+ )*))?"
    return re.sub(rf"{launcher}(?:tools/(?P<tool>\w+)\.py|-m (?P<module>fastintl\.train))", command, text)


if __name__ == "__main__":
    main()
