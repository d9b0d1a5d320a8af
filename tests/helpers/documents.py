"""What a reader of README.md and docs/ can type: fenced blocks, and commands in backticks within the text.

``<!-- not run: reason -->`` on the line before a fence takes that block out.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^(?P<skip><!-- not run: .+ -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_PROGRAMS = ("fastintl", "python", ".venv/bin/python", "torchrun", "make", "pip", ".venv/bin/pip", "sbatch")
_PROGRAMS += ("conda", "pre-commit")
_SHELL = ("source", "git", "cd", "export", "sudo", ".venv/bin/pre-commit")  # not ours to check


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its first line in ``page``."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command line as it is written, as words; variables set before the program are left out."""

    page: Path
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} {' '.join(self.words)}"


def blocks() -> list[Block]:
    """Every fenced block that is not taken out."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            if not match["skip"]:
                line = text.count("\n", 0, match.start("text")) + 1
                found.append(Block(page, line, match["language"], match["text"]))
    return found


def commands() -> list[Command]:
    """Every command of a fenced block without a language (or sh), and every complete one in backticks, as they are
    read: page by page from top to bottom."""
    found = [command for page in PAGES for command in _of_prose(page)]
    for block in blocks():
        if block.language in ("", "sh", "bash", "console"):
            found += _of_block(block)
    return sorted(found, key=lambda command: (PAGES.index(command.page), command.line))


def prose(page: Path) -> str:
    """A page's text with its fenced blocks blanked, lines kept."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())


def spans(page: Path) -> list[tuple[int, str]]:
    """What stands in backticks outside of fenced blocks, with its line; a line break within is a space."""
    text = prose(page)
    matches = re.finditer(r"`([^`\n]+(?:\n[^`\n]+)?)`", text)
    return [(text.count("\n", 0, m.start()) + 1, " ".join(m[1].split())) for m in matches]


def _of_block(block: Block) -> list[Command]:
    """The block's commands; none where no line begins with a program: it then shows output or a file."""
    joined = block.text.replace("\\\n", " ")
    lines = [_words(line) for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not any(words and words[0] in _PROGRAMS for words in lines):
        return []
    strangers = [words for words in lines if words and words[0] not in (*_PROGRAMS, *_SHELL)]
    assert not strangers, f"{block}: unknown program in {strangers}; an output needs a block of its own"
    return [Command(block.page, block.line, tuple(words)) for words in lines if words and words[0] in _PROGRAMS]


def _of_prose(page: Path) -> list[Command]:
    found = []
    for line, text in spans(page):
        words = _words(text) if text.startswith((*_PROGRAMS, "OMP_")) else []
        # "torchrun --nproc-per-node 8" or "fastintl knn" alone, or "python" as a word of the text, is no command.
        complete = len(words) > (2 if text.startswith("fastintl") else 1)
        complete &= words[:1] != ["torchrun"] or any(word.endswith(".py") for word in words)
        if complete and words[0] in _PROGRAMS:
            found.append(Command(page, line, tuple(words)))
    return found


def _words(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words
