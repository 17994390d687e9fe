"""``ssl-bench show views``: a sheet of images as a network is fed them: each view, and what a method makes of a batch.

The batch is training's own (`feed.training_batches`, with the run's flags and seed), and mixing is the method's own
`before_step`; only the normalisation is taken back.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_bench import contact_sheet, flags, launch
from ssl_bench.args import Args
from ssl_bench.atomic import write_bytes
from ssl_bench.catalog import load_method, method_names
from ssl_bench.contact_sheet import Cell, Section
from ssl_bench.datasets.images import Images
from ssl_bench.devices import pick_device
from ssl_bench.feed import training_batches
from ssl_bench.messages import refuse
from ssl_bench.method import Batch, Method, Stage
from ssl_bench.placement import autocast, place
from ssl_bench.pools import Pools, with_true_labels
from ssl_bench.streams import LABELED, STEP, EndlessOrder, seed_of
from ssl_bench.word_parser import WordParser

IMAGES = 6
SURE = 0.005  # least share of a soft label that is named


@dataclass(frozen=True)
class Moment:
    """The step a sheet is of, as `Method.before_step` asks for it."""

    step: int
    epoch: int

    def backward(self, loss: Tensor, term: str) -> None:
        raise RuntimeError(f"{term}: nothing is trained for a sheet")


@dataclass(frozen=True)
class Fed:
    """What one training step is fed: the batch as it is made, as `before_step` leaves it, and where its images lie in the pools.

    labeled, unlabeled: (B,), (mu B,) int64 positions.
    """

    method: Method
    pools: Pools
    batch: Batch
    mixed: Batch
    labeled: np.ndarray
    unlabeled: np.ndarray


def main(argv: Sequence[str]) -> int:
    """``ssl-bench show views ...``: write the sheet and name it; 2 and a line for a wrong command line, 1 for what fails."""
    parser = _parser()
    if not argv or argv[0] in ("-h", "--help"):
        parser.print_help()
        return 0 if argv else 2
    options, rest = parser.parse_known_args(argv)
    try:
        if options.what != "views":
            raise flags.FlagError(flags.nearest(options.what, ["views"], "sheet"))
        for name, least in (("images", 1), ("step", 0)):
            if getattr(options, name) < least:
                raise flags.FlagError(f"--{name} must be >= {least}, got {getattr(options, name)}")
        out = Path(options.out)
        format = contact_sheet.check_format(out)
        if options.method not in method_names():
            raise flags.FlagError(flags.nearest(options.method, method_names(), "method"))
        method = load_method(options.method)
        args, _ = launch.resolve(method, rest)
        stage = _stage(method, args, options.stage)
    except ValueError as error:  # FlagError among them
        return _fail(error, 2)
    try:
        fed = feed_of(stage, method, args, options.step)
        caption = [f"{method.name}, stage {stage.name}" if len(method.stages(args)) > 1 else method.name]
        caption[0] += f" on {args.data}, seed {args.seed}: step {options.step}, as fed"
        if hasattr(fed.mixed, "q_u"):
            caption.append("Soft labels of unlabelled images are those of a network with initial weights.")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, contact_sheet.encoded(contact_sheet.sheet(caption, sections(fed, options.images)), format))
    except launch.USER_ERRORS as error:
        return _fail(error, 1)
    print(out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = WordParser(
        "ssl-bench show", usage="ssl-bench show views [DIR] [-d NAME] [--method NAME] [--out FILE] [any flag of a run of the method]",
        description="A sheet of training images: as they are, and as the method is fed them.", allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("what", metavar="views", help="the views of a batch, and its images mixed with their soft labels")
    parser.add_argument("--method", default="fixmatch", metavar="NAME", help="whose views (default: %(default)s)")
    parser.add_argument("--stage", metavar="NAME", help="of a method of several (default: the last)")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help="rows of each kind (default: %(default)s)")
    parser.add_argument("--step", type=int, default=0, metavar="K", help="of the training step K, from 0 (default: %(default)s)")
    parser.add_argument("--out", default="views.png", metavar="FILE", help="png, jpg, webp or pdf (default: %(default)s)")
    return parser


def _fail(error: Exception, code: int) -> int:
    return refuse("ssl-bench show", error, code)


def _stage(method: type[Method], args: Args, name: str | None) -> Stage:
    stages = {stage.name: stage for stage in method.stages(args)}
    if name is not None and name not in stages:
        raise flags.FlagError(f"{method.name} has no stage {name!r} with these flags; it has: {', '.join(stages)}")
    return stages[name or [*stages][-1]]


def feed_of(stage: Stage, method: type[Method], args: Args, step: int) -> Fed:
    """What step `step` of that stage is fed, with initial weights where a network labels images.

    ValueError: too few images, an unknown data set or network; OSError: no such data.
    """
    device = pick_device(args.device)
    _, pools = launch.load(method, args, None)
    if stage.true_labels:
        pools = with_true_labels(pools)
    trained = replace(stage.args, pretrained_backbone=None)  # no weights are fetched for a look
    made = place(launch.build(stage.method or method, trained, pools, pretrained=False), trained, device).train()
    batch = next(training_batches(made, pools, trained, device, step))
    positions = EndlessOrder(len(pools.labeled), trained.batch_size, trained.seed, LABELED).batch(step)
    torch.manual_seed(seed_of(trained.seed, STEP, step))
    with torch.no_grad(), autocast(trained, device):
        mixed, _ = made.before_step(batch, Moment(step, step // trained.iters_per_epoch))
    return Fed(made, pools, batch, mixed, positions, batch.idx_u.cpu().numpy())


def sections(fed: Fed, images: int) -> list[Section]:
    """Labelled and unlabelled images, `images` rows each: as they are, each view, and what `before_step` made of one."""
    batch, mixed, pools = fed.batch, fed.mixed, fed.pools
    labels = batch.y_l.tolist()
    # A method that numbers its classes otherwise shows the number.
    parts = [
        (
            "Labelled",
            pools.labeled,
            fed.labeled,
            fed.method.labeled_views,
            batch.x_l,
            mixed.x_l,
            getattr(mixed, "q_l", None),
            labels,
        )
    ]
    if batch.x_u:
        hidden, soft = batch.y_u_hidden.tolist(), getattr(mixed, "q_u", None)
        parts.append(
            ("Unlabelled", pools.unlabeled, fed.unlabeled, fed.method.unlabeled_views, batch.x_u, mixed.x_u, soft, hidden)
        )
    made = []
    for title, pool, positions, names, views, after, soft, truth in parts:
        shown = [(name, x) for name, x in zip(names, views, strict=True) if x is not None]
        fresh = [
            x for x in after if x is not None and not any(x.shape == view.shape and torch.equal(x, view) for _, view in shown)
        ]
        heads = ("as it is", *(str(name) for name, _ in shown), *["mixed"] * len(fresh))
        rows = []
        for i in range(min(images, len(positions))):
            name = pools.classes[truth[i]] if truth[i] >= 0 else "no label"
            cells = [Cell(original(pool, int(positions[i])), (name if title == "Labelled" else f"({name})",))]
            cells += [Cell(pixels(x[i], fed.method.args)) for _, x in shown]
            words = soft_label(soft[i], pools.classes) if soft is not None and len(soft) else ()
            cells += [Cell(pixels(x[i], fed.method.args), words) for x in fresh]
            if words and not fresh:
                cells[-1] = Cell(cells[-1].pixels, words)
            rows.append(tuple(cells))
        notes = " (in brackets: hidden from training)" if title == "Unlabelled" else ""
        made.append(Section(title + notes, heads, tuple(rows)))
    return made


def original(images: Images, position: int) -> np.ndarray:
    """(H, W, 3) uint8 of one image of a pool."""
    x = images.load(position)
    return x.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def pixels(x: Tensor, args: Args) -> np.ndarray:
    """(H, W, 3) uint8 of a normalised image (3, H, W); what erasing filled in beyond black and white is cut off."""
    mean, std = (torch.tensor(value, dtype=torch.float64)[:, None, None] for value in (args.norm_mean, args.norm_std))
    levels = (x.detach().cpu().double() * std + mean) * 255
    return levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def soft_label(target: Tensor, classes: Sequence[str], most: int = 3) -> tuple[str, ...]:
    """A line for each of the largest shares (C,) of a label, without what smoothing gave all alike; no share: not used."""
    if not bool(target.any()):
        return ("not used",)
    share, index = target.float().cpu().sort(descending=True, stable=True)
    floor = float(share[-1]) + SURE
    named = [(value, i) for value, i in zip(share.tolist(), index.tolist(), strict=True) if value > floor][:most]
    return tuple(f"{classes[i]} {value:.2f}" for value, i in named) or ("all classes alike",)
