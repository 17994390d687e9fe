"""FlexMatch: FixMatch with a threshold per class, lower where the network has learned less.

Bowen Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling", arXiv:2110.08263.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench import distributed
from ssl_bench.args import TwoViewArgs
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import masked_cross_entropy, pseudo_label_metrics
from ssl_bench.method import Batch, Loop, Method, Task


@dataclass
class Args(TwoViewArgs):
    epochs: int = 90
    log: str = "flexmatch"
    trade_off_self_training: float = flag(1.0, "weight of the pseudo-label loss", ge=0)
    threshold: float = flag(0.95, "threshold of the best-learned class (strictly above)", ge=0, le=1)
    warmup: bool = flag(False, "thresholds rise from 0 while most images have never been confident (eq. 11)")


class FlexMatch(Method[Args]):
    name = "flexmatch"
    unlabeled_views = ("weak", "strong")
    selected: Tensor  # (N_u,) int64: of each unlabelled image the last label it was confident in; -1: none yet

    def __init__(self, args: Args, task: Task) -> None:
        super().__init__(args, task)
        self.register_buffer("selected", torch.full((task.num_unlabeled,), -1))
        self.seen: list[tuple[Tensor, Tensor]] = []  # of this step, until after_step

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        (x_l, x_l_strong), (x_u, x_u_strong) = batch.x_l, batch.x_u
        y = self.forwards(x_l, x_l_strong, x_u_strong)
        logged = self.supervised(y, batch.y_l, loop)

        with torch.no_grad():
            confidence, pseudo = self.model(x_u).float().softmax(dim=1).max(dim=1)           # (mu B,), (mu B,)
        thresholds = self.args.threshold * flexible(self.selected, self.task.num_classes, self.args.warmup)  # (C,)
        mask = (confidence > thresholds[pseudo]).float()                                     # (mu B,)
        self.seen.append((batch.idx_u, torch.where(confidence > self.args.threshold, pseudo, -1)))
        y_u_strong = next(y)                                                                 # (mu B, C)
        self_training_loss = self.args.trade_off_self_training * masked_cross_entropy(y_u_strong, pseudo, mask)
        loop.backward(self_training_loss, "self_training_loss")
        logged |= {"self_training_loss": self_training_loss, "mean_threshold": thresholds.mean()}
        return logged | pseudo_label_metrics(mask, pseudo, batch.y_u_hidden)

    def after_step(self, loop: Loop) -> None:
        idx_u, label = (distributed.gather_rows(torch.cat(parts)) for parts in zip(*self.seen, strict=True))
        self.seen.clear()
        # An image that stands twice in a batch: the larger label, whatever the order of writes.
        latest = torch.full_like(self.selected, -1).scatter_reduce_(0, idx_u, label, "amax")
        self.selected.copy_(torch.where(latest >= 0, latest, self.selected))


def flexible(selected: Tensor, num_classes: int, warmup: bool) -> Tensor:
    """The factor M(beta_c) of each class's threshold, (C,) in [0, 1]; M(x) = x / (2 - x).

    selected: (N,) int64, label last confidently given to each image, -1: none.  beta_c: share of class c relative to the
    best-learned class (warmup: or to the images without a label, if those are more).  Source: eq. 5-8, 11, 12.
    """
    counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=selected.device)
    counts.scatter_add_(0, selected + 1, torch.ones_like(selected))  # torch.bincount would wait for a GPU
    most = counts.max() if warmup else counts[1:].max()
    beta = counts[1:] / most.clamp(min=1)
    return beta / (2 - beta)


def main(argv: list[str] | None = None) -> None:
    launch(FlexMatch, argv)


if __name__ == "__main__":
    main()
