"""A method's figures on the test set, and on images held out for validation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_bench import parallel
from ssl_bench.args import Args
from ssl_bench.evaluate import Answers, evaluate
from ssl_bench.feed import test_stream
from ssl_bench.method import Method
from ssl_bench.placement import autocast
from ssl_bench.pools import Pools
from ssl_bench.streams import Stream


def evaluate_method(
    method: Method, pools: Pools, args: Args, device: torch.device, stream: Stream | None = None, beside: bool = True,
    answers: Answers | None = None,
) -> dict[str, float]:  # fmt: skip
    """The test set's figures in the precision of training, ``<name>_*`` those of `Method.also_evaluated`; the method is left in
    training mode.

    stream: a `test_stream` to use again, of whichever images; None: one of the test set, made for this evaluation; beside: whether
    those are evaluated too; answers: where the headline's prediction for each image is noted.
    """

    images = stream or test_stream(pools.test, args, device)

    def figures(network: Callable[[Tensor], Tensor], answers: Answers | None = None) -> dict[str, float]:
        def predict(x: Tensor) -> Tensor:
            if args.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with autocast(args, device):  # around the network only: the view's arithmetic on pixels is exact
                return network(x)

        return evaluate(predict, images, len(pools.classes), answers)

    method.eval()
    parallel.average_batch_norm(method)
    row = figures(method.predict, answers)
    for name, network in method.also_evaluated().items() if beside else ():
        row |= {f"{name}_{figure}": value for figure, value in figures(network).items()}
    method.train()
    return row


def held_out_figures(method: Method, pools: Pools, args: Args, device: torch.device, stream: Stream) -> dict[str, float]:
    """The headline network's figures on the images of `stream`, those held out: val_top1, val_top5, val_mean_class, val_loss."""
    row = evaluate_method(method, pools, args, device, stream, beside=False)
    return {f"val_{name}": row[name] for name in ("top1", "top5", "mean_class", "loss")}
