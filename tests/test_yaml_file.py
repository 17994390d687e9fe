"""YAML that is meant, and all that looks like it: each fault is one line with the file and the place."""

from __future__ import annotations

import pytest
from fuzzing import time_limit
from test_fuzz_yaml import LAUGHS, MERGED

from ssl_bench.flags import FlagError
from ssl_bench.yaml_file import line_of, parse_yaml, read_yaml_text


def test_what_is_meant_is_read():
    assert parse_yaml("a: &x {lr: 5.0e-4, n: 3}\nb: {<<: *x, n: 4}\nc: [*x, 2020-01-02, yes, ~]\r\n", "it.yaml")["b"] == {"lr": 0.0005, "n": 4}
    assert parse_yaml("", "it.yaml") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "it.yaml line 3: 'a' stands in line 1 already"),
        ("a: {lr: 1, lr: 2}", "it.yaml line 1: 'lr' stands in line 1 already"),
        ("x:\n  a: 2020-13-45", "it.yaml line 2: '2020-13-45' is no timestamp"),
        ("a: !!int x", "it.yaml line 1: 'x' is no int"),
        ("a: !!bool maybe", "it.yaml line 1: 'maybe' is no bool"),
        ("a: " + "9" * 5000, "it.yaml line 1: a number of 5000 digits"),
        ("\na: &a [*a]", "it.yaml line 2: refers to itself"),
        (LAUGHS, "it.yaml line 6: stands for more than 100,000 values"),
        (MERGED, "it.yaml line 6: stands for more than 100,000 values"),
        ("[" * 100_000, "not valid YAML: line 1: nested more than 50 levels deep"),
        ("- " * 3000, "not valid YAML: line 1: nested more than 50 levels deep"),
        ("a: 1\n---\nb: 2", "it.yaml is not valid YAML: line 2:"),
        ("a: 1\nb: \x1b", "it.yaml is not valid YAML: line 2: a control character (0x1b)"),
        ("? [a]\n: 1", "it.yaml line 1: a list or mapping stands where a name is wanted"),
    ],
)
def test_faults_have_a_line(text, said):
    with time_limit(15), pytest.raises(FlagError) as caught:
        parse_yaml(text, "it.yaml")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_text_of_other_encodings_is_refused_and_a_mark_in_front_is_none(tmp_path):
    (tmp_path / "it.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml_text(tmp_path / "it.yaml", "it") == "a: 1"
    (tmp_path / "it.yaml").write_bytes(b"a: \xe4")
    with pytest.raises(FlagError, match="it cannot be read: it is not text in UTF-8 .byte 3."):
        read_yaml_text(tmp_path / "it.yaml", "it")


PLACES = """other: {all: {lr: 1}}  # lr
shared: &shared
  all: {wd: lr}
  more: {eps: 1}
default:
  all:
    arch: lr
    lr: 1
  lr:
    arch: 1
again:
  <<: [*shared]
  none:
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("default", "all", "lr"), 8), (("default", "lr"), 9), (("default", "lr", "arch"), 10), (("again", "more", "eps"), 4),
        (("default", "all", "wd"), None), (("again", "none", "lr"), None), (("gone", "all", "lr"), None), (("again", "all", "wd", "lr"), None),
    ],
)  # fmt: skip
def test_the_line_of_a_key_is_that_of_its_own_place(keys, line):
    assert line_of(PLACES, *keys) == line
    assert line_of("", *keys) is None and line_of("[", *keys) is None
