"""``ssl-bench predict``: a trained network names the classes of images: the suite's own decoding, the run's view of evaluation."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ssl_bench.atomic import write_with
from ssl_bench.augment.views import View
from ssl_bench.datasets.decode import UnreadableImage, decode
from ssl_bench.datasets.listing import image_files
from ssl_bench.interrupt import Interrupted
from ssl_bench.layouts import spreadsheet_text
from ssl_bench.messages import replaced
from ssl_bench.streams import generator_of
from ssl_bench.trained import Trained, add_flags, failed, from_flags
from ssl_bench.word_parser import WordParser


@dataclass(frozen=True)
class Prediction:
    """The k likeliest classes of one image, by index, likeliest first, and their probabilities; or why it could not be read."""

    file: str
    top: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""


def predictions(
    trained: Trained, files: Sequence[str], top_k: int = 5, batch_size: int = 256, workers: int = 0
) -> Iterator[Prediction]:
    """One for each of `files`, in their order; the logits are those of the run's own evaluation.

    workers: processes that decode; 0: this one.  An image that cannot be read gets a prediction with `error`.
    """
    k = min(top_k, len(trained.classes))
    parts = np.array_split(np.arange(len(files)), -(-len(files) // batch_size)) if files else []
    reader = _Reader(files, trained.view)
    workers = min(workers, os.cpu_count() or 1, len(parts))
    loader = torch.utils.data.DataLoader(reader, sampler=parts, batch_size=None, num_workers=workers, worker_init_fn=_leave_signals)
    for positions, crops, errors in loader:
        probabilities, top = torch.empty(0), torch.empty(0)
        if crops is not None:
            draws = trained.view.draw_finish(len(crops), generator_of(0))  # of evaluation, which draws nothing
            y = trained.predict(trained.view.finish(crops.to(trained.device), draws))             # (b, C)
            probabilities, top = y.softmax(dim=1).topk(k, dim=1)
        rows = iter(zip(top.tolist(), probabilities.tolist(), strict=True))
        for position in positions.tolist():
            if position in errors:
                yield Prediction(files[position], error=errors[position])
            else:
                labels, shares = next(rows)
                yield Prediction(files[position], tuple(labels), tuple(shares))


class _Reader(torch.utils.data.Dataset):
    """positions -> (positions, crops (b, 3, S, S) uint8 of those that can be read or None, position -> why another cannot)."""

    def __init__(self, files: Sequence[str], view: View) -> None:
        self.files, self.view = files, view

    def __getitem__(self, positions: np.ndarray) -> tuple[Tensor, Tensor | None, dict[int, str]]:
        crops, errors = [], {}
        for position in positions.tolist():
            try:
                image = decode(self.files[position])
            except UnreadableImage as error:
                errors[position] = str(error).partition("; repair or remove it")[0]
            else:
                draws = self.view.draw_crop(1, tuple(image.shape[-2:]), generator_of(0))
                crops.append(self.view.crop_each([image], draws))
        return torch.from_numpy(positions), torch.cat(crops).expand(-1, 3, -1, -1) if crops else None, errors


def _leave_signals(_: int) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that the terminal shows


def listed(images: Sequence[str]) -> list[str]:
    """The image files that arguments name: files as they are, folders at any depth, each file once.  OSError: not there, or none."""
    found: dict[str, None] = {}
    for name in images:
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            inside = image_files(path)
            if not inside:
                raise FileNotFoundError(f"{name} holds no images, at any depth")
            found.update(dict.fromkeys(inside))
        elif os.path.lexists(path):
            found[path] = None
        else:
            raise FileNotFoundError(f"no file or folder {name}")
    return list(found)


def write_csv(path: Path, rows: Iterator[Prediction], classes: Sequence[str], top_k: int) -> None:
    """file, then class_1, index_1, probability_1, ...: likeliest first, probabilities to 6 digits; whole or not at all.

    Broken images are passed over.  Texts that a spreadsheet would take for a formula get a ' before them.
    """
    k = min(top_k, len(classes))

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")  # a file name may be no text
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file", *(f"{what}_{i + 1}" for i in range(k) for what in ("class", "index", "probability"))])
        for row in rows:
            if not row.error:
                cells = ([spreadsheet_text(classes[c]), c, f"{p:.6g}"] for c, p in zip(row.top, row.probabilities, strict=True))
                table.writerow([spreadsheet_text(row.file), *(value for cell in cells for value in cell)])
        text.flush()
        text.detach()

    write_with(path, write)


def lines(rows: Iterator[Prediction], files: Sequence[str], classes: Sequence[str]) -> Iterator[str]:
    """For a terminal: the file, then class and percent, likeliest first, in columns."""
    widths = max(map(len, map(replaced, files)), default=0), max(map(len, map(replaced, classes)))
    for row in rows:
        if not row.error:
            cells = (f"{replaced(classes[c]):<{widths[1]}} {100 * p:5.1f} %" for c, p in zip(row.top, row.probabilities, strict=True))
            yield "  ".join([f"{replaced(row.file):<{widths[0]}}", *cells])


def _parser() -> argparse.ArgumentParser:
    parser = WordParser(
        prog="ssl-bench predict", description="A trained network names the classes of images.",
        epilog="For example: ssl-bench predict runs/fixmatch/Digits/4x/0-0123456789ab photos/ --out predictions.csv",
    )  # fmt: skip
    add_flags(parser)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files, and folders of them at any depth")
    add("--out", metavar="FILE.csv", help="write a table there; without, it is printed")
    add("--top-k", type=int, default=5, metavar="K", help="classes an image, likeliest first (default: %(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes the best there is (default: %(default)s)")
    add("--batch-size", type=int, default=256, metavar="N", help="images at a time (default: %(default)s)")
    add("-j", "--workers", type=int, default=4, metavar="N", help="processes that decode; 0: this one (default: %(default)s)")
    add("--skip-broken", action="store_true", help="images that cannot be read do not make the exit code 1")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """``ssl-bench predict``: 0; 1 after a line on stderr where something failed, or an image could not be read."""
    parser = _parser()
    options = parser.parse_args(argv)
    for name, least in (("top_k", 1), ("batch_size", 1), ("workers", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} is out of range: >= {least}")
    try:
        files = listed(options.images)
        trained = from_flags(options, options.device)
        broken = _run(trained, files, options)
    except (OSError, ValueError, Interrupted) as error:
        return failed("predict", error)
    if broken:
        remedy = "" if options.skip_broken else " (--skip-broken makes this no failure)"
        print(f"{broken} of {len(files)} images could not be read{remedy}", file=sys.stderr)
    return int(bool(broken) and not options.skip_broken)


def _run(trained: Trained, files: Sequence[str], options: Any) -> int:
    """Predict and write; the number of broken images."""
    broken = 0

    def told() -> Iterator[Prediction]:
        nonlocal broken
        found = predictions(trained, files, options.top_k, options.batch_size, options.workers if len(files) > options.batch_size else 0)
        hidden = not options.out or not sys.stderr.isatty()
        for row in tqdm(found, total=len(files), unit="image", leave=False, disable=hidden):
            if row.error:
                broken += 1
                tqdm.write(f"ssl-bench predict: {replaced(row.error)}", file=sys.stderr)
            yield row

    if options.out:
        out = Path(options.out).expanduser()
        out.parent.mkdir(parents=True, exist_ok=True)
        write_csv(out, told(), trained.classes, options.top_k)
        print(f"{len(files) - broken} images -> {options.out}")
    else:
        for line in lines(told(), files, trained.classes):
            print(line)
    return broken
