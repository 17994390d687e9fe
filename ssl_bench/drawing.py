"""How every figure looks, and what it is written as: sizes, fonts, one mark a method, bytes that are the same each time.

matplotlib's object-oriented interface alone: no pyplot, no window, and its settings are changed only while a figure is made.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
import textwrap
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

WIDTHS = {"column": 3.3, "page": 6.9}  # inches: of a column and of the text of a two-column page
NO_XML, NO_CHARACTER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]"), "\N{REPLACEMENT CHARACTER}".encode()  # in a name: no program reads such a file
FORMATS = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}  # and what is left out of the file
POINTS = {"text": 7.0, "small": 6.0}
LEGEND_LINE, CAPTION_LINE = 0.125, 0.115  # inches
CHARACTERS = 21.0  # of small text to the inch, in matplotlib's own wide font
# Okabe and Ito's colours for all kinds of colour vision (jfly.uni-koeln.de/color), but yellow, which is no line on white.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
MARKERS = "osD^vPX*<>phd"
SETTINGS = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": POINTS["text"],
    "axes.titlesize": POINTS["text"], "axes.labelsize": POINTS["text"], "figure.titlesize": POINTS["small"],
    "xtick.labelsize": POINTS["small"], "ytick.labelsize": POINTS["small"], "legend.fontsize": POINTS["small"],
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "xtick.minor.size": 2.5, "xtick.minor.width": 0.4, "xtick.minor.pad": 3.5,
    "lines.linewidth": 1.1, "lines.markersize": 3.5, "lines.markeredgewidth": 0.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "legend.frameon": False,
    "legend.handlelength": 2.4, "legend.columnspacing": 1.2, "legend.labelspacing": 0.3, "legend.borderpad": 0.1,
    "figure.constrained_layout.w_pad": 0.03, "figure.constrained_layout.h_pad": 0.03, "savefig.dpi": 300, "figure.dpi": 100,
    "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "ssl-bench", "axes.unicode_minus": True, "text.usetex": False,
    "text.parse_math": False,  # names hold dollars and underscores
}  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """What a method is drawn with in every figure of a set."""

    colour: str
    marker: str
    line: str | tuple

    @property
    def style(self) -> dict:
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line}


def marks(names: Iterable[str]) -> dict[str, Mark]:
    """Name -> its mark, by its place among `names`.  21 lines differ in colour or dashes, and neighbours in the marker too."""
    return {
        name: Mark(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i // len(COLOURS) % len(LINES)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def settings() -> AbstractContextManager:
    """matplotlib's settings while a figure is made or written: whatever the user's own are, it looks the same."""
    default: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    return matplotlib.rc_context(default | SETTINGS)


def canvas(
    panels: int, width: str, caption: str, legend: dict[str, Mark], *, height: float = 1.9, least: float = 2.0, rows: int = 1
) -> tuple[Figure, list[list[Axes]]]:  # fmt: skip
    """A figure of `panels` columns of `rows` axes each, placed side by side as far as each gets `least` inches; with the caption
    above and the legend below.  axes[panel][row].  Call it within `settings`."""
    inches = WIDTHS[width]
    across = max(1, min(panels, int(inches / least)))
    down = -(-panels // across)
    lines = textwrap.wrap(" ".join(caption.split()), int(inches * CHARACTERS))
    entries = {textwrap.fill(name, int(inches * CHARACTERS) - 8): mark for name, mark in legend.items()}
    longest = max((len(line) for name in entries for line in name.splitlines()), default=1)
    columns = max(1, min(len(entries) or 1, int(inches * CHARACTERS / (longest + 8))))
    legend_lines = -(-sum(1 + name.count("\n") for name in entries) // columns)
    size = inches, down * rows * height + len(lines) * CAPTION_LINE + legend_lines * LEGEND_LINE + 0.1
    figure = Figure(size, layout="constrained")
    figure.set_label(" ".join(lines))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", linespacing=1.15)
    grid = figure.subplots(down * rows, across, squeeze=False)
    axes = [[grid[i // across * rows + row][i % across] for row in range(rows)] for i in range(panels)]
    for empty in {*grid.flat} - {each for panel in axes for each in panel}:
        empty.remove()
    if entries:
        handles = [Line2D([], [], label=name, **mark.style) for name, mark in entries.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure, axes


def title(ax: Axes, text: str) -> None:
    """Above `ax`, in as many lines as its width asks for."""
    place, figure = ax.get_subplotspec(), ax.figure
    assert place is not None and isinstance(figure, Figure), "axes of `canvas`"
    inches = figure.get_figwidth() / place.get_gridspec().ncols - 0.45
    ax.set_title(textwrap.fill(text, max(12, int(inches * CHARACTERS * POINTS["small"] / POINTS["text"]))))


def render(figure: Figure, format: str) -> bytes:
    """The figure as a file: pdf (fonts embedded), svg (text as text, see-through) or png (300 dots an inch, on white).

    The same figure gives the same bytes.  ValueError: another format.
    """
    if format not in FORMATS:
        raise ValueError(f"no figure as {format!r}; known: {', '.join(FORMATS)}")
    file = io.BytesIO()
    with settings():
        if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
            figure.draw_without_rendering()
            figure.draw_without_rendering()  # axes of fixed shape settle at the second time
            figure.set_layout_engine("none")  # or each file would move it a little further
        figure.savefig(file, format=format, metadata=FORMATS[format], transparent=format == "svg")
    content = file.getvalue()
    return NO_XML.sub(NO_CHARACTER, content) if format == "svg" else content


def svg(figure: Figure, name: str = "") -> str:
    """The figure as an element for an HTML page: black takes the colour of the text around it, so that it can be read on
    dark too, and no id meets that of another figure on the page.

    name: what its ids begin with (default: of its content; the same figure twice on a page needs two names).
    """
    text = render(figure, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    name = name or "figure-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"(fill|stroke): #000000", r"\1: currentColor", text)
    title = html.escape(str(figure.get_label()))
    # What is black by default is written without a colour, and takes the root's.
    return text.replace("<svg", f'<svg role="img" aria-label="{title}" fill="currentColor"', 1)
