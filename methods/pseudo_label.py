"""Pseudo-Label: the network's own confident predictions on unlabelled images are its targets.

Dong-Hyun Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method", ICML workshop 2013.  As TLlib:
a confidence threshold and a constant weight in place of the paper's ramp (docs/fidelity.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ssl_bench.args import TwoViewArgs
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import confident_pseudo_labels, masked_cross_entropy, pseudo_label_metrics
from ssl_bench.method import Batch, Loop, Method


@dataclass
class Args(TwoViewArgs):
    epochs: int = 40
    log: str = "pseudo_label"
    trade_off_self_training: float = flag(1.0, "weight of the pseudo-label loss", ge=0)
    threshold: float = flag(0.95, "confidence above which (strictly) a prediction becomes a label", ge=0, le=1)


class PseudoLabel(Method[Args]):
    name = "pseudo_label"
    unlabeled_views = ("weak",)

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        (x_l, x_l_strong), (x_u,) = batch.x_l, batch.x_u
        y = self.forwards(x_l, x_l_strong, x_u)
        logged = self.supervised(y, batch.y_l, loop)

        y_u = next(y)                        # (mu B, C)
        mask, pseudo = confident_pseudo_labels(y_u, self.args.threshold)  # (mu B,), (mu B,)
        self_training_loss = self.args.trade_off_self_training * masked_cross_entropy(y_u, pseudo, mask)
        loop.backward(self_training_loss, "self_training_loss")
        return logged | {"self_training_loss": self_training_loss, **pseudo_label_metrics(mask, pseudo, batch.y_u_hidden)}


def main(argv: list[str] | None = None) -> None:
    launch(PseudoLabel, argv)


if __name__ == "__main__":
    main()
