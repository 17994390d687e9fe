"""DebiasMatch: FixMatch whose logits are corrected by how often each class is predicted.

Xudong Wang et al., "Debiased Learning from Naturally Imbalanced Pseudo-Labels", arXiv:2201.01490.  TLlib forgot the
prediction frequencies at each epoch: --reset-prior (docs/fidelity.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench import distributed
from ssl_bench.args import TwoViewArgs
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import confident_pseudo_labels, masked_cross_entropy, pseudo_label_metrics
from ssl_bench.method import Batch, Loop, Method, Task


@dataclass
class Args(TwoViewArgs):
    epochs: int = 90
    log: str = "debiasmatch"
    trade_off_self_training: float = flag(1.0, "weight of the pseudo-label loss", ge=0)
    threshold: float = flag(  # TLlib published a command with 7
        0.95, "debiased confidence above which (strictly) a prediction becomes a label; 0 to 1", ge=0,
        warn_above=(1, "no prediction will become a label, and only the labelled images train"),
    )  # fmt: skip
    momentum: float = flag(0.999, "momentum of the class prior, a moving average of predictions", ge=0, lt=1)
    tau: float = flag(1.0, "strength of the correction", ge=0)
    reset_prior: bool = flag(False, "begin each epoch with a uniform prior, as TLlib")


class DebiasMatch(Method[Args]):
    name = "debiasmatch"
    unlabeled_views = ("weak", "strong")
    prior: Tensor  # (C,)

    def __init__(self, args: Args, task: Task) -> None:
        super().__init__(args, task)
        self.register_buffer("prior", torch.full((task.num_classes,), 1 / task.num_classes))
        self.seen: list[Tensor] = []  # mean predictions of this step, until after_step

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        (x_l, x_l_strong), (x_u, x_u_strong) = batch.x_l, batch.x_u
        y = self.forwards(x_l, x_l_strong, x_u_strong)
        logged = self.supervised(y, batch.y_l, loop)

        bias = self.args.tau * self.prior.clamp(min=1e-8).log()              # (C,); a class never predicted: not -inf
        with torch.no_grad():
            y_u = self.model(x_u).float()                                    # (mu B, C)
        self.seen.append(y_u.softmax(dim=1).mean(dim=0))                     # (C,)
        mask, pseudo = confident_pseudo_labels(y_u - bias, self.args.threshold)  # (mu B,), (mu B,)
        y_u_strong = next(y).float() + bias                                  # (mu B, C): the marginal loss
        self_training_loss = self.args.trade_off_self_training * masked_cross_entropy(y_u_strong, pseudo, mask)
        loop.backward(self_training_loss, "self_training_loss")
        logged |= {"self_training_loss": self_training_loss, "prior_max": self.prior.max()}
        return logged | pseudo_label_metrics(mask, pseudo, batch.y_u_hidden)

    def after_step(self, loop: Loop) -> None:
        predicted = distributed.mean_(torch.stack(self.seen).mean(dim=0))    # (C,)
        self.seen.clear()
        self.prior.lerp_(predicted, 1 - self.args.momentum)
        if self.args.reset_prior and (loop.step + 1) % self.args.iters_per_epoch == 0:
            self.prior.fill_(1 / self.task.num_classes)


def main(argv: list[str] | None = None) -> None:
    launch(DebiasMatch, argv)


if __name__ == "__main__":
    main()
