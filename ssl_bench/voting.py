"""Which label two streams' predictions of an image give it, and how much it counts."""

from __future__ import annotations

import torch
from torch import Tensor

# What an image's label is worth where only the convolutional stream is confident (its label), only the transformer (its label),
# both agree, both disagree; and whose label it has then.  Source: the authors' code.
RULES = {
    "vote_equal": (1, 1, 1, 0, "conv"),
    "vote_cnn_bias": (1, 1, 1, 1, "conv"),
    "vote_larger": (1, 1, 1, 1, "surer"),
    "vote_larger2": (1, 0, 1, 1, "surer"),
    "vote_equal2": (1, 0, 1, 0, "conv"),
    "weight_v1": (1, 0, 1, 0.5, "surer"),
    "weight_v2": (1, 0.5, 1, 0.5, "surer"),
    "weight_v3": (0.5, 0, 1, 0.5, "surer"),
    "weight_v4": (0.5, 0.5, 1, 0.5, "surer"),
    "weight_v5": (0.5, 0, 1, 0.5, "conv"),
    "weight_v6": (1, 0, 1, 0.5, "conv"),
}
SOURCES = ("cnn", "transformer", "fuse", "softmax_fuse", *RULES)


@torch.no_grad()
def two_stream_labels(y_conv: Tensor, y_trans: Tensor, source: str, threshold: float) -> tuple[Tensor, Tensor]:
    """(weight (B,) in [0, 1], label (B,) int64) of logits (B, C) each.

    source: a stream alone (cnn, transformer), the mean of logits (fuse) or of probabilities (softmax_fuse), where the largest
    probability must be `threshold` or more; or one of `RULES`, by which two such streams vote (equally sure: the transformer's).
    """
    p_conv, p_trans = y_conv.float().softmax(dim=1), y_trans.float().softmax(dim=1)
    alone = {"cnn": lambda: p_conv, "transformer": lambda: p_trans, "softmax_fuse": lambda: (p_conv + p_trans) / 2,
             "fuse": lambda: ((y_conv.float() + y_trans.float()) / 2).softmax(dim=1)}  # fmt: skip
    if source in alone:
        confidence, label = alone[source]().max(dim=1)
        return (confidence >= threshold).float(), label
    only_conv, only_trans, agree, disagree, whose = RULES[source]
    (c, label_conv), (t, label_trans) = p_conv.max(dim=1), p_trans.max(dim=1)
    sure_conv, sure_trans, same = c >= threshold, t >= threshold, label_conv == label_trans
    both = torch.where(same, agree, disagree)
    weight = torch.where(sure_conv & sure_trans, both, sure_conv * only_conv + sure_trans * only_trans)
    from_trans = torch.where(sure_conv, sure_trans & (c <= t) & (whose == "surer"), sure_trans)
    return weight, torch.where(from_trans, label_trans, label_conv)
