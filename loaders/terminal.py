"""The terminal: names, paths and titles are shown as they are, brackets and colons too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


# How a sentence shows the commands in it, which are those of a clone; the command ``fastintl`` sets its own way.
as_typed: Callable[[str], str] = str


def open_console(**options: Any) -> Console:
    """rich's ``Console``, which would take ``sweep[lr=0.1]`` for a style and ``:cat:`` for a picture of one.

    Args:
        options: further ones of ``Console``.
    """
    from rich.console import Console  # late: what prints nothing need not wait for it

    return Console(highlight=False, markup=False, emoji=False, **options)
