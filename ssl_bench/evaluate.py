"""Evaluate a predictor over a whole set; training, the test phase and reports all use this one function."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
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
def evaluate(
    predict: Callable[[Tensor], Tensor | dict[str, Tensor]], stream: Stream, num_classes: int, answers: Answers | None = None
) -> dict[str, float]:
    """top1, top5 (top-C when C < 5), mean_class: percent; loss: mean cross-entropy, nats.

    predict: (B, 3, S, S) -> logits (B, C), or several by name: those of "" give the figures above, those of "x" x_top1 and so on.
    answers: where the prediction for each image is noted, those of "".
    stream: of `evaluation_stream`.  Counts are exact, over all processes.
    """
    tallies: dict[str, _Tally] = {}
    for (x,), target, positions in ahead(stream, stream.device):
        y = predict(x)
        for name, logits in (y if isinstance(y, dict) else {"": y}).items():
            if answers is not None and not name:
                answers.note(logits.float(), target, positions)
            if name not in tallies:
                tallies[name] = _Tally(num_classes, stream.device)
            tallies[name].add(logits.float(), target)
    rows = {name: tally.figures(len(stream.images)) for name, tally in tallies.items()}
    return {f"{name}_{figure}" if name else figure: value for name, row in rows.items() for figure, value in row.items()}


class Answers:
    """What a network says of each image of a set; it stays on the device until it is asked for."""

    def __init__(self, images: int, device: torch.device) -> None:
        self.labels = torch.zeros(2, images, dtype=torch.int64, device=device)  # true, predicted
        self.confidence = torch.zeros(images, device=device)

    def note(self, y: Tensor, target: Tensor, positions: Tensor) -> None:
        """y: logits (B, C); target: (B,); positions: (B,) in the set, each once over all calls and processes."""
        confidence, prediction = y.softmax(dim=1).max(dim=1)
        self.labels[:, positions] = torch.stack([target, prediction])
        self.confidence[positions] = confidence

    def arrays(self) -> dict[str, np.ndarray]:
        """target, prediction: int32 (N,); confidence: float32 (N,), the largest probability; of all processes.  Collective."""
        target, prediction = distributed.sum_(self.labels).to("cpu", torch.int32).numpy()
        return {"target": target, "prediction": prediction, "confidence": distributed.sum_(self.confidence).cpu().numpy()}


class _Tally:
    """What is counted of one network's predictions; it stays on the device until the end."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.hits = torch.zeros(2, dtype=torch.int64, device=device)
        self.classes = torch.zeros(2, num_classes, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)

    def add(self, y: Tensor, target: Tensor) -> None:
        self.hits += metrics.top_k_hits(y, target)
        self.classes += metrics.class_counts(y.argmax(dim=1), target, self.classes.shape[1])
        self.loss += F.cross_entropy(y, target, reduction="sum")

    def figures(self, images: int) -> dict[str, float]:
        """Over all processes.  Collective."""
        for total in (self.hits, self.classes, self.loss):
            distributed.sum_(total)
        top1, top5 = (100 * count / images for count in self.hits.tolist())
        mean_class = 100 * metrics.mean_class_accuracy(self.classes)
        return {"top1": top1, "top5": top5, "mean_class": mean_class, "loss": self.loss.item() / images}
