"""Semi-ViT: pre-train without labels, fine-tune on the labelled images, then self-train with a moving-average teacher.

Zhaowei Cai et al., "Semi-supervised Vision Transformers at Scale", arXiv:2208.05688.  In the last stage (EMA-Teacher) the teacher's
predictions on weak views label strong views, which are mixed by how sure it is of each (probabilistic pseudo mixup).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_bench.distributed import world_size
from ssl_bench.ema import EMATeacher, constant_decay
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import soft_cross_entropy
from ssl_bench.method import Batch, Loop, Method, Stage, Task
from ssl_bench.mixup import mix_batch, surest
from ssl_bench.models import Classifier
from ssl_bench.monitors import pseudo_label_health
from ssl_bench.nets.stochastic_depth import drop_path
from ssl_bench.pipeline import PipelineArgs, pipeline
from ssl_bench.pretrained import backbone_over
from ssl_bench.streams import MIX, random_of
from ssl_bench.transformer_args import draw_mix


@dataclass
class Args(PipelineArgs):
    batch_size: int = 128
    mu: int = 5
    lr: float = 5e-4
    weak_color_jitter: float = 0.4
    log: str = "semi_vit"
    trade_off_self_training: float = flag(5.0, "weight of the pseudo-label loss", names=("--lambda-u",), ge=0)
    threshold: float = flag(0.6, "confidence from which on a label is used", ge=0, warn_above=(1.0, "no pseudo-label is used"))
    pseudo_mixup: str = flag("prob", "none, mixup as of labelled images, or prob", choices=("none", "mixup", "prob"))
    pseudo_smoothing: float = flag(0.1, "share of a pseudo-label that is spread over all classes", ge=0, lt=1)
    burnin_epochs: int = flag(0, "epochs of semi before pseudo-labels are used", ge=0)
    weak_aa: bool = flag(False, "the weak view gets --auto-augment, too")
    weak_no_aug: bool = flag(False, "the weak view is that of evaluation")
    strong_no_re: bool = flag(False, "no random erasing of pseudo-labelled images")


@dataclass(frozen=True)
class MixedBatch(Batch):
    """q_l: (B, C), q_u: (mu B, C) soft targets; q_u is 0 where a pseudo-label is not used."""

    q_l: Tensor
    q_u: Tensor


class SemiViT(Method[Args]):
    name = "semi_vit"
    labeled_views = ("strong",)
    unlabeled_views: tuple[str, ...] = ("weak", "strong")
    model: Classifier

    def __init__(self, args: Args, task: Task) -> None:
        super().__init__(args, task)
        weak = "test" if args.weak_no_aug else "strong_whole" if args.weak_aa else "weak"
        self.unlabeled_views = (weak, "strong_whole" if args.strong_no_re else "strong") if self.needs_unlabeled(args) else ()
        averages = args.ema_teacher if self.unlabeled_views else args.ema_decay != 0
        self.teacher = EMATeacher(self.model, mode="eval") if averages else None

    @classmethod
    def needs_unlabeled(cls, args: Args) -> bool:
        return "semi" in args.stages

    @classmethod
    def stages(cls, args: Args) -> list[Stage]:
        return pipeline(args)

    def load_previous(self, weights: dict[str, Tensor], others: dict[str, dict[str, Tensor]]) -> None:
        if not self.unlabeled_views:  # fine-tuning, after pre-training: the head is new
            return print(backbone_over(self.model.backbone, weights, "the stage before"))
        super().load_previous(weights, others)
        if self.teacher is not None:
            self.teacher.model.load_state_dict(others.get("teacher", self.model.state_dict()))

    @torch.no_grad()
    def before_step(self, batch: Batch, loop: Loop) -> tuple[MixedBatch, dict[str, Tensor]]:
        args, classes, n = self.args, self.task.num_classes, world_size() * len(batch.y_l)
        draws = random_of(args.seed, MIX, loop.step)
        mix = draw_mix("none" if args.disable_x_mixup else "mixup", n, args, draws)
        x_l, q_l = mix_batch(batch.x_l[0], batch.y_l, mix, classes, args.label_smoothing)     # (B, 3, S, S), (B, C)
        if not self.unlabeled_views or loop.epoch < args.burnin_epochs:
            return MixedBatch((x_l,), batch.y_l, (), batch.idx_u, batch.y_u_hidden, q_l, q_l[:0]), {}

        x_u, x_u_strong = batch.x_u
        network = self.model if self.teacher is None else self.teacher
        y_u = torch.cat([network(x) for x in x_u.chunk(args.accumulate)])                     # (mu B, C)
        confidence, pseudo = y_u.float().softmax(dim=1).max(dim=1)                            # (mu B,), (mu B,)
        mix = draw_mix(args.pseudo_mixup, args.mu * n, args, draws)
        x_u_strong, q_u = mix_batch(x_u_strong, pseudo, mix, classes, args.pseudo_smoothing, confidence)
        mask = (surest(confidence, mix) >= args.threshold).float()                            # (mu B,)
        logged = pseudo_label_health(confidence >= args.threshold, mask, pseudo, batch.y_u_hidden, classes)
        return MixedBatch((x_l,), batch.y_l, (x_u_strong,), batch.idx_u, batch.y_u_hidden, q_l, mask[:, None] * q_u), logged

    def train_step(self, batch: MixedBatch, loop: Loop) -> dict[str, Tensor]:
        y = self.forwards(*batch.x_l, *batch.x_u)
        with drop_path(self.model, not self.args.disable_x_drop_path):
            y_l = next(y)                                                                     # (B, C)
        cls_loss = soft_cross_entropy(y_l, batch.q_l).mean()
        loop.backward(cls_loss, "cls_loss")
        if not batch.x_u:
            return {"cls_loss": cls_loss}

        y_u_strong = next(y)                                                                  # (mu B, C)
        self_training_loss = self.args.trade_off_self_training * soft_cross_entropy(y_u_strong, batch.q_u).mean()
        loop.backward(self_training_loss, "self_training_loss")
        return {"cls_loss": cls_loss, "self_training_loss": self_training_loss}

    def after_step(self, loop: Loop) -> None:
        if self.teacher is not None:
            self.teacher.update(self.model, constant_decay(self.args.ema_decay, self.args.epochs * self.args.iters_per_epoch))

    def also_evaluated(self) -> dict[str, nn.Module]:
        return {} if self.teacher is None else {"teacher": self.teacher.model}


def main(argv: list[str] | None = None) -> None:
    launch(SemiViT, argv)


if __name__ == "__main__":
    main()
