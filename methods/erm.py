"""Supervised training on the labelled images only (empirical risk minimisation): the baseline every method must beat.

With --oracle it trains on every training image with its true label: the ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ssl_bench.args import TwoViewArgs
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.method import Batch, Loop, Method, Stage


@dataclass
class Args(TwoViewArgs):
    log: str = "baseline"
    oracle: bool = flag(False, "train on labelled and unlabelled images with their true labels")


class ERM(Method[Args]):
    name = "erm"

    @classmethod
    def stages(cls, args: Args) -> list[Stage]:
        return [Stage("train", args, true_labels=args.oracle)]

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        return self.supervised(self.forwards(*batch.x_l), batch.y_l, loop)


def main(argv: list[str] | None = None) -> None:
    launch(ERM, argv)


if __name__ == "__main__":
    main()
