"""The contract: what a method is, and what the library promises it.

A method is one small object: its hyper-parameters (``Args``), the views of an image it wants, its networks and memories
(an ``nn.Module``), and one ``train_step``.  The library owns split, streams, augmentation, loop, precision, evaluation and
records.  What outlives a step is a parameter, buffer or child module of the method, or a function of ``loop.step``;
anything else would be lost on resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast, get_args, get_origin

import torch
from torch import Tensor, nn

from ssl_bench import models
from ssl_bench.args import Args as CommonArgs
from ssl_bench.args import TwoViewArgs
from ssl_bench.augment.draws import send
from ssl_bench.losses import two_view_cross_entropy
from ssl_bench.monitors import collapse_warnings
from ssl_bench.nets.positional import PositionHead, draw_pairs
from ssl_bench.nets.positions import fix_positions
from ssl_bench.nets.tokens import token_shape
from ssl_bench.pools import Pools
from ssl_bench.record import weights_file
from ssl_bench.streams import PAIRS, generator_of
from ssl_bench.transformer_args import TransformerArgs
from ssl_bench.weights import load_strictly

OwnArgs = TypeVar("OwnArgs", bound=CommonArgs)


@dataclass(frozen=True)
class Task:
    """What a method may know of the data before it sees an image."""

    num_classes: int
    num_labeled: int
    num_unlabeled: int
    pretrained: bool = False  # whether initial weights may be downloaded: False when a checkpoint will replace them


@dataclass(frozen=True)
class Batch:
    """One (micro-)batch on the device.

    x_l, x_u: one (B, 3, S, S) float tensor per declared view, rows aligned over views (None: the labelled strong view when
    --trade-off-cls-strong is 0, which is then not made); y_l: (B,) int64;
    idx_u: (B,) int64 positions in the unlabelled set; y_u_hidden: (B,) int64 true labels of the unlabelled images (-1:
    none), for display only - training that reads it fails the contract test.
    """

    x_l: tuple[Any, ...]  # of Tensor | None: which can be None, a method knows by its place
    y_l: Tensor
    x_u: tuple[Tensor, ...]
    idx_u: Tensor
    y_u_hidden: Tensor

    def chunks(self, n: int) -> list[Batch]:
        """n micro-batches of equal size, of the same class; n divides the batch."""
        if n == 1:
            return [self]
        parts = {field.name: _chunks(getattr(self, field.name), n) for field in fields(self)}
        return [replace(self, **{name: part[i] for name, part in parts.items()}) for i in range(n)]


def _chunks(rows: Tensor | None | tuple[Tensor | None, ...], n: int) -> list[Any]:
    if isinstance(rows, tuple):
        views = [_chunks(view, n) for view in rows]
        return [tuple(view[i] for view in views) for i in range(n)]
    return [None] * n if rows is None else list(rows.chunk(n)) if len(rows) else [rows] * n


class Loop(Protocol):
    """What the trainer lends a method.  step, epoch: from 0, of the update in progress (in after_step: the one just done)."""

    @property
    def step(self) -> int: ...

    @property
    def epoch(self) -> int: ...

    def backward(self, loss: Tensor, term: str) -> None:
        """Back-propagate one loss term (scaled for precision and accumulation); `term` names it in errors and logs."""


@dataclass(frozen=True)
class Stage:
    """One training run of a method; a method of several stages trains them in order, each in a folder of its own.

    true_labels: train on every training image with its label (the oracle) instead of the labelled subset.
    previous: the first stage only: a file, or a run's folder, with weights for `Method.load_previous`.
    method: who trains it, with `args` of its own; None: the method that has the stages.
    continues: the optimisers go on with what they remember of the stage before, of which this one has the networks.
    """

    name: str
    args: CommonArgs
    true_labels: bool = False
    previous: str | None = None
    method: type[Method] | None = None
    continues: bool = False


class Method(nn.Module, Generic[OwnArgs]):
    """Subclass ``Method[Args]``; only `name` and `train_step` are mandatory.  Networks are made in ``__init__`` only: a class
    attribute of the same name would hide the registered module."""

    name: ClassVar[str]
    Args: ClassVar[type[CommonArgs]] = CommonArgs  # a subclass has that of its ``Method[Args]``
    labeled_views: tuple[str | None, ...] = ("weak", "strong")
    unlabeled_views: tuple[str, ...] = ()
    pretrains: ClassVar[bool] = False  # makes weights for other methods to begin with, and is not ranked with them

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for base in vars(cls).get("__orig_bases__", ()):
            origin, given = get_origin(base), get_args(base)
            # Of a generic one in between, Method[T], the next one says what T is.
            if isinstance(origin, type) and issubclass(origin, Method):
                if len(given) == 1 and isinstance(given[0], type) and issubclass(given[0], CommonArgs):
                    (cls.Args,) = given

    def __init__(self, args: OwnArgs, task: Task) -> None:
        super().__init__()
        self.args = args
        self.task = task
        self.model = self.build_model()
        self.positional = self._position_head()
        self.tokens: list[Tensor] = []  # of this micro-batch's images, until position_step
        if isinstance(args, TwoViewArgs) and args.trade_off_cls_strong == 0:
            self.labeled_views = (self.labeled_views[0], None)
        if args.concat:
            models.check_separable(self.model, args.arch)

    @classmethod
    def stages(cls, args: OwnArgs) -> list[Stage]:
        """The training runs that make up this method, in order."""
        return [Stage("train", args)]

    @classmethod
    def needs_unlabeled(cls, args: OwnArgs) -> bool:
        """Whether a stage with these arguments cannot do without unlabelled images."""
        return bool(cls.unlabeled_views)

    @classmethod
    def check_arch(cls, arch: str) -> None:
        """ValueError unless `build_model` knows the network; asked before any data is read."""
        models.check_arch(arch)

    def build_model(self) -> nn.Module:
        """The student network: images (B, 3, S, S) -> logits (B, C)."""
        return self.build_classifier()

    def build_classifier(self) -> models.Classifier:
        """Backbone, bottleneck and head, as the flags say; for a `build_model` that puts something around them."""
        args = self.args
        model = models.build_classifier(
            args.arch, self.task.num_classes, args.image_size, bottleneck_dim=args.bottleneck_dim, pool=args.pool,
            model_kwargs=(*args.model_kwargs, *args.more_model_kwargs), pretrained=self.task.pretrained and not args.scratch and not args.pretrained_backbone,
            pretrained_backbone=args.pretrained_backbone and str(weights_file(args.pretrained_backbone)), grad_checkpointing=args.grad_checkpointing,
            pos_embed=args.pos_embed, conditional_positions=args.conditional_positions,
        )
        if isinstance(args, TransformerArgs):
            nn.init.trunc_normal_(model.head.weight, std=args.head_init_std)
            nn.init.zeros_(model.head.bias)
            if args.fixed_positions:
                fix_positions(model.backbone)
        return model

    def _position_head(self) -> PositionHead | None:
        args = self.args
        if args.positional != "rpl" and args.pairs_per_image:
            raise ValueError(f"--pairs-per-image is of --positional rpl, not of {args.positional}: leave it out")
        if args.positional == "none":
            return None
        if self.pretrains:
            raise ValueError(f"--positional: {self.name} sees some of an image's patches, out of order; use it in the training that follows")
        backbone = getattr(self.model, "backbone", self.model)
        with torch.random.fork_rng(devices=()):  # all else begins as it does without
            return PositionHead(*token_shape(backbone, args.arch, args.image_size), args.positional)

    def forwards(self, *images: Tensor | None) -> Iterator[Any]:
        """The student's logits of each batch of images in turn (None for None), each computed when it is asked for: a script
        that calls ``loop.backward`` in between needs memory for one forward at a time.  With --concat all come from one."""
        given = [x for x in images if x is not None]
        if self.args.concat and len(given) > 1:
            parts = iter(self._forward(torch.cat(given)).split([len(x) for x in given]))
            yield from (x if x is None else next(parts) for x in images)
        else:
            yield from (x if x is None else self._forward(x) for x in images)

    def _forward(self, x: Tensor) -> Any:
        if self.positional is None:
            return self.model(x)
        y, tokens = self.model(x, tokens=True)
        self.tokens.append(tokens)
        return y

    def position_step(self, loop: Loop) -> dict[str, Tensor]:
        """The term of --positional, over all images of `forwards` since the last one; the loop calls it after `train_step`."""
        if self.positional is None:
            return {}
        if not self.tokens:
            raise ValueError(f"--positional: {self.name} asks its network itself, and not through Method.forwards, which keeps the tokens")
        tokens, pairs = torch.cat(self.tokens), None                           # (images, N, D)
        self.tokens.clear()
        if self.args.pairs_per_image:
            pairs = draw_pairs(tokens.shape[1], self.args.pairs_per_image, generator_of(self.args.seed, PAIRS, loop.step))
            pairs = send(pairs, tokens.device)                                 # (P, 2)
        loss, accuracy = self.positional(tokens, pairs)
        position_loss = self.args.positional_weight * loss
        loop.backward(position_loss, "position_loss")
        return {"position_loss": position_loss, "position_acc": accuracy}

    def supervised(self, y: Iterator[Any], target: Tensor, loop: Loop) -> dict[str, Tensor]:
        """The supervised term, weighted by --trade-off-cls-strong, and what it logs.

        y: of `forwards`, whose next two logits are those of the labelled images' weak and strong view; target: (B,) int64.
        """
        weight = cast(TwoViewArgs, self.args).trade_off_cls_strong  # or a flag of the method's own
        y_l, y_l_strong = next(y), next(y)  # (B, C) each
        cls_loss = two_view_cross_entropy(y_l, y_l_strong, target, weight)
        loop.backward(cls_loss, "cls_loss")
        return {"cls_loss": cls_loss, "cls_acc": (y_l.argmax(dim=1) == target).float().mean()}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Each is stepped once an iteration.  A group's ``lr_scale`` multiplies --lr and the schedule."""
        args = self.args
        groups = models.parameter_groups(self.model, args.finetune, args.layer_decay, args.wd)
        if self.positional is not None:
            groups += [{"params": [*self.positional.parameters()]}] if args.layer_decay is None else models.layer_groups(self.positional, 1, args.wd)
        # On a CPU a third of the time; on CUDA the unfused ones make the fp16 scaler wait for the device.  Not for sharded weights.
        fused = groups[0]["params"][0].device.type in ("cpu", "cuda") and not args.shard
        if args.optimizer == "adamw":
            return [torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, args.beta2), weight_decay=args.wd, fused=fused)]
        return [torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True, weight_decay=args.wd, fused=fused)]

    def load_previous(self, weights: dict[str, Tensor], others: dict[str, dict[str, Tensor]]) -> None:
        """Start from the evaluated network's weights of the stage before (or of `Stage.previous`).

        others: the weights of the stage's `also_evaluated` networks; empty for a file from elsewhere.
        """
        load_strictly(self.model, weights, "the stage before")

    def prepare(self, pools: Pools) -> None:
        """Once before the first step (after a resume too): whatever needs the whole set."""

    def before_step(self, batch: Batch, loop: Loop) -> tuple[Batch, dict[str, Tensor]]:
        """Once a step, on this process's whole batch: (what `train_step` gets, in micro-batches; device scalars to log).

        For what images of one batch do to each other (mixing them): whatever happens here is the same for any --accumulate.
        A subclass of `Batch` may carry more, one row an image.
        """
        return batch, {}

    def train_step(self, batch: Any, loop: Loop) -> dict[str, Tensor]:
        """batch: the `Batch` of `before_step`.  Forwards and losses; calls ``loop.backward`` once or more; returns device scalars to log."""
        raise NotImplementedError(f"{type(self).__name__} has no train_step")

    def after_step(self, loop: Loop) -> None:
        """After the optimizers stepped: moving averages, memories, clocks."""

    def evaluated(self) -> nn.Module:
        """The network that is evaluated and saved as latest.pth/best.pth; the student unless a method says otherwise."""
        return self.model

    def also_evaluated(self) -> dict[str, nn.Module]:
        """Further networks by name: each evaluation records them as ``<name>_top1`` ... and saves ``latest_<name>.pth``."""
        return {}

    def warnings(self, means: dict[str, float], evaluations: Sequence[dict[str, Any]]) -> list[str]:
        """After each evaluation: a line for each thing that looks wrong; means: of what was logged; evaluations: all so far."""
        return collapse_warnings(means, evaluations)

    def predict(self, x: Tensor) -> Any:
        """Images (B, 3, S, S) -> logits (B, C), in eval mode; or several by name, of which "" is the headline's and the others
        are recorded as ``<name>_top1`` ..."""
        return self.evaluated()(x)
