"""SIGTERM and Ctrl-C as something the loop can finish its step for."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """SIGTERM or Ctrl-C arrived; the state is saved.  exit_code: 143 or 130."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; the same command continues")
        self.exit_code = 128 + signum


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While inside, `handler` gets SIGTERM and SIGINT; the handlers from before come back at the end."""
    old = {signum: signal.signal(signum, handler) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, before in old.items():
            signal.signal(signum, before)


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """While inside, SIGTERM and SIGINT are only noted in the list; a second SIGINT is Python's own KeyboardInterrupt."""
    arrived: list[int] = []

    def note(signum: int, _: FrameType | None) -> None:
        arrived.append(signum)
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    with handling(note):
        yield arrived
