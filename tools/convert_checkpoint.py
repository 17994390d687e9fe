"""Make a latest.pth/best.pth of this suite strictly loadable by TLlib: add the unused ``backbone.fc`` its ResNets carry.

    python tools/convert_checkpoint.py ours.pth tllib.pth

The other direction needs nothing: ``--phase test --resume tllib.pth`` loads TLlib's files as they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ssl_bench.record import write_tensors
from ssl_bench.weights import read_weights

IMAGENET_CLASSES = 1000


def to_tllib(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`weights` with a zero ``backbone.fc`` (1000, feature width), where it is missing.  ValueError: not a classifier's."""
    if "head.weight" not in weights or not any(key.startswith("backbone.layer4.") for key in weights):
        raise ValueError("only classifiers with a ResNet backbone (backbone.layer4.*, head.*) exist in TLlib's naming")
    if "backbone.fc.weight" in weights:
        return weights
    width = weights["bottleneck.0.weight"].shape[1] if "bottleneck.0.weight" in weights else weights["head.weight"].shape[1]
    unused = {"backbone.fc.weight": torch.zeros(IMAGENET_CLASSES, width), "backbone.fc.bias": torch.zeros(IMAGENET_CLASSES)}
    return weights | unused


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(argv)
    try:
        write_tensors(options.target, to_tllib(read_weights(options.source)))
    except (ValueError, OSError) as error:
        print(f"convert_checkpoint: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
