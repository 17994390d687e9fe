"""What a command may answer to whatever it is given: it works, or says in one kind line why not; and how tests ask it thousands of times.

    answer = ask(["table", "no such folder"])     # the real command, in this process
    refused_kindly(answer)                        # True; False where it worked; AssertionError for whatever else it did
    fuzz(200, check, strategy)                    # check(value) -> True where it was refused; counts printed, the same cases each time
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import stat
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, settings

from ssl_bench import cli

PATIENCE = 20  # seconds for one case; what takes longer hangs
LONGEST = 700  # characters of a line, besides the paths it names
CODES = (1, 2, 75)
SAID = re.compile(r"(ssl-bench( \w+)?|\w+): (error|warning|note): \S|warning: \S|note: \S|ssl-bench plot: not drawn: ")
REFUSED = re.compile(r"(ssl-bench( \w+)?|\w+): error: ")
# Python's own words, which name no thing of the user's and no remedy.
NAKED = re.compile(
    r"codec can't|has no attribute|NoneType|index out of range|invalid literal|could not convert|not supported between|unhashable|"
    r"not iterable|not subscriptable|positional argument|keyword argument|unsupported operand|Exceeds the limit|embedded null|"
    r"expected str, bytes|maximum recursion|Traceback|\bobject at 0x|must be real number|cannot unpack|setting an array element"
)
SIZES = [pytest.param(8, id="few"), pytest.param(500, id="many", marks=pytest.mark.slow)]


class Hung(BaseException):
    """No OSError, which a command would tell as one of its own."""


@dataclass(frozen=True)
class Answer:
    """Exit code and what was printed; crash: the traceback of what escaped, "" for nothing."""

    code: int
    out: str
    err: str
    crash: str = ""

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if REFUSED.match(line)]


def ask(argv: Sequence[str]) -> Answer:
    """``ssl-bench ARGV`` with streams as strict as those of a terminal in UTF-8."""
    return answer_of(lambda: cli.main(argv))


def answer_of(command: Callable[[], Any]) -> Answer:
    """`command` returns or raises SystemExit, whose code counts; nothing else may leave it."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    code, crash = 0, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), time_limit(PATIENCE):
        try:
            returned = command()
            code = returned if isinstance(returned, int) else 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else -1
        except BaseException:  # noqa: BLE001 - the answer says what escaped
            crash = traceback.format_exc()
    return Answer(code, *(stream.buffer.getvalue().decode(errors="replace") for stream in (out, err)), crash)


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """A hang becomes an error with the line it hung in."""

    def hung(*_: object) -> None:
        raise Hung(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused_kindly(answer: Answer, names: str = "") -> bool:
    """Whether it was refused.  AssertionError unless that, or success, is told as a person should be told it.

    names: what the line must hold.  A study names each of its faults in a line.
    """
    assert not answer.crash, answer.crash
    lines = answer.err.splitlines()
    shown = f"exit code {answer.code}\n{answer.err}"
    for line in lines:
        assert answer.code == 0 or SAID.match(line), f"neither an error, a warning nor a note: {line!r}\n{shown}"
        assert line.isprintable() or "\\" in line, f"control characters reach the terminal: {line!r}"
        assert not NAKED.search(line), f"Python's own words: {line!r}"
        assert len(re.sub(r"\S*/\S*", "", line)) <= LONGEST, f"a line of {len(line)} characters: {line[:200]!r} ..."
    if answer.code == 0:
        assert not answer.errors, shown
        return False
    assert answer.code in CODES, shown
    assert len(answer.errors) == 1 or answer.errors and "ssl-bench study: " in lines[-1], f"not one line of error:\n{shown}"
    assert names in answer.err, f"{names!r} is not named:\n{shown}"
    return True


def files_under(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> (kind, size) of all there is, links as links: equal before and after where nothing was to be written."""
    found = {}
    for inner, folders, files in os.walk(folder):
        for name in (*folders, *files):
            about = os.lstat(os.path.join(inner, name))
            found[os.path.relpath(os.path.join(inner, name), folder)] = stat.S_IFMT(about.st_mode), about.st_size if name in files else 0
    return found


def no_litter(folder: Path) -> None:
    """AssertionError for a temporary file that was left behind."""
    left = [name for name in files_under(folder) if name.endswith(".tmp") or os.path.basename(name).startswith(".tmp")]
    assert not left, left


def fuzz(examples: int, check: Callable[..., bool], *strategies: hypothesis.strategies.SearchStrategy, both: bool = True) -> None:
    """`check` of so many drawn cases, the same at each call; prints how many were refused.  both: of many some must be, and some not."""
    answers: list[bool] = []

    def case(drawn: tuple) -> None:
        answers.append(check(*drawn))

    case.__name__ = case.__qualname__ = check.__name__  # of which the draws are a function
    limits = settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=[*HealthCheck], report_multiple_bugs=False,
    )  # fmt: skip
    limits(hypothesis.given(hypothesis.strategies.tuples(*strategies))(case))()
    refused = sum(answers)
    print(f"{check.__name__}: {len(answers)} cases, {len(answers) - refused} worked, {refused} refused", file=sys.stderr)
    assert not both or len(answers) < 200 or 0 < refused < len(answers), f"{refused} of {len(answers)} refused: the draws test one half only"
