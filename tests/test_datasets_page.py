"""docs/datasets.md says of each set what the zoo checks."""

from __future__ import annotations

import re
from pathlib import Path

from ssl_bench import zoo

PAGE = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text()


def test_every_published_set_has_its_row():
    rows = re.findall(r"^\| `(\w[\w-]*)` \| ([\d,]+) \| ([\d,]+|732 to 1,300 a class) / ([\d,]+) \|", PAGE, re.MULTILINE)
    train = {name: f"{each.train:,}" if each.train else "{} to {:,} a class".format(*each.train_per_class) for name, each in zoo.PUBLISHED.items()}
    expected = [(name, f"{each.classes:,}", train[name], f"{each.test:,}") for name, each in zoo.PUBLISHED.items()]
    assert sorted(rows) == sorted(expected)
