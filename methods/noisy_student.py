"""Noisy Student: a teacher's soft predictions, made once, train a new student on strong views; the student teaches the next.

Qizhe Xie et al., "Self-training with Noisy Student improves ImageNet classification", arXiv:1911.04252.  --generations 3 trains
a teacher on the labelled images and then three students; --pretrained-teacher FILE one student (or --generations) of that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssl_bench import feed
from ssl_bench.args import TwoViewArgs
from ssl_bench.ema import EMATeacher
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import hidden_accuracy
from ssl_bench.method import Batch, Loop, Method, Stage, Task
from ssl_bench.pools import Pools
from ssl_bench.weights import load_strictly


@dataclass
class Args(TwoViewArgs):
    epochs: int = 40
    log: str = "noisy_student"
    trade_off_self_training: float = flag(1.0, "weight of the loss against the teacher's predictions", ge=0)
    T: float = flag(2.0, "temperature of teacher and student", gt=0)
    pretrained_teacher: str | None = flag(None, "weights of the first teacher: a latest.pth, or a run's folder")
    generations: int | None = flag(
        None, "students in turn, each taught by the one before; default as TLlib: one with a teacher, else only the teacher", ge=1
    )
    teacher_epochs: int = flag(20, "epochs of the first teacher, where --generations trains it", ge=1)


class NoisyStudent(Method[Args]):
    name = "noisy_student"
    unlabeled_views: tuple[str, ...] = ("strong",)
    teacher_logits: Tensor  # (N_u, C)

    def __init__(self, args: Args, task: Task) -> None:
        super().__init__(args, task)
        if args.pretrained_teacher is None:
            self.unlabeled_views = ()  # the first teacher
        else:
            self.teacher = EMATeacher(self.model, mode="eval")
            self.register_buffer("teacher_logits", torch.empty(0), persistent=False)  # a function of the teacher: see prepare

    @classmethod
    def stages(cls, args: Args) -> list[Stage]:
        if args.generations is None:
            return [Stage("train", args, previous=args.pretrained_teacher)]
        file, stages = args.pretrained_teacher, []
        if file is None:
            stages = [Stage("generation0", replace(args, generations=None, epochs=args.teacher_epochs))]
        for i in range(1, args.generations + 1):
            teacher = file if file and i == 1 else f"generation{i - 1}"
            student = replace(args, generations=None, pretrained_teacher=teacher)
            stages.append(Stage(f"generation{i}", student, previous=file if i == 1 else None))
        return stages

    def load_previous(self, weights: dict[str, Tensor], others: dict[str, dict[str, Tensor]]) -> None:
        load_strictly(self.teacher.model, weights, str(self.args.pretrained_teacher))  # the student starts anew

    def prepare(self, pools: Pools) -> None:
        if not self.unlabeled_views:
            print("this trains the first teacher, on the labelled images; --generations 3 is the whole of Noisy Student")
        else:
            self.teacher_logits = feed.predictions(self.teacher, pools.unlabeled, "weak", self.args)

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        x_l, x_l_strong = batch.x_l
        y = self.forwards(x_l, x_l_strong, *batch.x_u)
        logged = self.supervised(y, batch.y_l, loop)
        if not batch.x_u:  # the first teacher
            return logged

        p_u_teacher = (self.teacher_logits[batch.idx_u] / self.args.T).softmax(dim=1)     # (mu B, C)
        log_p_u_strong = (next(y).float() / self.args.T).log_softmax(dim=1)               # (mu B, C)
        self_training_loss = -self.args.trade_off_self_training * (p_u_teacher * log_p_u_strong).sum(dim=1).mean()
        loop.backward(self_training_loss, "self_training_loss")
        return logged | {"self_training_loss": self_training_loss, "teacher_acc": hidden_accuracy(p_u_teacher, batch.y_u_hidden)}


def main(argv: list[str] | None = None) -> None:
    launch(NoisyStudent, argv)


if __name__ == "__main__":
    main()
