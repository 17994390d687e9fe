"""Weights from files: read without running pickled code, and never laid over a network silently wrong."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def load_backbone(backbone: nn.Module, path: str) -> str:
    """Lay a flat state dict over `backbone` and say what fitted.

    A classifier the backbone does not have (``fc.* head.* classifier.*``) is ignored; any other key that is unknown or of
    another shape, and any parameter left unset, is an error: a wrong file must not pass silently.
    Raises ValueError, OSError.
    """
    weights = read_weights(path)
    own = backbone.state_dict()
    extra = [key for key in weights if key not in own and key.split(".")[0] not in ("fc", "head", "classifier")]
    # Old torchvision files lack the BatchNorm counters, which no forward reads while momentum is set.
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    shapes = [key for key in own if key in weights and weights[key].shape != own[key].shape]
    for what, keys in (("unknown", extra), ("missing", missing), ("differently shaped", shapes)):
        if keys:
            raise ValueError(f"{path} does not fit the backbone: {len(keys)} keys {what}, the first is {keys[0]!r}")
    backbone.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)
    return f"{sum(key in weights for key in own)} of {len(own)} backbone tensors loaded"


def load_classifier(model: nn.Module, path: str) -> None:
    """Load a ``latest.pth``/``best.pth`` of this suite or of TLlib (whose unused ``backbone.fc.*`` is ignored), strictly."""
    load_strictly(model, read_weights(path), path)


def load_strictly(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Lay a classifier's `weights` over `model`; ValueError names their `source` if they do not fit."""
    own = model.state_dict()
    weights = {key: value for key, value in weights.items() if key in own or not key.startswith("backbone.fc.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{source} belongs to another network: {reason}") from None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict from a file, without running pickled code.  OSError: unreadable; ValueError: not a flat state dict."""
    tree = read_tensors(path)
    if not isinstance(tree, dict) or not tree or not all(isinstance(value, Tensor) for value in tree.values()):
        raise ValueError(f"{path} is not a flat state dict of tensors")
    return tree


def read_tensors(path: str | Path) -> Any:
    """``torch.load`` to the CPU with weights_only=True; every way of failing is an error of one line that names the file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except pickle.UnpicklingError:
        raise ValueError(f"{path} is no checkpoint, or holds more than tensors (it would run code): refused") from None
    except Exception as error:  # on arbitrary bytes torch's unpickler may fail in any way at all
        raise ValueError(f"{path} is truncated or no checkpoint: {' '.join(str(error).split())[:160]}") from None
