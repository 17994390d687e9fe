"""``ssl-bench export``: a trained network as a file of safetensors, ONNX or TorchScript, or as a folder of timm's.

What was written is opened again by the format's own library and compared; only a file that gives the same outputs is kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssl_bench import exported
from ssl_bench.trained import Trained, add_flags, failed, from_flags
from ssl_bench.word_parser import WordParser

FORMATS = ("safetensors", "onnx", "torchscript", "timm")
BATCHES = (1, 3)  # neither is the batch a network is traced with
TOLERANCE = 1e-4  # of the largest output


def export(trained: Trained, format: str, out: str | Path, backbone_only: bool = False) -> tuple[float, str]:
    """Write `out`, and open and compare it; the largest difference, of the largest output, and what it was compared in.

    backbone_only: the pooled features instead of the logits.  Nothing, or what was there before, is left where it fails.
    OSError: it cannot be written; ValueError: the format has no place for this network, or gives other outputs.
    """
    out = Path(out).expanduser()
    if format not in FORMATS:
        raise ValueError(f"no format {format!r}; known: {', '.join(FORMATS)}")
    if backbone_only and format == "safetensors":
        raise ValueError("--backbone-only: a file of safetensors holds weights, not what is computed; take those named backbone.* from it")
    if format == "timm" and out.exists() and (not out.is_dir() or any(out.iterdir()) and not (out / "config.json").is_file()):
        raise ValueError(f"{out} is there and no folder of timm's: give another --out")
    if format != "timm" and out.is_dir():
        raise ValueError(f"{out} is a folder; --out names a file")
    module = exported.module_of(trained, backbone_only)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.with_name(f".{out.stem}.{os.getpid()}.tmp{out.suffix}")
    if format == "safetensors":
        made = made.with_suffix(".safetensors")
    try:
        difference, where = _written(trained, module, format, made, backbone_only)
        _share(made)
        if format == "timm" and out.is_dir():
            for file in sorted(made.iterdir()):
                os.replace(file, out / file.name)
        else:
            os.replace(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)
    return difference, where


def _share(made: Path) -> None:
    """Readable as files of this user are: safetensors makes its own for the user alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in made.iterdir() if made.is_dir() else [made]:
        file.chmod(0o666 & ~mask)


def _written(trained: Trained, module: nn.Module, format: str, path: Path, backbone_only: bool) -> tuple[float, str]:
    if format == "timm":
        path.mkdir()
        exported.write_timm(trained, path, backbone_only)
        return _compared(trained, module, exported.read_timm(path), "timm"), "timm"
    if format == "onnx":
        exported.write_onnx(trained, module, path)
        reader = exported.read_onnx(path)
        if reader is None:
            return float("nan"), f"nothing: onnxruntime is not installed ({exported.ONNX_EXTRA})"
        return _compared(trained, module, reader, "onnxruntime"), "onnxruntime"
    if format == "torchscript":
        exported.write_torchscript(trained, module, path)
        return _compared(trained, module, exported.read_torchscript(path), "torch.jit"), "torch.jit"
    exported.write_safetensors(trained, module, path)
    return _compared(trained, module, exported.read_safetensors(path, trained.script), "ssl-bench"), "ssl-bench"


def _compared(trained: Trained, module: nn.Module, reader: exported.Reader, where: str) -> float:
    worst = 0.0
    for n in BATCHES:
        x = exported.examples(trained, n)
        with torch.inference_mode():
            ours = module(x).numpy()
        try:
            theirs = np.asarray(reader(x.numpy()))
        except Exception as error:  # whatever a foreign library raises
            raise ValueError(f"{where} fails on a batch of {n}: {' '.join(str(error).split())[:200]}; nothing was written") from error
        if theirs.shape != ours.shape:
            raise ValueError(f"{where} gives {theirs.shape} for a batch of {n}, not {ours.shape}; nothing was written")
        difference = float(np.abs(theirs - ours).max() / max(np.abs(ours).max(), 1e-12))
        if not difference <= TOLERANCE:
            raise ValueError(f"{where} gives other outputs for a batch of {n}: {difference:.1e} of the largest, allowed is {TOLERANCE:g}; nothing was written")
        worst = max(worst, difference)
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """``ssl-bench export``: 0, or 1 after one line on stderr."""
    parser = WordParser(
        prog="ssl-bench export", description="A trained network for other programs; docs/using.md shows how each opens it.",
        epilog="For example: ssl-bench export runs/fixmatch/Digits/4x/0-0123456789ab --format onnx --out fixmatch.onnx",
    )  # fmt: skip
    add_flags(parser)
    add = parser.add_argument
    add("--format", required=True, choices=FORMATS, help="a file of safetensors, onnx or torchscript; a folder that timm loads")
    add("--out", required=True, metavar="PATH", help="the file, or timm's folder")
    add("--backbone-only", action="store_true", help="the pooled features before bottleneck and head; not of safetensors")
    options = parser.parse_args(argv)
    try:
        trained = from_flags(options)
        difference, where = export(trained, options.format, options.out, options.backbone_only)
    except (OSError, ValueError) as error:
        return failed("export", error)
    what = "features" if options.backbone_only else f"logits of {len(trained.classes)} classes"
    print(f"{trained.file} -> {options.out} ({options.format}, {what})\ncompared in {where}" + (
        f": largest difference {difference:.1e} of the largest output" if difference == difference else ""))  # fmt: skip
    return 0
