"""Self-Tuning: an image, its other view and a memory of its (pseudo-)class attract each other, those of other classes repel.

Ximei Wang et al., "Self-Tuning for Data-Efficient Deep Learning", arXiv:2102.12903.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench import devices, distributed
from ssl_bench.args import Args as CommonArgs
from ssl_bench.ema import EMATeacher
from ssl_bench.flags import flag
from ssl_bench.launch import launch
from ssl_bench.method import Batch, Loop, Method, Task
from ssl_bench.models import Classifier


@dataclass
class Args(CommonArgs):
    epochs: int = 60
    lr_scheduler: str = "step"
    lr_gamma: float = 0.1
    log: str = "self_tuning"
    projection_dim: int = flag(1024, "width of the projection", ge=1)
    K: int = flag(32, "images a class in the memory", ge=1)
    m: float = flag(0.999, "momentum of the key encoder", ge=0, lt=1)
    T: float = flag(0.07, "temperature of the contrastive loss", gt=0)
    two_updates: bool = flag(False, "update the key encoder twice a step, as TLlib: momentum m^2")


class Projected(Classifier):
    """In training (B, C + D): logits and a projection of length 1; else logits (B, C)."""

    slow = ("backbone", "projector")

    def __init__(self, base: Classifier, width: int) -> None:
        super().__init__(base.backbone, base.pool, base.bottleneck, base.head)
        self.projector = nn.Linear(base.head.in_features, width)

    def logits(self, features: Tensor) -> Tensor:
        if not self.training:
            return self.head(features)
        return torch.cat([self.head(features), F.normalize(self.projector(features), dim=1)], dim=1)


class SelfTuning(Method[Args]):
    name = "self_tuning"
    labeled_views = ("strong", "strong")
    unlabeled_views = ("strong", "strong")
    memory: Tensor  # (C, K, D) of length 1
    oldest: Tensor  # (C,) int64: the places that are written next

    def __init__(self, args: Args, task: Task) -> None:
        super().__init__(args, task)
        self.key_encoder = EMATeacher(self.model, mode="train")
        self.register_buffer("memory", self._initial_memory())
        self.register_buffer("oldest", torch.zeros(task.num_classes, dtype=torch.int64))
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = {"labeled": [], "unlabeled": []}  # of this step, until after_step

    def _initial_memory(self) -> Tensor:
        C, K, D = self.task.num_classes, self.args.K, self.args.projection_dim
        what = f"self_tuning: the memory of {C:,} classes x --K {K} x --projection-dim {D}"
        devices.require_memory(4.0 * C * K * D, torch.device("cpu"), what, "lower --K or --projection-dim")
        return F.normalize(memory := torch.randn(C, K, D), dim=2, out=memory)

    def build_model(self) -> Projected:
        return Projected(self.build_classifier(), self.args.projection_dim)

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        (x_l, x_l_key), (x_u, x_u_key) = batch.x_l, batch.x_u
        sizes, y = [self.task.num_classes, self.args.projection_dim], self.forwards(x_l, x_u)
        y_l, h_l = next(y).split(sizes, dim=1)                               # (B, C), (B, D)
        _, key_l = self.key_encoder(x_l_key).split(sizes, dim=1)             # (B, D)
        cls_loss = F.cross_entropy(y_l, batch.y_l)
        pgc_loss = group_contrast(h_l, key_l, batch.y_l, self.memory, self.args.T)
        loop.backward(cls_loss + pgc_loss, "cls_loss + pgc_loss")

        y_u, h_u = next(y).split(sizes, dim=1)                               # (mu B, C), (mu B, D)
        _, key_u = self.key_encoder(x_u_key).split(sizes, dim=1)             # (mu B, D)
        pseudo = y_u.argmax(dim=1)                                           # (mu B,)
        pgc_u_loss = group_contrast(h_u, key_u, pseudo, self.memory, self.args.T)
        loop.backward(pgc_u_loss, "pgc_u_loss")
        self.seen["labeled"].append((key_l, batch.y_l))
        self.seen["unlabeled"].append((key_u, pseudo))
        logged = {"cls_loss": cls_loss, "pgc_loss": pgc_loss, "pgc_u_loss": pgc_u_loss}
        return logged | {"cls_acc": (y_l.argmax(dim=1) == batch.y_l).float().mean()}

    def after_step(self, loop: Loop) -> None:
        self.key_encoder.update(self.model, self.args.m ** (2 if self.args.two_updates else 1))
        for seen in self.seen.values():
            key, label = (distributed.gather_rows(torch.cat(parts)) for parts in zip(*seen, strict=True))
            enqueue(self.memory, self.oldest, key.float(), label)
            seen.clear()


def group_contrast(h: Tensor, key: Tensor, label: Tensor, memory: Tensor, T: float) -> Tensor:
    """Pseudo group contrast, (): mean of KL(uniform over the K + 1 positives || softmax of similarities / T).

    h, key: (B, D) of length 1; label: (B,) int64; memory: (C, K, D).  An image's positives are its key and the memory of its
    class; negatives the rest of the memory.  Source: eq. 4, as the divergence of the authors' code (the same gradient).
    """
    own = (h.float() * key.float()).sum(dim=1, keepdim=True) / T                               # (B, 1)
    others = torch.einsum("bd,ckd->bck", h.float(), memory) / T                                # (B, C, K)
    total = torch.cat([own, others.flatten(1)], dim=1).logsumexp(dim=1)                        # (B,)
    positives = others.gather(1, label[:, None, None].expand(-1, 1, memory.shape[1])).sum(dim=(1, 2)) + own[:, 0]  # (B,)
    return (total - positives / (memory.shape[1] + 1)).mean() - math.log(memory.shape[1] + 1)


def enqueue(memory: Tensor, oldest: Tensor, key: Tensor, label: Tensor) -> None:
    """Put keys (B, D) in their order into the rings of their classes, in place; memory (C, K, D), oldest (C,) the next places."""
    K, same = memory.shape[1], label[:, None] == label[None, :]                                # (B, B)
    place = (oldest[label] + same.tril(-1).sum(dim=1)) % K                                     # (B,)
    # A class with more than K keys writes a place twice: each writer brings the last one's key, so the order is free.
    last = ((same & (place[:, None] == place[None, :])) * torch.arange(len(label), device=label.device)).amax(dim=1)  # (B,)
    memory[label, place] = key[last]
    oldest.scatter_add_(0, label, torch.ones_like(label)).remainder_(K)


def main(argv: list[str] | None = None) -> None:
    launch(SelfTuning, argv)


if __name__ == "__main__":
    main()
