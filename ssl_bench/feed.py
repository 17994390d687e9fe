"""From flags and pools to what a run reads: the views, the training batches, the test stream."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing

import torch
from torch import Tensor, nn

from ssl_bench import distributed
from ssl_bench.args import Args
from ssl_bench.augment.views import View, build_view
from ssl_bench.datasets.images import Images
from ssl_bench.devices import require_memory
from ssl_bench.evaluate import evaluation_stream
from ssl_bench.method import Batch, Method
from ssl_bench.pools import Pools
from ssl_bench.prefetch import ahead
from ssl_bench.streams import LABELED, PREDICTED, UNLABELED, EndlessOrder, Stream, endless_plans, sequential_plans


def training_views(names: Iterable[str | None], args: Args) -> tuple[View, ...]:
    """The views a method declared, built from the flags; none of None."""
    return tuple(
        build_view(
            name, image_size=args.image_size, resizing=args.train_resizing, mean=args.norm_mean, std=args.norm_std,
            policy=args.auto_augment, hflip=args.hflip, color_jitter=args.color_jitter, weak_color_jitter=args.weak_color_jitter,
            erasing=args.erasing, cutout=args.cutout, crop_scale=args.crop_scale,
        )
        for name in names if name is not None
    )  # fmt: skip


def test_view(args: Args) -> View:
    """The view of evaluation."""
    return build_view("test", image_size=args.image_size, resizing=args.val_resizing, mean=args.norm_mean, std=args.norm_std)


def test_stream(images: Images, args: Args, device: torch.device) -> Stream:
    """Images as the test set's are seen, for any number of evaluations."""
    limit = args.device_data_limit * 2**30
    return evaluation_stream(
        images, test_view(args), device, batch_size=args.eval_batch_size, workers=args.workers, device_limit=limit
    )


def training_batches(method: Method, pools: Pools, args: Args, device: torch.device, start: int) -> Generator[Batch, None, None]:
    """Batch `start`, `start` + 1, ...: the same ones whoever asks.  Closed, it ends its worker processes."""
    wanted = [(pools.labeled, method.labeled_views, args.batch_size, LABELED)]
    if method.unlabeled_views:
        if not len(pools.unlabeled):
            raise ValueError(f"{method.name} needs unlabelled images, and every image is labelled; use erm or fewer labels")
        wanted.append((pools.unlabeled, method.unlabeled_views, args.batch_size * args.mu, UNLABELED))
    streams, limit = [], args.device_data_limit * 2**30
    for images, names, size, purpose in wanted:
        order = EndlessOrder(len(images), size, args.seed, purpose)
        plans = endless_plans(order, start, distributed.rank(), distributed.world_size())
        streams.append(Stream(images, training_views(names, args), plans, (args.seed, purpose), device, args.workers, limit))
    empty = torch.empty(0, dtype=torch.int64, device=device)
    with ExitStack() as ending:
        for stream in streams:
            ending.enter_context(closing(stream))
        for (x_l, y_l, _), *unlabeled in ahead(zip(*streams, strict=False), device):
            x_u, hidden, idx_u = unlabeled[0] if unlabeled else ((), empty, empty)
            made = iter(x_l)
            x_l = tuple(None if name is None else next(made) for name in method.labeled_views)
            yield Batch(x_l, y_l, x_u, idx_u, hidden)


@torch.no_grad()
def predictions(network: nn.Module, images: Images, view: str, args: Args) -> Tensor:
    """Logits (N, C) of one draw of `view` of every image, in the order of `images`, on the network's device.  Collective.

    ValueError: the device has no memory for them.
    """
    device = next(network.parameters()).device
    plans = list(sequential_plans(len(images), args.eval_batch_size, distributed.rank(), distributed.world_size()))
    key, limit = (args.seed, PREDICTED), args.device_data_limit * 2**30
    found: Tensor | None = None
    with closing(Stream(images, training_views((view,), args), plans, key, device, args.workers, limit)) as stream:
        for (x,), _, positions in ahead(stream, device):
            logits = network(x).float()
            if found is None:  # once, and not a second time to put the batches together: of 1.28 million images and 1,000 classes it is 5 GiB
                what = f"the predictions for {len(images):,} images and {logits.shape[1]:,} classes"
                require_memory(4.0 * len(images) * logits.shape[1], device, what, "--unlabeled-list can name fewer images")
                found = logits.new_zeros(len(images), logits.shape[1])
            found.index_copy_(0, positions, logits)
    if found is None:
        raise ValueError("there are no images to predict")
    return distributed.sum_(found)
