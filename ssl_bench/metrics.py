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


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """(C, C) int64, rows: true class, columns: predicted class.  prediction, target: (N,) int64."""
    cell = target * num_classes + prediction
    count = torch.zeros(num_classes**2, dtype=torch.int64, device=cell.device)  # bincount would wait for the device
    return count.scatter_add_(0, cell, torch.ones_like(cell)).view(num_classes, num_classes)


def mean_class_accuracy(confusion: Tensor) -> float:
    """Mean over the classes that occur of the fraction predicted right, in [0, 1]."""
    confusion = confusion.cpu().double()
    counts = confusion.sum(dim=1)
    return (confusion.diagonal() / counts)[counts > 0].mean().item()


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
        self.__init__()
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
