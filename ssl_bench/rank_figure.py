"""The critical-difference diagram of average ranks, of the numbers that ``ssl-bench table --statistics`` prints.

Source: Demsar 2006 (Statistical comparisons of classifiers over multiple data sets, JMLR 7).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssl_bench import significance
from ssl_bench.comparison import Comparison, left_out_line
from ssl_bench.drawing import CHARACTERS, WIDTHS, Mark, canvas, settings


def ranks(compared: Comparison, marks: Mapping[str, Mark], *, about: str, width: str = "column") -> Figure:
    """Critical-difference diagram: average ranks, and bars over methods that Nemenyi's test cannot tell apart.

    compared: of `tables.compared`; about: what its scores are, a sentence.  ValueError: it has a reason to be no statistics.
    """
    if compared.reason:
        raise ValueError(f"{compared.reason} {left_out_line(compared)}".strip())
    scores = compared.scores.to_numpy()
    average, difference = significance.average_ranks(scores), significance.critical_difference(len(compared.names), len(scores))
    bars = [(average[group[0]], average[group[-1]]) for group in significance.groups(average, difference)]
    found = [(compared.names[k], float(average[k])) for k in sorted(range(len(average)), key=lambda k: (average[k], compared.names[k]))]
    caption = f"Average rank over {compared.blocks}. {about} Bars join what the Nemenyi test (level 0.05) does not tell apart"
    caption += f"; CD = {difference:.2f}. {left_out_line(compared)}".rstrip()
    half, k = -(-len(found) // 2), len(found)
    inches = WIDTHS[width]
    texts = [
        textwrap.wrap(f"{name} {rank:.2f}", int((inches - 1.2) / 2 * CHARACTERS), break_long_words=False, break_on_hyphens=False)
        for name, rank in found
    ]
    sides = texts[:half], texts[half:][::-1]  # left: from the best down; right: from the worst down
    margins = [max((len(line) for text in side for line in text), default=0) / CHARACTERS + 0.1 for side in sides]
    span = max(k - 1.0, difference)
    inch = span / (inches - sum(margins) - 0.1)
    top = 1.2 + 0.55 * len(bars)
    depth = top + max(sum(map(len, side)) for side in sides)
    with settings():
        figure, [[ax]] = canvas(1, width, caption, {}, height=0.13 * (depth + 4))
        ax.axis("off")
        ax.set_xlim(1 - margins[0] * inch, 1 + span + margins[1] * inch)
        ax.set_ylim(-depth, 4)
        _scale(ax, k, difference)
        for level, ends in enumerate(bars):
            y = -0.6 - 0.55 * level
            ax.plot(ends, [y, y], color="black", linewidth=2.2, solid_capstyle="round", label="_bar")
        for side, order, edge, align in (
            (sides[0], range(half), 1.0, "right"),
            (sides[1], range(k - 1, half - 1, -1), 1 + span, "left"),
        ):
            y = -top
            edge += (-0.04 if align == "right" else 0.04) * inch
            for lines, i in zip(side, order, strict=True):
                name, rank = found[i]
                ax.plot([rank, rank, edge], [0, y, y], color="0.5", linewidth=0.6, zorder=0, label="_elbow")
                ax.plot([rank], [0], **marks[name].style | {"linestyle": "none"}, label=name, zorder=3)
                gap = (-0.03 if align == "right" else 0.03) * inch
                ax.text(edge + gap, y + 0.5, "\n".join(lines), ha=align, va="top", fontsize="small", linespacing=1.0)
                y -= len(lines)
    return figure


def _scale(ax: Axes, rows: int, difference: float) -> None:
    ax.plot([1, rows], [0, 0], color="black", linewidth=0.8)
    for tick in range(1, rows + 1):
        ax.plot([tick, tick], [0, 0.4], color="black", linewidth=0.6)
        if rows <= 10 or tick % 2:
            ax.text(tick, 0.6, str(tick), ha="center", va="bottom", fontsize="small")
    ax.plot([1, 1 + difference], [2.5, 2.5], color="black", linewidth=1.0, label="_cd", marker="|", markersize=4)
    ax.text(1 + difference / 2, 2.8, f"CD = {difference:.2f}", ha="center", va="bottom", fontsize="small")
