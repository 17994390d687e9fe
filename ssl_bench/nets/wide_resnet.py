"""WRN-d-k, the wide residual network of the field at 32x32: ``wrn_28_2``, ``wrn_28_8``, any ``wrn_{6n+4}_{k}``.

Sources: Zagoruyko & Komodakis, "Wide Residual Networks", arXiv:1605.07146 (architecture); Oliver et al., "Realistic
Evaluation of Deep Semi-Supervised Learning Algorithms", arXiv:1804.09170, and FixMatch, arXiv:2001.07685 (leaky ReLU of
slope 0.1; BatchNorm whose statistics move by 0.001 a forward and whose epsilon is 0.001; only the first block activates
before its shortcut leaves).
"""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn import functional as F

NAMES = ("wrn_16_8", "wrn_28_2", "wrn_28_8", "wrn_28_10", "wrn_40_2")  # offered where a name is misspelt; any other works too


def depth_and_width(name: str) -> tuple[int, int] | None:
    """("wrn_28_2") -> (28, 2); None: the name is no WRN's.  ValueError: it is one, of a depth or width that does not exist."""
    found = re.fullmatch(r"wrn_(\d+)_(\d+)", name)
    if not found:
        return None
    depth, width = int(found[1]), int(found[2])
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise ValueError(f"--arch {name}: a WRN has depth 6n + 4 (10, 16, 22, 28, 34, 40, ...) and width 1 or more; try wrn_28_2")
    return depth, width


class Block(nn.Module):
    """Two 3x3 convolutions, each after BatchNorm and leaky ReLU, beside a shortcut; (B, c_in, H, W) -> (B, c_out, H/s, W/s)."""

    def __init__(self, c_in: int, c_out: int, stride: int, activate_first: bool, momentum: float, slope: float) -> None:
        super().__init__()
        self.activate_first, self.slope = activate_first, slope
        self.norm1, self.norm2 = _norm(c_in, momentum), _norm(c_out, momentum)
        self.conv1, self.conv2 = _conv(c_in, c_out, 3, stride), _conv(c_out, c_out, 3, 1)
        self.shortcut = _conv(c_in, c_out, 1, stride) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        active = F.leaky_relu(self.norm1(x), self.slope, inplace=True)
        inner = F.leaky_relu(self.norm2(self.conv1(active)), self.slope, inplace=True)
        return self.shortcut(active if self.activate_first else x) + self.conv2(inner)


class WideResNet(nn.Module):
    """Pre-activation; a 3x3 stem of 16 channels, three groups of (depth - 4) / 6 blocks of 16k, 32k and 64k channels, the
    second and third halving the map; then BatchNorm, leaky ReLU and the mean over the map.

    num_classes: 0 gives features (B, 64k).  global_pool: "avg", or "" for the map (B, 64k, H/4, W/4).  bn_momentum: share of
    the running statistics that one forward replaces.  Convolutions have no bias, and He's initial weights (fan-out).
    """

    layers_unknown = True  # no layer decay

    def __init__(
        self, depth: int, width: int, num_classes: int = 0, *, global_pool: str = "avg", bn_momentum: float = 0.001,
        negative_slope: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if global_pool not in ("avg", ""):
            raise ValueError(f"global_pool is {global_pool!r}: use avg, or '' for the map")
        self.global_pool, self.slope = global_pool, negative_slope
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.stem = _conv(3, widths[0], 3, 1)
        blocks = []
        for group in range(3):
            for k in range((depth - 4) // 6):
                c_in, stride = (widths[group], 1 + (group > 0)) if k == 0 else (widths[group + 1], 1)
                blocks.append(Block(c_in, widths[group + 1], stride, group == k == 0, bn_momentum, negative_slope))
        self.blocks = nn.Sequential(*blocks)
        self.norm = _norm(widths[3], bn_momentum)
        self.fc = nn.Linear(widths[3], num_classes) if num_classes else nn.Identity()
        if isinstance(self.fc, nn.Linear):
            nn.init.xavier_normal_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) float."""
        x = F.leaky_relu(self.norm(self.blocks(self.stem(x))), self.slope, inplace=True)
        return self.fc(x.mean((2, 3)) if self.global_pool else x)


def wide_resnet(
    name: str, num_classes: int = 0, *, global_pool: str = "avg", bn_momentum: float = 0.001, negative_slope: float = 0.1
) -> WideResNet:
    """A fresh network by name.  ValueError: no such depth or width; TypeError: an argument it does not have."""
    parsed = depth_and_width(name)
    if parsed is None:
        raise ValueError(f"{name!r} is no wrn_<depth>_<width>")
    return WideResNet(*parsed, num_classes, global_pool=global_pool, bn_momentum=bn_momentum, negative_slope=negative_slope)


def _conv(c_in: int, c_out: int, size: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(c_in, c_out, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=momentum)
