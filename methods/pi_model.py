"""Pi-Model: two weak views of an unlabelled image get the same prediction.

Samuli Laine and Timo Aila, "Temporal Ensembling for Semi-Supervised Learning", arXiv:1610.02242.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ssl_bench.args import TwoViewArgs
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.method import Batch, Loop, Method
from ssl_bench.schedules import sigmoid_ramp


@dataclass
class Args(TwoViewArgs):
    epochs: int = 40
    log: str = "pi_model"
    trade_off_con: float = flag(0.1, "weight of the consistency loss, a mean over images of a sum over classes", ge=0)
    warm_up_epochs: int = flag(10, "epochs over which the consistency weight ramps up", ge=0)


class PiModel(Method[Args]):
    name = "pi_model"
    unlabeled_views = ("weak", "weak")

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        (x_l, x_l_strong), (x_u, x_u_again) = batch.x_l, batch.x_u
        y = self.forwards(x_l, x_l_strong, x_u, x_u_again)
        logged = self.supervised(y, batch.y_l, loop)

        p_u, p_u_again = (next(y).float().softmax(dim=1) for _ in range(2))  # (mu B, C) each; gradient flows to both
        distance = (p_u - p_u_again).square().sum(dim=1).mean()              # ()
        con_loss = self.args.trade_off_con * sigmoid_ramp(loop.epoch, self.args.warm_up_epochs) * distance
        loop.backward(con_loss, "con_loss")
        return logged | {"con_loss": con_loss}


def main(argv: list[str] | None = None) -> None:
    launch(PiModel, argv)


if __name__ == "__main__":
    main()
