"""Errors a user can make: one sentence that names what is wrong and the cure."""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

USER_ERROR_STATUS = 2
BROKEN_PIPE_STATUS = 141  # as a shell reports the end by SIGPIPE
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED")  # CUDA's, the machine's; cuBLAS's and cuDNN's


class UserError(Exception):
    """Wrong input, or something that is missing: its text is one sentence for the user, shown without a traceback.

    It is one line also where it names a file whose name has several.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(" ".join(sentence.splitlines()))


def exit_on_user_error(main: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command-line ``main``: a ``UserError`` is printed to stderr as one line, exit status 2.

    Where whoever reads the output has left (``… | head -1``) the command ends quietly, as by SIGPIPE; its results are
    written before they are printed.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs) -> None:
        _print_any_name()
        try:
            try:
                main(*args, **kwargs)
            finally:  # also after --help, which leaves by SystemExit
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            _discard_output()
            sys.exit(BROKEN_PIPE_STATUS)
        except (UserError, OSError, MemoryError, RuntimeError) as error:
            if (sentence := _sentence(error)) is None:
                raise
            print(f"error: {sentence}", file=sys.stderr)
            sys.exit(USER_ERROR_STATUS)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapper


def _sentence(error: UserError | OSError | MemoryError | RuntimeError) -> str | None:
    """What to tell the user of an error; None where its traceback tells us more."""
    if isinstance(error, UserError):
        return str(error)
    return _file_trouble(error) if isinstance(error, OSError) else _memory_shortage(error)


def _file_trouble(error: OSError) -> str | None:
    """The sentence on a full disk, or on a closed folder or too long a name on the way to what a user named."""
    place = None if error.filename is None else os.fsdecode(error.filename)
    if error.errno in _NO_ROOM:
        cure = "make room there and start the same command again"
        return f"{place or 'a file'} cannot be written: {error.strerror}; {cure}"
    return place and f"{place} cannot be reached: {error.strerror or error}"


def _memory_shortage(error: MemoryError | RuntimeError) -> str | None:
    """The sentence on a GPU or a machine whose memory is used up, in the words of who asked for it; None for another
    error. torch raises a ``RuntimeError``, ``torch.OutOfMemoryError`` among them."""
    said = " ".join(str(error).split())
    if not (isinstance(error, MemoryError) or any(words in said for words in _OF_MEMORY)):
        return None
    # What torch goes on with is how its own memory is divided.
    reason = re.split(r"\. (?=Including|Process|Of the allocated|Error code|Search for|See)", said)[0].rstrip(".")
    return (
        f"there is not enough memory{f' ({reason})' if reason else ''}: lower the batch size (train.batch_size, "
        "--batch-size of a tool); on GPUs a pretraining can set train.recompute=on, or share its batch among more"
    )


def _print_any_name() -> None:
    """File names need not be valid UTF-8, nor need the terminal know all letters: such are printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """What is left to be printed would raise once more at the interpreter's end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes the folder of ``path``, which is written within; raises a ``UserError`` where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def require_writable(*paths: Path | None) -> None:
    """Looks, before anything is computed, whether results can be written to these files; None stands for no file.

    Raises:
        UserError: a folder cannot be made, or a file not be written there.
    """
    for path in paths:
        if path is None:
            continue
        with writing(path):
            if not path.exists():
                tempfile.TemporaryFile(dir=path.parent).close()
            elif not path.is_char_device() and not path.is_fifo():  # to open a pipe waits for its reader
                open(path, "ab").close()
