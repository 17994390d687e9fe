"""A wrong command line of a word is one line, with the nearest flag."""

from __future__ import annotations

import pytest
from fuzzing import ask, refused_kindly


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["table", "--selct", "best"], "unknown flag '--selct'; did you mean --select? (--help lists the flags)"),
        (["plot", "curves", "--width=9"], "argument --width: invalid choice: '9'"),
        (["export", "run"], "the following arguments are required: --format, --out"),
        (["predict", "run", "image", "--top-k", "9" * 5000], "argument --top-k: invalid int value"),
        (["watch", "--prot", "1"], "did you mean --port?"),
        (["study", "--seeds", "x", "--dry-run"], "argument --seeds: invalid int value: 'x'"),
        (["show", "views", "--images", "x"], "argument --images"),
    ],
)
def test_wrong_flags(argv, said):
    answer = ask(argv)
    assert refused_kindly(answer, said) and answer.code == 2
