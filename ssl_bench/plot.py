"""``ssl-bench plot KIND FOLDERS --out FILE``: figures of finished runs for a paper, as pdf, svg or png."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_bench.atomic import write_bytes
from ssl_bench.comparison import BLOCKS
from ssl_bench.curves import run_folders
from ssl_bench.messages import one_line, refuse
from ssl_bench.runs import METRICS, SELECTIONS, collect, warning_of
from ssl_bench.word_parser import WordParser

KINDS = ("curves", "labels", "ranks", "pseudo", "classes", "confusion", "cost", "calibration")
ALL = "all"
FORMATS = ("pdf", "svg", "png")
WIDTHS = ("column", "page")
REPORT = 'pip install "ssl-bench[report]"'


def main(argv: Sequence[str]) -> int:
    """Write the figures and name them; 0, or 2 after one line on stderr where nothing can be drawn."""
    options = _parser().parse_args(argv)
    try:
        return _plot(options)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(("matplotlib", "scipy")):
            raise
        return refuse("ssl-bench plot", f"figures need {error.name}: {REPORT}", 2)
    except BrokenPipeError:  # `| head`; see cli
        raise
    except (OSError, ValueError) as error:
        return refuse("ssl-bench plot", error, 2)


def _parser() -> argparse.ArgumentParser:
    parser = WordParser(prog="ssl-bench plot", description="Figures of finished runs.", allow_abbrev=False)
    add = parser.add_argument
    add("kind", choices=(*KINDS, ALL), metavar="KIND", help=f"{', '.join(KINDS)}, or all")
    add("folders", nargs="*", metavar="FOLDER", default=["runs"], help="given as --log, or a runs.csv (default: runs)")
    add("--out", metavar="FILE", help="FILE.pdf, .svg or .png; of all a folder (default: KIND.pdf; figures)")
    add("--format", choices=FORMATS, help="of all: of its files (default: pdf)")
    add("--width", choices=WIDTHS, default="column", help="3.3 or 6.9 inches (default: %(default)s)")
    add("--select", choices=SELECTIONS, default="last", help="which evaluation of a run counts (default: %(default)s)")
    add("--metric", choices=METRICS, default="top1", help="accuracy shown, percent (default: %(default)s)")
    add("--band", choices=("std", "range"), default="std", help="of curves: deviation, or least to most (default: %(default)s)")
    add("--blocks", choices=BLOCKS, default="columns", help="of ranks: what they are over (default: %(default)s)")
    add(
        "--methods",
        nargs="+",
        metavar="NAME",
        default=[],
        help='only these: a method, or a row of the table such as "erm (oracle)"',
    )
    add("--data", nargs="+", metavar="NAME", default=[], help="only these data sets")
    add("--labels", nargs="+", metavar="N", type=int, default=[], help="only these numbers of labels per class (0: all)")
    add("--arch", nargs="+", metavar="NAME", default=[], help="only these networks")
    return parser


def _plot(options: argparse.Namespace) -> int:
    out, format = _target(options)
    from ssl_bench.drawing import render  # matplotlib takes a while, and may be missing
    from ssl_bench.gallery import Gallery

    frame = collect(options.folders, warn=warning_of("plot"))
    if frame.empty:
        raise ValueError(f"no runs found in {', '.join(options.folders)}; a run is a folder with an args.json")
    folders = run_folders([folder for folder in options.folders if Path(folder).is_dir()])
    only: dict[str, Any] = {name: tuple(getattr(options, name)) for name in ("methods", "data", "labels", "arch")}
    gallery = Gallery(frame, folders, options.select, options.metric, options.band, width=options.width, blocks=options.blocks, **only)
    _ = gallery.runs  # a wrong name is one line, not one a kind
    wrote, reasons = [], []
    for kind in KINDS if options.kind == ALL else [options.kind]:
        try:
            drawn = gallery.draw(kind)
        except ValueError as error:
            if options.kind != ALL:
                raise
            reasons.append(f"{kind}: {error}")
            continue
        for ending, figure in drawn.items():
            file = out / f"{kind}{ending}.{format}" if options.kind == ALL else out.with_name(f"{out.stem}{ending}.{format}")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, render(figure, format))
            wrote.append(file)
    for line in gallery.unreadable:
        warning_of("plot")(f"{line}; left out")
    for file in wrote:
        print(file)
    for reason in reasons:
        print(f"ssl-bench plot: not drawn: {one_line(reason)}", file=sys.stderr)
    return 0 if wrote else refuse("ssl-bench plot", "nothing was drawn, as the lines above say", 2)


def _target(options: argparse.Namespace) -> tuple[Path, str]:
    if options.kind == ALL:
        out = Path(options.out or "figures")
        if out.is_file() or out.suffix[1:] in FORMATS:
            raise ValueError(f"--out {out}: of all kinds it is a folder; --format says what its files are")
        return out, options.format or "pdf"
    out = Path(options.out or f"{options.kind}.{options.format or 'pdf'}")
    format = out.suffix[1:].lower()
    if format not in FORMATS:
        raise ValueError(f"--out {out}: a figure ends in {', '.join('.' + each for each in FORMATS)}")
    if options.format not in (None, format):
        raise ValueError(f"--out {out} and --format {options.format} say two different things: leave out one")
    return out, format
