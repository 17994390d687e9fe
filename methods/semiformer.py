"""Semiformer: a convolutional and a transformer stream, coupled at every stage; the convolutional one labels images for both.

Zejia Weng et al., "Semi-Supervised Vision Transformers", arXiv:2111.11067.  A supervised warm-up, then both together in one run
of the optimiser; what is evaluated is the sum of both streams' logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.args import check_stages
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.losses import pseudo_label_metrics
from ssl_bench.method import Batch, Loop, Method, Stage, Task
from ssl_bench.models import parse_model_kwargs
from ssl_bench.nets import two_streams
from ssl_bench.nets.positional import change_positions
from ssl_bench.nets.recompute import checkpoint_activations
from ssl_bench.transformer_args import DeiTArgs
from ssl_bench.voting import SOURCES, two_stream_labels


@dataclass
class Args(DeiTArgs):
    arch: str = "semiformer_small_patch16"
    scratch: bool = True
    batch_size: int = 144
    mu: int = 5
    lr: float = 1e-3
    min_lr: float = 1e-5
    epochs: int = 570
    val_resizing: str = "short"
    drop_path: float = 0.1
    log: str = "semiformer"
    trade_off_self_training: float = flag(4.0, "weight of the pseudo-label loss", names=("--semi-lambda",), ge=0)
    threshold: float = flag(0.7, "confidence from which on a label is used", ge=0, warn_above=(1.0, "no pseudo-label is used"))
    pseudo_source: str = flag("cnn", "whose labels: a stream's, both streams' mean, or a vote", names=("--pseudo-type",), choices=SOURCES)
    unlabel_smooth: bool = flag(False, "pseudo-labels are smoothed likewise")
    remove_fcu: bool = flag(False, "the streams are not coupled: they share the stem alone")
    streams: str = flag("both", "the streams there are; one alone labels for itself", choices=("both", "conv", "trans"))
    stages: tuple[str, ...] = flag(("warmup", "semi"), "what to train: warmup, on labelled images alone, semi, or both", choices=("warmup", "semi"))
    warmup_epochs: int = flag(30, "epochs of warmup, from which on the learning rate's schedule goes on", ge=1)
    warmup_iters_per_epoch: int = flag(148, "steps of such an epoch", ge=1)
    warmup_batch_size: int = flag(864, "labelled images of such a step, over all processes", ge=1)
    warmup_batch_per_device: int = flag(0, "--batch-per-device of warmup", ge=0, identity=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stages(self.stages, ("warmup", "semi"))


class Semiformer(Method[Args]):
    name = "semiformer"
    labeled_views = ("strong",)
    unlabeled_views: tuple[str, ...] = ("weak", "strong")

    def __init__(self, args: Args, task: Task) -> None:
        super().__init__(args, task)
        weak = "weak_short" if args.train_resizing == "default" else "weak"
        self.unlabeled_views = (weak, "strong") if self.needs_unlabeled(args) else ()

    @classmethod
    def needs_unlabeled(cls, args: Args) -> bool:
        return "semi" in args.stages

    @classmethod
    def stages(cls, args: Args) -> list[Stage]:
        own = {name: getattr(args, f"warmup_{name}") for name in ("epochs", "iters_per_epoch", "batch_size", "batch_per_device")}
        both = len(args.stages) == 2
        warmup = replace(args, **own, stages=("warmup",), epochs_after=args.epochs_after + both * args.epochs)
        semi = replace(args, stages=("semi",), epochs_before=args.epochs_before + both * args.warmup_epochs)
        return [stage for stage in (Stage("warmup", warmup), Stage("semi", semi, continues=True)) if stage.name in args.stages]

    @classmethod
    def check_arch(cls, arch: str) -> None:
        two_streams.check_name(arch)

    def build_model(self) -> nn.Module:
        args = self.args
        if args.bottleneck_dim or not args.pool or args.pretrained_backbone:
            raise ValueError("--bottleneck-dim, --no-pool and --pretrained-backbone are of one stream; semiformer has two: leave them out")
        model = two_streams.build(
            args.arch, self.task.num_classes, args.image_size, model_kwargs=parse_model_kwargs(args.model_kwargs), drop_path=args.drop_path,
            fcu=not args.remove_fcu, streams=("conv", "trans") if args.streams == "both" else (args.streams,), pretrained=self.task.pretrained and not args.scratch,
        )  # fmt: skip
        change_positions(model, args.arch, args.pos_embed, args.conditional_positions)
        if args.grad_checkpointing:
            checkpoint_activations(model, args.arch)
        return model

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        args, (x_l,) = self.args, batch.x_l
        x_u, x_u_strong = batch.x_u or (x_l[:0], x_l[:0])
        (y,) = self.forwards(torch.cat([x_l, x_u_strong]))                                # conv and trans, (B + mu B, C) each
        y_l, y_u_strong = zip(*(stream.split([len(x_l), len(x_u)]) for stream in y if stream is not None), strict=True)
        cls_loss = torch.stack([F.cross_entropy(s, batch.y_l, label_smoothing=args.label_smoothing) for s in y_l]).mean()
        accuracy = (sum(y_l).argmax(dim=1) == batch.y_l).float().mean()
        if not batch.x_u:
            loop.backward(cls_loss, "cls_loss")
            return {"cls_loss": cls_loss, "cls_acc": accuracy}

        self.model.eval()  # the running statistics, to which the strong views have just been added
        with torch.no_grad():
            y_u = [stream for stream in self.model(x_u) if stream is not None]            # (mu B, C) each
        self.model.train()
        mask, pseudo = two_stream_labels(y_u[0], y_u[-1], args.pseudo_source, args.threshold)  # (mu B,), (mu B,)
        smoothing = args.label_smoothing if args.unlabel_smooth else 0.0
        each = torch.stack([F.cross_entropy(s, pseudo, reduction="none", label_smoothing=smoothing) for s in y_u_strong])  # (streams, mu B)
        self_training_loss = args.trade_off_self_training * (mask * each).mean()
        loop.backward(cls_loss + self_training_loss, "cls_loss + self_training_loss")
        logged = {"cls_loss": cls_loss, "cls_acc": accuracy, "self_training_loss": self_training_loss}
        return logged | pseudo_label_metrics((mask > 0).float(), pseudo, batch.y_u_hidden)

    def predict(self, x: Tensor) -> dict[str, Tensor]:
        streams = {name: y for name, y in zip(("conv", "trans"), self.model(x), strict=True) if y is not None}
        return {"": sum(streams.values())} | (streams if len(streams) > 1 else {})        # (B, C) each


def main(argv: list[str] | None = None) -> None:
    launch(Semiformer, argv)


if __name__ == "__main__":
    main()
