"""Supervised training on the labelled images only (empirical risk minimisation): the baseline every method must beat.

With --oracle it trains on every training image with its true label: the ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ssl_bench.args import TwoViewArgs
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import two_view_cross_entropy
from ssl_bench.method import Batch, Loop, Method, Stage


@dataclass
class Args(TwoViewArgs):
    log: str = "baseline"
    oracle: bool = flag(False, "train on labelled and unlabelled images with their true labels")


class ERM(Method):
    name = "erm"
    Args = Args

    @classmethod
    def stages(cls, args: Args) -> list[Stage]:
        return [Stage("train", args, true_labels=args.oracle)]

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        x_l, x_l_strong = batch.x_l
        y = self.forwards(x_l, x_l_strong)
        y_l, y_l_strong = next(y), next(y)   # (B, C) each
        loss = two_view_cross_entropy(y_l, y_l_strong, batch.y_l, self.args.trade_off_cls_strong)
        loop.backward(loss, "cls_loss")
        return {"cls_loss": loss, "cls_acc": (y_l.argmax(dim=1) == batch.y_l).float().mean()}


def main(argv: list[str] | None = None) -> None:
    launch(ERM, argv)


if __name__ == "__main__":
    main()
