"""Loss terms shared by two methods or more.  Pure functions; logits ``y_*`` (B, C), probabilities ``p_*`` (B, C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def two_view_cross_entropy(y_l: Tensor, y_l_strong: Tensor | None, target: Tensor, trade_off: float) -> Tensor:
    """CE(weak view) + trade_off * CE(strong view), each a mean over the batch.

    y_l, y_l_strong: logits (B, C), y_l_strong None leaves the second term out; target: (B,) int64 labels.  Source: TLlib's supervised term (in none of the papers).
    """
    loss = F.cross_entropy(y_l, target)
    return loss if y_l_strong is None else loss + trade_off * F.cross_entropy(y_l_strong, target)


@torch.no_grad()
def confident_pseudo_labels(y_u: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """(mask, pseudo): mask (B,) float 1 where max softmax(y_u) > threshold (strictly), pseudo (B,) int64 argmax.

    y_u: logits (B, C); threshold: 0 keeps all, 1 or more keeps none.  No gradient flows to either.
    Source: FixMatch (arXiv:2001.07685) eq. 4; Pseudo-Label (Lee 2013) eq. 15 with a threshold.
    """
    confidence, pseudo = y_u.float().softmax(dim=1).max(dim=1)  # float: bf16 would round 0.949 to the other side of 0.95
    return (confidence > threshold).float(), pseudo


def masked_cross_entropy(y_u: Tensor, pseudo: Tensor, mask: Tensor) -> Tensor:
    """(1/B) sum_i mask_i CE(y_u_i, pseudo_i): divided by the batch, not by the number kept.

    y_u: logits (B, C); pseudo: (B,) int64; mask: (B,) of [0, 1].  Source: FixMatch eq. 4.
    """
    return (F.cross_entropy(y_u, pseudo, reduction="none") * mask).mean()


def soft_cross_entropy(y: Tensor, q: Tensor) -> Tensor:
    """-sum_k q_ik log softmax(y_i)_k for each image, (B,).  y: logits (B, C); q: target distributions (B, C)."""
    return -(q * y.float().log_softmax(dim=1)).sum(dim=1)


@torch.no_grad()
def pseudo_label_metrics(mask: Tensor, pseudo: Tensor, y_u_hidden: Tensor) -> dict[str, Tensor]:
    """For display only: ``kept`` (fraction of the batch above the threshold) and ``pseudo_acc`` (accuracy of those kept).

    mask: (B,); pseudo, y_u_hidden: (B,) int64, y_u_hidden = -1 where there is no label.  Both in [0, 1]; pseudo_acc is nan
    when no kept image has a label.
    """
    known = mask * (y_u_hidden >= 0)
    return {"kept": mask.mean(), "pseudo_acc": (known * (pseudo == y_u_hidden)).sum() / known.sum()}


@torch.no_grad()
def hidden_accuracy(p_u: Tensor, y_u_hidden: Tensor) -> Tensor:
    """For display only: how often the arg max of p_u (B, C) is the true label (B,) where there is one (not -1), in [0, 1]; else nan."""
    known = y_u_hidden >= 0
    return ((p_u.argmax(dim=1) == y_u_hidden) & known).sum() / known.sum()
