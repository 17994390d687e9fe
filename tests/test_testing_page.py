"""docs/testing.md names tests that are there, and says how many mutations are caught."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "testing.md").read_text(encoding="utf-8")


def functions_in(file: Path) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def is_slow(test: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) == "pytest.mark.slow" for decorator in test.decorator_list)


def test_every_test_named_is_there_and_slow_where_it_says_so():
    named = re.findall(r"`(test_\w+\.py)::(\w+)`( \(slow\))?", PAGE)
    assert len(named) > 60 and len(named) == PAGE.count("::")
    for file, name, slow in named:
        assert is_slow(functions_in(TESTS / file)[name]) == bool(slow), f"{file}::{name}"


def test_every_item_has_a_row_with_a_test():
    rows = re.findall(r"^\| (\d+) \|.*\|$", PAGE, flags=re.MULTILINE)
    assert rows == [str(i) for i in range(1, 21)]
    assert all("::" in line for line in PAGE.splitlines() if re.match(r"\| \d", line))


def test_the_number_of_mutations_is_that_of_the_file():
    assert f"{len(functions_in(TESTS / 'test_mutations.py'))} of {len(functions_in(TESTS / 'test_mutations.py'))} caught" in PAGE
