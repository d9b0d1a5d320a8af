"""Stopping on request: a signal to any rank, a step on which all ranks stop, an exit status that asks for a restart."""

from __future__ import annotations

import signal
from collections.abc import Callable

from fastintl.distributed.agreement import Agreement

# EX_TEMPFAIL of sysexits.h, "a temporary failure, try again later": no other exit of Python, torch or a shell has it.
REQUEUE_STATUS = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preemption:
    """Inside ``with``, SIGTERM and SIGUSR1 do not end the process: they are a wish to stop, which ``agreed`` settles.

    Schedulers and ``torchrun`` may signal one rank or all, and not at the same moment. The ranks exchange their
    wishes once a step, in the background of the following step, so that nobody waits: a step after the first rank
    got its signal, or two, all stop at the same step.

    Args:
        agreement: of the run's ranks.

    Attributes:
        received: the signal that this rank got, None before.
    """

    def __init__(self, agreement: Agreement) -> None:
        self.received: signal.Signals | None = None
        self._agreement = agreement
        self._answer: Callable[[], int] | None = None
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Preemption:
        self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exc_info) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether to stop now; called once after every step. It waits only for ranks that are a whole step behind."""
        answer, self._answer = self._answer, self._agreement.largest_later(self._wish())
        return answer is not None and answer() > 0

    def agreed_at_once(self) -> bool:
        """The same without the delay: it waits for all ranks."""
        earlier = self.agreed()
        answer, self._answer = self._answer, None
        return answer() > 0 or earlier

    def _wish(self) -> int:
        return int(self.received is not None)

    def _note(self, number: int, frame) -> None:
        self.received = signal.Signals(number)
