"""Mean Teacher: the student agrees, on unlabelled images, with a moving average of itself.

Antti Tarvainen and Harri Valpola, "Mean teachers are better role models", arXiv:1703.01780.  The teacher is evaluated and
saved, as in the paper; --evaluate student is TLlib's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_bench.args import TwoViewArgs
from ssl_bench.ema import EMATeacher, capped_decay
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import hidden_accuracy
from ssl_bench.method import Batch, Loop, Method, Task
from ssl_bench.schedules import sigmoid_ramp


@dataclass
class Args(TwoViewArgs):
    epochs: int = 40
    lr: float = 0.01
    lr_gamma: float = 0.0001
    log: str = "mean_teacher"
    trade_off_con: float = flag(0.1, "weight of the consistency loss, a sum over images and classes", ge=0)
    warm_up_epochs: int = flag(10, "epochs over which the consistency weight ramps up", ge=0)
    alpha: float = flag(0.999, "decay of the moving average", ge=0, le=1)
    evaluate: str = flag("teacher", "network that is evaluated and saved", choices=("teacher", "student"))


class MeanTeacher(Method[Args]):
    name = "mean_teacher"
    unlabeled_views = ("weak", "weak")

    def __init__(self, args: Args, task: Task) -> None:
        super().__init__(args, task)
        self.teacher = EMATeacher(self.model, mode="train")

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        (x_l, x_l_strong), (x_u, x_u_teacher) = batch.x_l, batch.x_u
        y = self.forwards(x_l, x_l_strong, x_u)
        logged = self.supervised(y, batch.y_l, loop)

        with torch.no_grad():
            p_u_teacher = self.teacher(x_u_teacher).float().softmax(dim=1)  # (mu B, C)
        p_u = next(y).float().softmax(dim=1)                                # (mu B, C)
        distance = (p_u - p_u_teacher).square().sum(dim=1).mean()           # ()
        # TLlib's --trade-off-con multiplies a sum over the batch; written as mean x size it survives accumulation.
        weight = self.args.trade_off_con * sigmoid_ramp(loop.epoch, self.args.warm_up_epochs)
        con_loss = weight * self.args.batch_size * self.args.mu * distance
        loop.backward(con_loss, "con_loss")
        return logged | {"con_loss": con_loss, "teacher_acc": hidden_accuracy(p_u_teacher, batch.y_u_hidden)}

    def after_step(self, loop: Loop) -> None:
        self.teacher.update(self.model, capped_decay(loop.step + 1, self.args.alpha))

    def evaluated(self) -> nn.Module:
        return self.teacher.model if self.args.evaluate == "teacher" else self.model


def main(argv: list[str] | None = None) -> None:
    launch(MeanTeacher, argv)


if __name__ == "__main__":
    main()
