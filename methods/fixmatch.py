"""FixMatch: a confident prediction on a weak view is the hard target of a strong view of the same image.

Kihyuk Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", arXiv:2001.07685.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench.args import TwoViewArgs
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import confident_pseudo_labels, masked_cross_entropy, pseudo_label_metrics
from ssl_bench.method import Batch, Loop, Method


@dataclass
class Args(TwoViewArgs):
    epochs: int = 60
    log: str = "fixmatch"
    trade_off_self_training: float = flag(1.0, "weight of the pseudo-label loss", ge=0)
    threshold: float = flag(0.95, "confidence above which (strictly) a prediction becomes a label", ge=0, le=1)


class FixMatch(Method[Args]):
    name = "fixmatch"
    unlabeled_views = ("weak", "strong")

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        (x_l, x_l_strong), (x_u, x_u_strong) = batch.x_l, batch.x_u
        y = self.forwards(x_l, x_l_strong, x_u_strong)
        logged = self.supervised(y, batch.y_l, loop)

        with torch.no_grad():
            y_u = self.model(x_u)            # (mu B, C)
        mask, pseudo = confident_pseudo_labels(y_u, self.args.threshold)  # (mu B,), (mu B,)
        y_u_strong = next(y)                 # (mu B, C)
        self_training_loss = self.args.trade_off_self_training * masked_cross_entropy(y_u_strong, pseudo, mask)
        loop.backward(self_training_loss, "self_training_loss")
        return logged | {"self_training_loss": self_training_loss, **pseudo_label_metrics(mask, pseudo, batch.y_u_hidden)}


def main(argv: list[str] | None = None) -> None:
    launch(FixMatch, argv)


if __name__ == "__main__":
    main()
