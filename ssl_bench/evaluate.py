"""Evaluate a predictor over a whole set; training, the test phase and reports all use this one function."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench import metrics
from ssl_bench.augment.views import View
from ssl_bench.datasets.images import Images
from ssl_bench.streams import batches, sequential_plans


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor], images: Images, view: View, num_classes: int, device: torch.device, *,
    batch_size: int = 256, workers: int = 0,
) -> dict[str, float]:
    """top1, top5 (top-C when C < 5), mean_class: percent; loss: mean cross-entropy, nats.

    predict: (B, 3, S, S) -> logits (B, C).  Counts are exact; the last batch may be short.
    """
    hits = torch.zeros(2, dtype=torch.int64, device=device)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    loss = torch.zeros((), device=device)
    for (x,), target, _ in batches(images, (view,), sequential_plans(len(images), batch_size), (0, 0), device, workers):
        y = predict(x).float()
        hits += metrics.top_k_hits(y, target)
        confusion += metrics.confusion_matrix(y.argmax(dim=1), target, num_classes)
        loss += F.cross_entropy(y, target, reduction="sum")
    top1, top5 = (100 * count / len(images) for count in hits.tolist())
    mean_class = 100 * metrics.mean_class_accuracy(confusion)
    return {"top1": top1, "top5": top5, "mean_class": mean_class, "loss": loss.item() / len(images)}
