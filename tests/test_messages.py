"""One line, whatever it repeats."""

from __future__ import annotations

import io
import sys

import pytest

from ssl_bench import messages


@pytest.mark.parametrize(
    ("given", "line"),
    [("a\n\n  b\r\nc", "a b c"), ("a\x1b[31mb\x07", "a\\x1b[31mb\\x07"), ("\udcff", "\\udcff"), ("ü \N{GREEK SMALL LETTER PI}", "ü π"), ("\u202egpj.", "\\u202egpj.")],
)
def test_a_terminal_gets_one_line_and_no_orders(given, line):
    assert messages.one_line(given) == line


def test_what_is_in_a_table_keeps_its_length():
    assert messages.replaced("a\x1b[31m\u202e\udcff ü") == "a\ufffd[31m\ufffd\ufffd ü" and messages.printable("C:\\x\n") == "C:\\x\\n"


def test_of_a_long_line_both_ends_are_left():
    line = messages.one_line("begin " + "x" * 10**6 + " end")
    assert len(line) < 700 and line.startswith("begin ") and line.endswith(" end")


def test_an_error_without_words_is_called_by_its_name():
    assert messages.reason_of(KeyError()) == "KeyError" and messages.reason_of(OSError("no\n room\x1b")) == "no room\\x1b"


def test_python_s_own_words_are_translated():
    with pytest.raises(UnicodeDecodeError) as caught:
        b"ab\xff".decode()
    assert messages.said(caught.value) == "not text in UTF-8 (byte 2)"
    assert messages.said(RecursionError("maximum recursion depth exceeded")) == "nested too deeply"
    with pytest.raises(ValueError) as caught:
        int("9" * 5000)
    assert messages.said(caught.value) == "a number with too many digits"


def test_only_a_worker_s_trace_is_cut_to_its_last_line():
    trace = ValueError("Caught in worker\nTraceback (most recent call last)\n  File x\nValueError: y.png is broken")
    assert messages.last_of_trace(trace) == "ValueError: y.png is broken" and messages.last_of_trace(ValueError("a\nb")) == "a\nb"
    assert messages.last_of_trace(ValueError()) == "ValueError"


def test_a_name_that_is_no_text_can_be_printed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    messages.lenient_output()
    print("\udcff", flush=True)
    assert sys.stdout.buffer.getvalue() == b"\\udcff\n"
