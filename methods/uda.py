"""UDA: a strong view of an unlabelled image is predicted as its weak view is, sharpened, where that is confident.

Qizhe Xie et al., "Unsupervised Data Augmentation for Consistency Training", arXiv:1904.12848.  TLlib's temperature, on the
wrong side, and its divisor are --temperature-on student --divide-by kept (docs/fidelity.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench import distributed
from ssl_bench.args import TwoViewArgs
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import confident_pseudo_labels, pseudo_label_metrics
from ssl_bench.method import Batch, Loop, Method


@dataclass
class Args(TwoViewArgs):
    epochs: int = 60
    log: str = "uda"
    trade_off_con: float = flag(1.0, "weight of the consistency loss", ge=0)
    threshold: float = flag(0.7, "confidence above which (strictly) an image takes part", ge=0, le=1)
    T: float = flag(0.85, "temperature; on the target, below 1 sharpens (the paper's CIFAR-10: 0.4)", gt=0)
    temperature_on: str = flag("target", "whose logits --T divides; TLlib: the student's", choices=("target", "student"))
    divide_by: str = flag("batch", "what the loss is a mean over; TLlib: the images kept", choices=("batch", "kept"))


class UDA(Method[Args]):
    name = "uda"
    unlabeled_views = ("weak", "strong")

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        (x_l, x_l_strong), (x_u, x_u_strong) = batch.x_l, batch.x_u
        y = self.forwards(x_l, x_l_strong, x_u_strong)
        logged = self.supervised(y, batch.y_l, loop)

        target_T, student_T = (self.args.T, 1.0) if self.args.temperature_on == "target" else (1.0, self.args.T)
        with torch.no_grad():
            y_u = self.model(x_u)                                           # (mu B, C)
            mask, pseudo = confident_pseudo_labels(y_u, self.args.threshold)  # (mu B,), (mu B,): before sharpening
            p_u = (y_u.float() / target_T).softmax(dim=1)                   # (mu B, C)
        log_p_u_strong = (next(y).float() / student_T).log_softmax(dim=1)   # (mu B, C)
        con_loss = self.args.trade_off_con * (kl_divergence(p_u, log_p_u_strong) * mask).mean()
        if self.args.divide_by == "kept":
            kept = distributed.mean_(mask.mean())                           # (), of all processes' micro-batches
            con_loss = con_loss / kept.clamp(min=1 / (len(mask) * distributed.world_size()))
        loop.backward(con_loss, "con_loss")
        return logged | {"con_loss": con_loss, **pseudo_label_metrics(mask, pseudo, batch.y_u_hidden)}


def kl_divergence(p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row, (B,); p: probabilities (B, C), log_q: log-probabilities (B, C)."""
    return (torch.special.xlogy(p, p) - p * log_q).sum(dim=1)


def main(argv: list[str] | None = None) -> None:
    launch(UDA, argv)


if __name__ == "__main__":
    main()
