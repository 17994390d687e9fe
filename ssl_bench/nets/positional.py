"""Positional labels: a classifier of where a token is (APL), or of where two are to each other (RPL); and networks without positions.

Zhemin Zhang and Xun Gong, "Positional Label for Self-Supervised Vision Transformer", arXiv:2206.04981.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_bench.nets.tokens import TimmNetwork

POSITIONS = ("pos_embed", "relative_position_bias_table")  # timm's names of what tells a token where it is
AT_ONCE = 2**22  # numbers of pairs held at a time; more are computed again in the backward pass


class PositionHead(nn.Module):
    """Tokens (B, N, D) of a grid of N = rows x columns cells -> (mean cross-entropy (), share of right answers ()).

    kind "apl": which of the N cells a token is, from the first half of its channels.  "rpl": the offset of query i from key j,
    one of (2 rows - 1)(2 columns - 1), from the first half of i's channels and the second half of j's; over all ordered pairs,
    those of a token with itself too, or over `pairs` alone.
    Linear, GELU, Linear, and a linear classifier, nothing between the last two.  Source: the authors' code, of any width and grid.
    """

    label: Tensor  # int64: (N,) of apl, (N, N) of rpl

    def __init__(self, dim: int, grid: tuple[int, int], kind: str) -> None:
        super().__init__()
        if kind not in ("apl", "rpl"):
            raise ValueError(f"kind must be apl or rpl, got {kind!r}")
        rows, columns = grid
        self.kind, self.middle = kind, dim // 2
        sizes = (dim // 2, dim // 2, dim // 4) if kind == "apl" else (dim // 2 * 2, dim // 2, dim // 2)
        self.fc1, self.fc2 = nn.Linear(*sizes[:2]), nn.Linear(*sizes[1:])
        self.classifier = nn.Linear(sizes[2], rows * columns if kind == "apl" else (2 * rows - 1) * (2 * columns - 1))
        for layer in (self.fc1, self.fc2, self.classifier):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        label = torch.arange(rows * columns) if kind == "apl" else relative_labels(rows, columns)
        self.register_buffer("label", label, persistent=False)

    def forward(self, tokens: Tensor, pairs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """tokens: (B, N, D); pairs: (P, 2) int64 places i, j of queries and keys, of RPL only."""
        if self.kind == "apl":
            y = self.classifier(self.fc2(F.gelu(self.fc1(tokens[..., : self.middle]))))            # (B, N, N)
            loss, hits = _cross_entropy(y, self.label.expand(len(y), -1))
            return loss / y[..., 0].numel(), hits / y[..., 0].numel()
        return self._relative(tokens, pairs)

    def _relative(self, tokens: Tensor, pairs: Tensor | None) -> tuple[Tensor, Tensor]:
        half, (batch, n, _) = self.middle, tokens.shape
        # fc1 of a concatenated pair is a sum, so it is computed a token, not a pair; and the last two layers are one linear map.
        q = F.linear(tokens[..., :half], self.fc1.weight[:, :half])                               # (B, N, h)
        k = F.linear(tokens[..., -half:], self.fc1.weight[:, half:], self.fc1.bias)               # (B, N, h)
        weight = self.classifier.weight @ self.fc2.weight                                         # (classes, h)
        bias = F.linear(self.fc2.bias, self.classifier.weight, self.classifier.bias)              # (classes,)
        if pairs is not None:
            i, j = pairs.unbind(1)
            loss, hits = _of_pairs(q[:, i], k[:, j], weight, bias, self.label[i, j])
            return loss / (batch * len(pairs)), hits / (batch * len(pairs))
        rows = max(1, AT_ONCE // (batch * n * sum(weight.shape)))
        parts = [(q[:, i : i + rows, None], k[:, None], weight, bias, self.label[i : i + rows]) for i in range(0, n, rows)]
        if len(parts) == 1:
            loss, hits = _of_pairs(*parts[0])
        else:
            loss, hits = torch.stack([torch.stack(checkpoint(_of_pairs, *part, use_reentrant=False)) for part in parts]).sum(dim=0).unbind()
        return loss / (batch * n * n), hits.detach() / (batch * n * n)


def _of_pairs(q: Tensor, k: Tensor, weight: Tensor, bias: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """(summed cross-entropy, right answers) of the pairs q + k, (B, ..., h) by broadcasting; label: (...) int64."""
    y = F.linear(F.gelu(q + k), weight, bias)                                                     # (B, ..., classes)
    return _cross_entropy(y, label.expand(y.shape[:-1]))


def _cross_entropy(y: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    loss = F.cross_entropy(y.flatten(0, -2).float(), label.flatten(), reduction="sum")
    return loss, (y.detach().argmax(dim=-1) == label).float().sum()


def relative_labels(rows: int, columns: int) -> Tensor:
    """(N, N) int64: of query i and key j, (row i - row j + rows - 1)(2 columns - 1) + column i - column j + columns - 1."""
    row, column = (place.flatten() for place in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    return (row[:, None] - row + rows - 1) * (2 * columns - 1) + column[:, None] - column + columns - 1


def draw_pairs(n: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, 2) int64: ordered pairs of n tokens, uniform and with replacement, drawn on the host."""
    return torch.randint(n, (count, 2), generator=generator)


def change_positions(network: nn.Module, arch: str, pos_embed: bool, conditional: bool) -> None:
    """`without_positions` unless `pos_embed`, and `with_conditional_positions` if `conditional`."""
    if not pos_embed:
        without_positions(network, arch)
    if conditional:
        with_conditional_positions(network, arch)


def without_positions(network: nn.Module, arch: str) -> None:
    """Take a timm network's position embeddings and relative position biases away, in place: zeros that are not trained or saved.

    ValueError: it has none.
    """
    found = [(module, name) for module in network.modules() for name in POSITIONS if module._parameters.get(name) is not None]
    if not found:
        raise ValueError(f"--no-pos-embed: --arch {arch} has no position embedding to leave out")
    for module, name in found:
        zeros = torch.zeros_like(getattr(module, name), requires_grad=False)
        delattr(module, name)
        module.register_buffer(name, zeros, persistent=False)


def with_conditional_positions(network: nn.Module, arch: str) -> None:
    """Add x + a depthwise 3x3 convolution of x (padded by zeros, which tell the edge) to the start of every block of a Swin, in place.

    ValueError: `network` is no Swin.  Source: the authors' Swin-T; the idea is CPVT's (arXiv:2102.10882).
    """
    from timm.models.swin_transformer import SwinTransformerBlock  # takes seconds

    blocks = [module for module in network.modules() if isinstance(module, SwinTransformerBlock)]
    if not blocks:
        raise ValueError(f"--conditional-positions: --arch {arch} has no blocks of a Swin, whose tokens keep their grid; use a swin_*")
    for block in blocks:
        block.cpe = nn.Conv2d(block.dim, block.dim, 3, padding=1, groups=block.dim)
        block.register_forward_pre_hook(_add_positions)


def _add_positions(block: TimmNetwork, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x = inputs[0]                                                                                 # (B, H, W, D)
    return (x + block.cpe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), *inputs[1:])
