"""Weights from files: read without running pickled code, and never laid over a network silently wrong."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CONVERTER = "tools/convert_checkpoint.py"


def load_backbone(backbone: nn.Module, path: str, classifier: Sequence[str] = ()) -> str:
    """Lay a flat state dict over `backbone`; a report of what fitted, and of what in the file was left aside.

    Left aside is a classifier that the backbone does not have (``fc.* head.* classifier.*``, and the names in `classifier`).
    Of a whole ``latest.pth``/``best.pth`` of this suite or of TLlib, ``backbone.*`` is taken.  Any other key that is unknown
    or of another shape, and any parameter left unset, is an error: a wrong file must not pass silently.  A ViT's position
    embedding is resampled to the network's grid of patches.
    Raises ValueError, OSError.
    """
    given, own = read_weights(path), backbone.state_dict()
    prefix = "backbone." if is_whole_classifier(given) and not any(key.startswith("backbone.") for key in own) else ""
    weights = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    if not any(key in own for key in weights):
        raise ValueError(
            f"{path} has nothing for this backbone: its {len(given)} tensors are named {beginnings(given)}, the backbone's "
            f"{beginnings(own)}; {CONVERTER} makes a file of plain names, or is it another --arch?"
        )
    aside = tuple(f"{name}." for name in ("fc", "head", "classifier", *classifier))
    extra = [key for key in weights if key not in own and not key.startswith(aside)]
    # Old torchvision files lack the BatchNorm counters, which no forward reads while momentum is set.
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    for what, keys in (("unknown", extra), ("missing", missing)):
        if keys:
            raise ValueError(f"{path} does not fit the backbone: {len(keys)} keys {what}, the first is {keys[0]!r}")
    weights, resampled = _fit_positions(weights, backbone)
    shapes = [key for key in own if key in weights and weights[key].shape != own[key].shape]
    if shapes:
        raise ValueError(
            f"{path} does not fit the backbone: {len(shapes)} keys differently shaped, the first is {shapes[0]!r}: "
            f"{tuple(weights[shapes[0]].shape)} in the file, {tuple(own[shapes[0]].shape)} in the network"
        )
    backbone.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)
    left = [key for key in given if not (key.startswith(prefix) and key.removeprefix(prefix) in own)]
    report = f"{sum(key in weights for key in own)} of {len(own)} backbone tensors loaded{resampled}"
    return report + (f"; left aside: {beginnings(left)}" if left else "")


def is_whole_classifier(weights: Collection[str]) -> bool:
    """Whether the names are those of this suite's and TLlib's checkpoints: backbone.* and a linear head."""
    return "head.weight" in weights and any(key.startswith("backbone.") for key in weights)


def _fit_positions(weights: dict[str, Tensor], backbone: nn.Module) -> tuple[dict[str, Tensor], str]:
    """`weights` with ``pos_embed`` (1, N, D) for the backbone's grid of patches, and what was done in words."""
    there, here = weights.get("pos_embed"), getattr(backbone, "pos_embed", None)
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if there is None or here is None or grid is None or there.ndim != 3 or here.ndim != 3 or there.shape[1] == here.shape[1]:
        return weights, ""
    first = here.shape[1] - grid[0] * grid[1]  # entries of class and register tokens
    side = round(max(there.shape[1] - first, 0) ** 0.5)
    if first < 0 or side == 0 or side**2 + first != there.shape[1]:
        return weights, ""  # a shape of another kind: for the caller to name
    from timm.layers import resample_abs_pos_embed  # takes seconds

    fitted = resample_abs_pos_embed(there, new_size=list(grid), old_size=[side, side], num_prefix_tokens=first)
    return weights | {"pos_embed": fitted}, f", position embedding resampled from {side}x{side} to {grid[0]}x{grid[1]} patches"


def load_classifier(model: nn.Module, path: str) -> None:
    """Load a ``latest.pth``/``best.pth`` of this suite or of TLlib (whose unused ``backbone.fc.*`` is ignored), strictly."""
    load_strictly(model, read_weights(path), path)


def load_strictly(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Lay a classifier's `weights` over `model`; ValueError names their `source` if they do not fit."""
    own = model.state_dict()
    weights = {key: value for key, value in weights.items() if key in own or not key.startswith("backbone.fc.")}
    theirs, ours = weights.get("head.weight"), own.get("head.weight")
    if theirs is not None and ours is not None and theirs.ndim == 2 and len(theirs) != len(ours):
        raise ValueError(
            f"{source} has a head of {len(theirs)} classes (head.weight), the data set {len(ours)}: give the data it was trained on"
        )
    missing, unknown = [key for key in own if key not in weights], [key for key in weights if key not in own]
    shapes = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    for what, keys in (("lacks", missing), ("has an unknown", unknown), ("has another shape of", shapes)):
        if keys:
            raise ValueError(f"{source} belongs to another network: it {what} {keys[0]} ({len(keys)} such)")
    model.load_state_dict(weights)


def beginnings(keys: Iterable[str], most: int = 4) -> str:
    """Names by their first part, with counts: ``conv1.* (1), layer1.* (60), ...``; wrappers such as ``module.`` count as none."""
    counts = Counter(re.match(r"(?:module\.|state_dict\.|model\.)*[^.]+", key)[0] for key in keys)
    shown = [f"{name}.* ({count})" for name, count in counts.most_common(most)]
    return ", ".join(shown) + (", ..." if len(counts) > most else "")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict from a file, without running pickled code.  OSError: unreadable; ValueError: not a flat state dict."""
    tree = read_tensors(path)
    if not isinstance(tree, dict) or not tree or not all(isinstance(value, Tensor) for value in tree.values()):
        held = f"it holds {', '.join(map(str, list(tree)[:6]))}: " if isinstance(tree, dict) and tree else ""
        raise ValueError(f"{path} is not a flat state dict of tensors: {held}{CONVERTER} takes the network out of a checkpoint")
    return tree


def read_tensors(path: str | Path) -> Any:
    """What a checkpoint holds, on the CPU: ``torch.load`` with weights_only=True, or safetensors where the name ends so.

    Besides tensors and plain containers an ``argparse.Namespace`` is read, which the official MAE, DeiT and DINO files carry:
    it is a bag of attributes, and making one runs no code.  Every way of failing is an error of one line that names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    if str(path).endswith(".safetensors"):
        return _read_safetensors(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        held = f"holds {found[1]}" if found else "is no checkpoint, or holds more than tensors"
        raise ValueError(f"{path} {held}: reading it could run code, refused") from None
    except Exception as error:  # on arbitrary bytes torch's unpickler may fail in any way at all
        raise ValueError(f"{path} is truncated or no checkpoint: {' '.join(str(error).split())[:160]}") from None


def _read_safetensors(path: str | Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"{path}: pip install safetensors to read it") from None
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or no safetensors file: {' '.join(str(error).split())[:160]}") from None
