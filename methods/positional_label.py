"""Positional labels: a ViT or Swin that also learns where its tokens are - beside the classes, without them, or before them.

Zhemin Zhang and Xun Gong, "Positional Label for Self-Supervised Vision Transformer", arXiv:2206.04981.  --images labeled is the
authors' supervised training; the unlabelled images' positions are known as well, and by default they are learned too.  Any other
method takes --positional.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ssl_bench.args import check_stages
from ssl_bench.distributed import world_size
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import soft_cross_entropy
from ssl_bench.method import Batch, Loop, Method, Stage, Task
from ssl_bench.mixup import mix_batch
from ssl_bench.models import Classifier
from ssl_bench.pretrained import backbone_over
from ssl_bench.streams import MIX, random_of
from ssl_bench.transformer_args import TransformerArgs, check_even, draw_mix


@dataclass
class Args(TransformerArgs):
    positional: str = flag("apl", "absolute or relative labels of tokens", choices=("apl", "rpl"))
    layer_decay: float | None = 1.0
    head_init_std: float = 0.02
    log: str = "positional_label"
    images: str = flag("both", "whose tokens are placed: labelled images alone, or unlabelled ones too", choices=("both", "labeled"))
    stages: tuple[str, ...] = flag(
        ("train",), "train; or pretext, where positions alone are learned and the classifier is a probe; or pretext train", choices=("pretext", "train")
    )
    pretext_epochs: int = flag(100, "epochs of pretext", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stages(self.stages, ("pretext", "train"))
        check_even(self, "--batch-size")


@dataclass(frozen=True)
class MixedBatch(Batch):
    """q_l: (B, C) soft targets of the labelled images."""

    q_l: Tensor


class PositionalLabel(Method[Args]):
    name = "positional_label"
    labeled_views = ("strong",)
    unlabeled_views: tuple[str, ...] = ("strong",)
    model: Classifier

    def __init__(self, args: Args, task: Task) -> None:
        super().__init__(args, task)
        self.model.probed = "pretext" in args.stages
        if args.images == "labeled" or not task.num_unlabeled:
            self.unlabeled_views = ()

    @classmethod
    def needs_unlabeled(cls, args: Args) -> bool:
        return False

    @classmethod
    def stages(cls, args: Args) -> list[Stage]:
        pretext = replace(args, stages=("pretext",), epochs=args.pretext_epochs if len(args.stages) > 1 else args.epochs)
        return [Stage(name, pretext if name == "pretext" else replace(args, stages=("train",))) for name in args.stages]

    def load_previous(self, weights: dict[str, Tensor], others: dict[str, dict[str, Tensor]]) -> None:
        print(backbone_over(self.model.backbone, weights, "the stage before"))  # the head is new

    def before_step(self, batch: Batch, loop: Loop) -> tuple[MixedBatch, dict[str, Tensor]]:
        args, (x_l,) = self.args, batch.x_l
        mixes = not args.disable_x_mixup and not self.model.probed
        mix = draw_mix("mixup" if mixes else "none", world_size() * len(x_l), args, random_of(args.seed, MIX, loop.step))
        x_l, q_l = mix_batch(x_l, batch.y_l, mix, self.task.num_classes, args.label_smoothing)  # (B, 3, S, S), (B, C)
        return MixedBatch((x_l,), batch.y_l, batch.x_u, batch.idx_u, batch.y_u_hidden, q_l), {}

    def train_step(self, batch: MixedBatch, loop: Loop) -> dict[str, Tensor]:
        y_l, *_ = self.forwards(*batch.x_l, *batch.x_u)  # (B, C); of the others only the tokens count, in position_step
        cls_loss = soft_cross_entropy(y_l, batch.q_l).mean()
        loop.backward(cls_loss, "cls_loss")
        return {"cls_loss": cls_loss, "cls_acc": (y_l.argmax(dim=1) == batch.y_l).float().mean()}


def main(argv: list[str] | None = None) -> None:
    launch(PositionalLabel, argv)


if __name__ == "__main__":
    main()
