"""Inputs of every form and damage, drawn by hypothesis, against what must hold of each.

``python tests/fuzz.py`` runs the targets for as long as it is told; ``test_targets.py`` runs each for a moment.

A target is a module of ``targets/`` with

- ``examples``, a strategy of hypothesis whose examples are plain values, so that their ``repr`` is a program again;
- ``check(example)``, which raises (an assertion or any other error) where what must hold does not. What the project
  refuses with one sentence is right: ``with refusals(): ...`` lets that through and looks at the sentence;
- optionally ``IN_SUITE``, the number of examples that the tests take (30 if it is not there), and ``MEMORY``, how many
  bytes above what its imports take an example may need (1 GiB if it is not there).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from loaders.errors import UserError
from loaders.image_reading import BadImage
from tests.fuzzing import targets


def names() -> list[str]:
    """All targets."""
    return sorted(module.name for module in pkgutil.iter_modules(targets.__path__))


def load(name: str) -> ModuleType:
    """A target by its name, or any module by its full one."""
    return importlib.import_module(f"{targets.__name__}.{name}" if name in names() else name)


@contextmanager
def refusals() -> Iterator[list[str]]:
    """Lets what the project may refuse pass; its sentence is in the list that is yielded, which is empty otherwise."""
    said: list[str] = []
    try:
        yield said
    except (UserError, BadImage) as error:
        said.append(str(error))
        check_sentence(str(error))


def check_sentence(text: str) -> None:
    """What is said to a user must be one line of something, and not a library's last words on memory."""
    assert text.strip() and "\n" not in text, f"not one line: {text!r}"
    text.encode("utf-8", "surrogateescape")
    for foreign in ("Traceback", "MemoryError", "more memory than there is", "Unable to allocate", "object at 0x"):
        assert foreign not in text, f"{foreign!r} in {text!r}"
