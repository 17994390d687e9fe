"""SIGTERM and Ctrl-C as something the loop can finish its step for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """SIGTERM or Ctrl-C arrived; the state is saved.  exit_code: 143 or 130."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; the same command continues")
        self.exit_code = 128 + signum


class Unread(Interrupted):
    """Nobody reads what is printed any more, as after ``| head``.  exit_code: 141."""

    def __init__(self) -> None:
        Exception.__init__(self, "nobody reads its output any more; the same command continues")
        self.exit_code = 141


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived where nothing is to be finished first.  As KeyboardInterrupt no `except Exception` on the way takes it."""


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While inside, `handler` gets SIGTERM and SIGINT; the handlers from before come back at the end.

    In another thread than the first (a notebook's, a server's) Python takes no handler: signals are then the first one's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
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


@contextmanager
def terminations() -> Iterator[None]:
    """While inside, and not inside `interruptions`, SIGTERM raises Terminated, as SIGINT does KeyboardInterrupt."""

    def leave(signum: int, _: FrameType | None) -> None:
        raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt

    with handling(leave):
        yield
