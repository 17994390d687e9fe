"""DST: pseudo-labels train a head of their own, and a third head estimates the worst they could do to the features.

Baixu Chen et al., "Debiased Self-Training for Semi-Supervised Learning", arXiv:2202.07136.  TLlib's worst case follows
predictions where the paper (eq. 8) has true labels: --worst-case-labels predicted (docs/fidelity.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.args import TwoViewArgs
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import confident_pseudo_labels, masked_cross_entropy, pseudo_label_metrics
from ssl_bench.method import Batch, Loop, Method
from ssl_bench.models import Classifier


@dataclass
class Args(TwoViewArgs):
    epochs: int = 90
    lr: float = 0.01
    lr_gamma: float = 0.0002
    log: str = "dst"
    trade_off_self_training: float = flag(1.0, "weight of the pseudo-label loss", ge=0)
    threshold: float = flag(0.7, "confidence above which (strictly) a prediction becomes a label", ge=0, le=1)
    width: int = flag(2048, "hidden units of the pseudo and the adversarial head", ge=1)
    head_dropout: float = flag(0.5, "dropout in the pseudo and the adversarial head", ge=0, lt=1)
    eta: float = flag(1.0, "weight of the worst-case loss", ge=0)
    eta_prime: float = flag(2.0, "weight of the worst-case loss's labelled part", ge=0)
    worst_case_labels: str = flag("true", "labels of that part; eq. 8: true, TLlib: predicted", choices=("true", "predicted"))


class Reversal(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -coefficient; x: any shape, coefficient: ()."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficient: Tensor) -> Tensor:
        ctx.save_for_backward(coefficient)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.saved_tensors[0] * gradient, None


class ThreeHeads(Classifier):
    """In training logits (B, 3 C) of the main, the pseudo and the adversarial head; else (B, C) of the main head."""

    reversal: Tensor  # (), a function of the step

    def __init__(self, base: Classifier, width: int, dropout: float) -> None:
        super().__init__(base.backbone, base.pool, base.bottleneck, base.head)
        features, classes = base.head.in_features, base.head.out_features
        self.pseudo_head, self.adv_head = (
            nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, classes)) for _ in range(2)
        )
        self.register_buffer("reversal", torch.zeros(()), persistent=False)

    def logits(self, features: Tensor) -> Tensor:
        if not self.training:
            return self.head(features)
        reversed_ = Reversal.apply(features, self.reversal)                   # (B, D)
        return torch.cat([self.head(features), self.pseudo_head(features), self.adv_head(reversed_)], dim=1)


class DST(Method[Args]):
    name = "dst"
    unlabeled_views = ("weak", "strong")
    model: ThreeHeads

    def build_model(self) -> ThreeHeads:
        return ThreeHeads(self.build_classifier(), self.args.width, self.args.head_dropout)

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        args, (x_l, x_l_strong), (x_u, x_u_strong) = self.args, batch.x_l, batch.x_u
        self.model.reversal.fill_(0.1 * math.tanh(loop.step / 2000))         # 0 to 0.1
        y = self.forwards(x_l_strong, torch.cat([x_l, x_u]), x_u_strong)
        cls_strong_loss, y_l_strong = x_l.new_zeros(()), next(y)              # (), (B, 3C)
        if y_l_strong is not None:
            cls_strong_loss = args.trade_off_cls_strong * F.cross_entropy(y_l_strong.chunk(3, dim=1)[0], batch.y_l)
            loop.backward(cls_strong_loss, "cls_strong_loss")

        heads = [head.split([len(x_l), len(x_u)]) for head in next(y).chunk(3, dim=1)]
        (y_l, y_u), _, (y_l_adv, y_u_adv) = heads                             # (B, C) and (mu B, C) each
        cls_loss = F.cross_entropy(y_l, batch.y_l)
        label = batch.y_l if args.worst_case_labels == "true" else y_l.argmax(dim=1)
        errs = agreement_penalty(y_u_adv, y_u.argmax(dim=1))                  # ()
        worst_case_loss = args.eta * (args.eta_prime * F.cross_entropy(y_l_adv, label) + errs)
        loop.backward(cls_loss + worst_case_loss, "cls_loss + worst_case_loss")

        mask, pseudo = confident_pseudo_labels(y_u, args.threshold)           # (mu B,), (mu B,)
        y_u_strong = next(y).chunk(3, dim=1)[1]                               # (mu B, C)
        self_training_loss = args.trade_off_self_training * masked_cross_entropy(y_u_strong, pseudo, mask)
        loop.backward(self_training_loss, "self_training_loss")
        return {
            "cls_loss": cls_loss.detach() + cls_strong_loss.detach(), "worst_case_loss": worst_case_loss,
            "self_training_loss": self_training_loss, "cls_acc": (y_l.argmax(dim=1) == batch.y_l).float().mean(),
            **pseudo_label_metrics(mask, pseudo, batch.y_u_hidden),
        }  # fmt: skip


def agreement_penalty(y: Tensor, label: Tensor) -> Tensor:
    """Mean of -log(1 - softmax(y)[label]), (): large where the logits y (B, C) agree with label (B,).  Source: eq. 8."""
    p = y.float().softmax(dim=1).gather(1, label[:, None])                    # (B, 1)
    return -(1 - p + 1e-6).clamp(max=1).log().mean()


def main(argv: list[str] | None = None) -> None:
    launch(DST, argv)


if __name__ == "__main__":
    main()
