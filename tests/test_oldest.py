"""tools/oldest.py: the constraints of the oldest lane are setup.cfg's own bounds."""

from __future__ import annotations

import pytest
from oldest import SETUP, oldest

TEXT = """
[metadata]
name = suite
[options]
install_requires =
    torch>=2.6
    plain
[options.extras_require]
test =
    suite[report,fast]
    pytest>=7.4
report =
    matplotlib>=3.8
fast =
    suite[report]
    coverage[toml]>=7.10
other =
    odd~=1.0
"""


def test_every_bound_of_what_is_asked_for():
    assert oldest(TEXT) == {"torch": "2.6"}
    assert oldest(TEXT, ("test",)) == {"torch": "2.6", "pytest": "7.4", "matplotlib": "3.8", "coverage": "7.10"}


def test_what_it_cannot_follow_is_named():
    with pytest.raises(ValueError, match="no extra 'tset' in setup.cfg, which has test, report, fast, other"):
        oldest(TEXT, ("tset",))
    with pytest.raises(ValueError, match="'odd~=1.0' is not of the form"):
        oldest(TEXT, ("other",))


def test_the_suite_s_own_requirements_all_have_a_bound():
    text = SETUP.read_text(encoding="utf-8")
    required = text.partition("install_requires =\n")[2].partition("\n\n")[0].split()
    assert len(oldest(text)) == len(required) and all(">=" in line for line in required)
