"""Errors a user can make: one sentence that names what is wrong and the cure."""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

USER_ERROR_STATUS = 2


class UserError(Exception):
    """Wrong input, or something that is missing: its text is one sentence for the user, shown without a traceback."""


def exit_on_user_error(main: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command-line ``main``: a ``UserError`` is printed to stderr as one line, exit status 2."""

    @functools.wraps(main)
    def wrapper(*args, **kwargs) -> None:
        _print_any_name()
        try:
            main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(USER_ERROR_STATUS)
        except OSError as error:  # a closed folder, or too long a name, on the way to anything that a user named
            if error.filename is None:
                raise
            print(f"error: {os.fsdecode(error.filename)} cannot be reached: {error.strerror}", file=sys.stderr)
            sys.exit(USER_ERROR_STATUS)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapper


def _print_any_name() -> None:
    """File names need not be valid UTF-8, nor need the terminal know all letters: such are printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes the folder of ``path``, which is written within; raises a ``UserError`` where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
