"""Weights from files: read without running pickled code; and a whole classifier's, loaded strictly."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ssl_bench.whole_zip import check_zip, is_zip

CONVERTER = "tools/convert_checkpoint.py"


def is_whole_classifier(weights: Collection[str]) -> bool:
    """Whether the names are those of this suite's and TLlib's checkpoints: backbone.* and a linear head."""
    return "head.weight" in weights and any(key.startswith("backbone.") for key in weights)


def load_classifier(model: nn.Module, path: str) -> None:
    """Load a ``latest.pth``/``best.pth`` of this suite or of TLlib (whose unused ``backbone.fc.*`` is ignored), or another's
    checkpoint as `read_classifier` takes it, strictly."""
    load_strictly(model, read_classifier(path), path)


def load_strictly(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Lay a classifier's `weights` over `model`; ValueError names their `source` if they do not fit."""
    own = model.state_dict()
    weights = {key: value for key, value in weights.items() if key in own or not key.startswith("backbone.fc.")}
    for head in ("head.weight", "conv_cls_head.weight", "trans_cls_head.weight"):
        theirs, ours = weights.get(head), own.get(head)
        if theirs is not None and ours is not None and theirs.ndim == 2 and len(theirs) != len(ours):
            raise ValueError(f"{source} has a head of {len(theirs)} classes ({head}), the data set {len(ours)}: give the data it was trained on")
    missing, unknown = [key for key in own if key not in weights], [key for key in weights if key not in own]
    shapes = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    for what, keys in (("lacks", missing), ("has an unknown", unknown), ("has another shape of", shapes)):
        if keys:
            raise ValueError(f"{source} belongs to another network: it {what} {keys[0]} ({len(keys)} such)")
    model.load_state_dict(weights)


def beginnings(keys: Iterable[str], most: int = 4) -> str:
    """Names by their first part, with counts: ``conv1.* (1), layer1.* (60), ...``; wrappers such as ``module.`` count as none."""
    matches = ((key, re.match(r"(?:module\.|state_dict\.|model\.)*[^.]+", key)) for key in keys)
    counts = Counter(match[0] if match else key for key, match in matches)
    shown = [f"{name}.* ({count})" for name, count in counts.most_common(most)]
    return ", ".join(shown) + (", ..." if len(counts) > most else "")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict from a file, without running pickled code.  OSError: unreadable; ValueError: not a flat state dict."""
    return _flat(read_tensors(path), path)


def read_classifier(path: str | Path) -> dict[str, Tensor]:
    """`read_weights`, or where the file is a training checkpoint, what lies under its key ``model`` (its EMA is passed over).

    A prefix ``module.`` that all names share, DistributedDataParallel's, is taken off.
    """
    tree = read_tensors(path)
    inner = tree.get("model") if isinstance(tree, dict) else None
    weights = inner if _is_flat(inner) else _flat(tree, path)
    if all(key.startswith("module.") for key in weights):
        return {key.removeprefix("module."): value for key, value in weights.items()}
    return weights


def _is_flat(tree: Any) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(tree, dict) and bool(tree) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tree.items())


def _is_plain(value: Tensor) -> bool:
    """Whether its numbers are there, one after the other: not of a sparse, quantised, nested or complex tensor, nor of one without any."""
    odd = value.is_nested or value.layout is not torch.strided or value.is_quantized or value.is_complex()
    return not odd and value.device.type == "cpu" and type(value) in (Tensor, nn.Parameter)


def _flat(tree: Any, path: str | Path) -> dict[str, Tensor]:
    if _is_flat(tree):
        if odd := [key for key, value in tree.items() if not _is_plain(value)]:
            raise ValueError(f"{path} holds {_short(odd[0])} in a form that no network here has (sparse, quantised, without numbers): save it as a plain tensor")
    else:
        held = f"it holds {', '.join(map(_short, list(tree)[:6]))}: " if isinstance(tree, dict) and tree else ""
        raise ValueError(f"{path} is not a flat state dict of tensors: {held}{CONVERTER} takes the network out of a checkpoint")
    return tree


def _short(key: Any) -> str:
    """A key of a foreign file in a message: keys may be anything, and of any length."""
    return (key if isinstance(key, str) else f"({type(key).__name__})" if isinstance(key, (tuple, frozenset)) else str(key))[:60]


def read_tensors(path: str | Path) -> Any:
    """What a checkpoint holds, on the CPU: ``torch.load`` with weights_only=True, or safetensors where the name ends so.

    Besides tensors and plain containers an ``argparse.Namespace`` is read, which the official MAE, DeiT and DINO files carry:
    it is a bag of attributes, and making one runs no code.  Every way of failing is an error of one line that names the file.
    The checksums a checkpoint carries are compared first, which torch does not do.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    if str(path).endswith(".safetensors"):
        return _read_safetensors(path)
    if is_zip(path):
        try:
            check_zip(path)
        except ValueError as error:
            raise ValueError(f"{path} is truncated or no checkpoint ({error})") from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        held = f"holds {found[1]}" if found else "is no checkpoint, or holds more than tensors"
        safely = f"{CONVERTER} {path} TARGET --tensors-only model takes its tensors out and runs nothing"
        raise ValueError(f"{path} {held}: reading it could run code, refused; {safely}") from None
    except Exception as error:  # noqa: BLE001 - on arbitrary bytes torch's unpickler may fail in any way at all
        raise ValueError(f"{path} is truncated or no checkpoint ({' '.join(str(error).split())[:160] or type(error).__name__})") from None


def _read_safetensors(path: str | Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"{path} is a safetensors file: pip install safetensors to read it") from None
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or no safetensors file: {' '.join(str(error).split())[:160]}") from None
