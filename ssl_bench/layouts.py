"""A table as text: github markdown, LaTeX (booktabs), HTML.  Whatever stands in a cell is escaped here, and nowhere else."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ssl_bench.messages import replaced

# Bare, a "[" after a line's "\\\\" would be read as its option.
LATEX = {
    **{character: "\\" + character for character in "_%&#${}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "|": r"\textbar{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", "–": "--", "−": "$-$", "[": "{[}", "\N{REPLACEMENT CHARACTER}": "?", "χ": r"$\chi$", "²": "$^2$", "≤": r"$\le$"},
}
FORMULA = ("=", "+", "-", "@", "'", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # what begins a formula in a spreadsheet


def spreadsheet_text(text: str) -> str:
    """A name as the cell of a csv file: no spreadsheet takes it for a formula, and a carriage return in it, which csv.writer does not
    quote and a spreadsheet takes for the end of the row, is spelt out."""
    text = text.replace("\r", "\\r")
    return "'" + text if text.startswith(FORMULA) else text


@dataclass(frozen=True)
class Cell:
    """text, plain; strong: characters at its start that are set in bold."""

    text: str
    strong: int = 0


@dataclass(frozen=True)
class Table:
    """header: one text a column; body: rows of as many cells, the first of which names the row; caption, foot: a line or nothing; names:
    how many columns, from the left, are text."""

    header: Sequence[str]
    body: Sequence[Sequence[Cell]]
    caption: str = ""
    foot: str = ""
    names: int = 1


def github(table: Table) -> str:
    from tabulate import tabulate

    body = [[_with_strong(cell, _markdown, "**", "**") for cell in row] for row in table.body]
    align = ["left"] * table.names + ["right"] * (len(table.header) - table.names)
    text = tabulate(body, [_markdown(head) for head in table.header], tablefmt="pipe", disable_numparse=True, colalign=align if body else None)  # 0.9 fails else
    return "\n\n".join(filter(None, [_markdown(table.caption), text, _markdown(table.foot)])) + "\n"


def latex(table: Table) -> str:
    rows = [[_latex(head) for head in table.header], *([_with_strong(cell, _latex, r"\textbf{", "}") for cell in row] for row in table.body)]
    head, *lines = (" & ".join(row) + r" \\" for row in rows)
    start = ["% in the preamble: \\usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{_latex(table.caption)}}}"]
    start += [rf"\begin{{tabular}}{{{'l' * table.names}{'r' * (len(table.header) - table.names)}}}", r"\toprule", head, r"\midrule"]
    foot = table.foot and rf"\par\smallskip\footnotesize {_latex(table.foot)}"
    return "\n".join([*start, *lines, r"\bottomrule", r"\end{tabular}", *filter(None, [foot]), r"\end{table}"]) + "\n"


def as_html(table: Table) -> str:
    """One table element; the foot is its last row."""
    wide = len(table.header)
    head = "".join(f'<th scope="col">{_html(text)}</th>' for text in table.header)
    lines = ["<table>", f"<caption>{_html(table.caption)}</caption>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for first, *others in table.body:
        cells = "".join(f"<td>{_with_strong(cell, _html, '<strong>', '</strong>')}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{_with_strong(first, _html, "<strong>", "</strong>")}</th>{cells}</tr>')
    foot = [f'<tfoot><tr><td colspan="{wide}">{_html(table.foot)}</td></tr></tfoot>'] if table.foot else []
    return "\n".join([*lines, "</tbody>", *foot, "</table>"]) + "\n"


LAYOUTS = {"github": github, "latex": latex, "html": as_html}


def _with_strong(cell: Cell, escape: Callable[[str], str], before: str, after: str) -> str:
    strong, rest = cell.text[: cell.strong], cell.text[cell.strong :]
    return f"{before}{escape(strong)}{after}{escape(rest)}" if strong else escape(rest)


def _plain(text: str) -> str:
    """One line."""
    return replaced(" " * text.startswith(" ") + " ".join(text.split()))


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in _plain(text))


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*<`])", r"\\\1", _plain(text))


def _html(text: str) -> str:
    return html.escape(_plain(text))
