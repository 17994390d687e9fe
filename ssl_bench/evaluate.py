"""Evaluate a predictor over a whole set; training, the test phase and reports all use this one function."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench import distributed, metrics
from ssl_bench.augment.views import View
from ssl_bench.datasets.images import Images
from ssl_bench.prefetch import ahead
from ssl_bench.streams import Stream, sequential_plans


def evaluation_stream(
    images: Images, view: View, device: torch.device, *, batch_size: int = 256, workers: int = 0, device_limit: float = math.inf
) -> Stream:
    """Every image once in each iteration, of several processes each its rows of every batch.

    Its owner keeps it for all evaluations: workers start once, pixels move once.  ValueError: more processes than images.
    """
    rank, world = distributed.rank(), distributed.world_size()
    if len(images) < world:
        raise ValueError(f"{len(images)} images to evaluate are fewer than the {world} processes: start fewer")
    plans = list(sequential_plans(len(images), batch_size, rank, world))
    return Stream(images, (view,), plans, (0, 0), device, workers, device_limit)


@torch.inference_mode()
def evaluate(predict: Callable[[Tensor], Tensor], stream: Stream, num_classes: int) -> dict[str, float]:
    """top1, top5 (top-C when C < 5), mean_class: percent; loss: mean cross-entropy, nats.

    predict: (B, 3, S, S) -> logits (B, C); stream: of `evaluation_stream`.  Counts are exact, over all processes.
    """
    images, device = stream.images, stream.device
    hits = torch.zeros(2, dtype=torch.int64, device=device)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    loss = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
    for (x,), target, _ in ahead(stream, device):
        y = predict(x).float()
        hits += metrics.top_k_hits(y, target)
        confusion += metrics.confusion_matrix(y.argmax(dim=1), target, num_classes)
        loss += F.cross_entropy(y, target, reduction="sum")
    for total in (hits, confusion, loss):
        distributed.sum_(total)
    top1, top5 = (100 * count / len(images) for count in hits.tolist())
    mean_class = 100 * metrics.mean_class_accuracy(confusion)
    return {"top1": top1, "top5": top5, "mean_class": mean_class, "loss": loss.item() / len(images)}
