"""docs/performance.md from results/bench/*.json: the text between two markers is replaced, the rest is prose."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks import harness, scaling

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)
MODEL = re.compile(r"(<!-- scaling -->\n).*?(<!-- /scaling -->)", re.DOTALL)


def main(results: Path, page: Path = PAGE) -> int:
    page.write_text(refreshed(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(f"refreshed {page.name} from {len(list(results.glob('*.json')))} records")
    return 0


def refreshed(text: str, results: Path) -> str:
    """`text` with every block between markers made anew; a pure function of the records and of the scaling model."""
    text = MODEL.sub(lambda found: f"{found[1]}\n{scaling.table()}\n\n{found[2]}", text)
    return BLOCK.sub(lambda found: f"{found[1]}{block(found[2], results)}{found[3]}", text)


def block(what: str, results: Path) -> str:
    """The tables of benchmark `what`, one a device."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob(f"{what}-*.json"))]
    parts = [f"{harness.heading(record)}; `{record['command']}`\n\n{harness.table(record)}\n" for record in records]
    return "\n" + "\n".join(parts or ["Not measured yet.\n"]) + "\n"
