"""Accuracy from predictions, and running means that stay on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_bench import distributed


def top_k_hits(y: Tensor, target: Tensor, ks: tuple[int, ...] = (1, 5)) -> Tensor:
    """Number of rows whose label is among the k best logits, for each k (cut to C): (len(ks),) int64.

    y: logits (B, C); target: (B,) int64.
    """
    best = y.topk(min(max(ks), y.shape[1]), dim=1).indices == target[:, None]
    return torch.stack([best[:, :k].any(dim=1).sum() for k in ks])


def class_counts(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """(2, C) int64: of each true class the images predicted right, and all.  prediction, target: (N,) int64.

    Not a confusion matrix: of 100,000 classes it would take 75 GiB."""
    count = torch.zeros(2, num_classes, dtype=torch.int64, device=target.device)  # bincount would wait for the device
    right = (prediction == target).long()
    return count.scatter_add_(1, target.expand(2, -1), torch.stack([right, torch.ones_like(target)]))


def mean_class_accuracy(counts: Tensor) -> float:
    """Mean over the classes that occur of the fraction predicted right, in [0, 1], of `class_counts`."""
    right, images = counts.cpu().double()
    return (right / images)[images > 0].mean().item()


class RunningMeans:
    """Means of named device scalars since the last `pop`, over steps (and micro-batches and processes, each counting once);
    `add` never waits for the device.  nan values are left out."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().double() if value.device.type != "mps" else value.detach().float()
            known = ~value.isnan()
            self.sums[name] = self.sums.get(name, 0) + torch.where(known, value, 0)
            self.counts[name] = self.counts.get(name, 0) + known

    def pop(self) -> dict[str, float]:
        """The means as Python numbers (one wait for the device), and start again.  nan where nothing was known."""
        names = list(self.sums)
        if not names:
            return {}
        self.average()
        means = torch.stack([self.sums[name] / self.counts[name] for name in names]).tolist()
        self.sums, self.counts = {}, {}
        return dict(zip(names, means, strict=True))

    def average(self) -> None:
        """Share evenly what the processes of a run have added.  Collective."""
        for values in (self.sums, self.counts):
            if values and distributed.world_size() > 1:
                shared = distributed.mean_(torch.stack([*values.values()]).double())
                values.update(zip(values, shared.unbind(), strict=True))

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
