"""What a command tells a person: one line, whatever is in the names and values it repeats."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

LONGEST = 600  # characters of a line; of a longer one the middle is left out


def one_line(message: object, longest: int = LONGEST) -> str:
    """`message` as one line that a terminal can be given: lines joined, control characters and halves of surrogate pairs as escapes.

    A file may be called whatever its owner likes, and a terminal obeys what it is sent.
    """
    text = " ".join(line.strip() for line in str(message).splitlines() if line.strip())
    if len(text) > longest:
        text = f"{text[: longest * 2 // 3]} ... {text[-longest // 3 :]}"
    return printable(text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def printable(text: str, instead: Callable[[str], str] = _escape) -> str:
    """`text` without what a terminal would obey (its escapes, a change of direction): each such character as `instead` says."""
    return text if text.isprintable() else "".join(c if c.isprintable() else instead(c) for c in text)


def replaced(text: str) -> str:
    """`printable`, as long as it was: for the cells of a table."""
    return printable(text, lambda _: "\N{REPLACEMENT CHARACTER}")


def reason_of(error: BaseException, longest: int = LONGEST) -> str:
    """Why another library refused something, in its words; in their absence the error's name."""
    return one_line(error, longest) or type(error).__name__


def said(error: Exception) -> str:
    """Why a text cannot be read, in a person's words: Python's own name no remedy."""
    if isinstance(error, UnicodeDecodeError):
        return f"not text in UTF-8 (byte {error.start})"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = one_line(error)
    return "a number with too many digits" if text.startswith("Exceeds the limit") else text


def last_of_trace(error: Exception) -> str:
    """The message of an error; a DataLoader worker's carries its traceback, of which the last line is the message itself."""
    text = str(error).strip()
    return text.splitlines()[-1].strip() if "Traceback (most recent call last)" in text else text or type(error).__name__


def refuse(prog: str, error: object, code: int) -> int:
    """Print `error` on stderr as the one line of `prog`; the exit code, for whoever returns it."""
    print(f"{prog}: error: {one_line(error)}", file=sys.stderr)
    return code


def lenient_output() -> None:
    """From now on stdout writes what its encoding has no character for as an escape: a file's name may be no text at all."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
