"""What a signal or a clock on one rank asks of all ranks, and the step at which all of them do it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from enum import IntEnum

from fastintl.distributed.agreement import Agreement

# EX_TEMPFAIL of sysexits.h, "a temporary failure, try again later": no other exit of Python, torch or a shell has it.
REQUEUE_STATUS = 75
INTERRUPTED_STATUS = 130  # as a shell reports the end of a command by Ctrl-C


class Wish(IntEnum):
    """What a rank wishes that all do at the same step. Of several wishes the largest is granted."""

    NONE = 0
    SAVE = 1
    STOP = 2
    REQUEUE = 3

    @property
    def stops(self) -> bool:
        """Whether the training ends by it."""
        return self >= Wish.STOP

    @property
    def exit_status(self) -> int:
        """With which it then ends."""
        return INTERRUPTED_STATUS if self is Wish.STOP else REQUEUE_STATUS


_WISHES = {signal.SIGINT: Wish.STOP, signal.SIGTERM: Wish.REQUEUE, signal.SIGUSR1: Wish.REQUEUE}


class Preemption:
    """Inside ``with``, Ctrl-C, SIGTERM and SIGUSR1 do not end the process: each is a wish to stop that ``agreed``
    settles. A second Ctrl-C does end it.

    Schedulers and ``torchrun`` may signal one rank or all, and not at the same moment. The ranks exchange their
    wishes once a step, in the background of the following step, so that nobody waits: a step after the first rank
    got its signal, or two, all stop at the same step.

    Args:
        agreement: among the run's ranks.

    Attributes:
        received: the signal that this rank got, None before.
    """

    def __init__(self, agreement: Agreement) -> None:
        self.received: signal.Signals | None = None
        self._agreement = agreement
        self._answer: Callable[[], int] | None = None
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Preemption:
        self._handlers = {number: signal.signal(number, self._note) for number in _WISHES}
        return self

    def __exit__(self, *exc_info) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def agreed(self, wish: Wish = Wish.NONE) -> Wish:
        """What all ranks do now; called once after every step. It waits only for ranks that are a whole step behind.

        Args:
            wish: this rank's, where it has got no signal.
        """
        answer, self._answer = self._answer, self._agreement.largest_later(self._mine(wish))
        return Wish(answer()) if answer else Wish.NONE

    def agreed_at_once(self) -> Wish:
        """The same without the delay: it waits for all ranks."""
        earlier = self.agreed()
        answer, self._answer = self._answer, None
        return max(earlier, Wish(answer()))

    def _mine(self, wish: Wish) -> Wish:
        return max(wish, _WISHES[self.received]) if self.received else wish

    def _note(self, number: int, frame) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._handlers[signal.SIGINT])
            if self._agreement.is_main:
                os.write(2, b"\nstopping at the next step, whose state is saved; Ctrl-C again stops at once, unsaved\n")
        self.received = signal.Signals(number)
