"""A trained network, opened for use: the method of a run with its weights, the view of evaluation, the names of the classes.

Everything is read from the run's folder and nothing is downloaded.  Of what is read nothing is run: weights come from
`weights.read_classifier`, a method is one of the suite or a script that the caller names.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench import zoo
from ssl_bench.args import Args
from ssl_bench.augment.views import View
from ssl_bench.catalog import load_method, load_script, method_names
from ssl_bench.devices import pick_device
from ssl_bench.feed import test_view
from ssl_bench.flags import check_keys
from ssl_bench.messages import last_of_trace, one_line, refuse, said
from ssl_bench.method import Method, Task
from ssl_bench.placement import autocast, place
from ssl_bench.weights import load_strictly, read_classifier
from ssl_bench.whole_file import read_file

METADATA = "ssl_bench"  # the key of an exported file's description
HEADS = ("head.weight", "conv_cls_head.weight", "trans_cls_head.weight")


class Headline(nn.Module):
    """Normalised images (B, 3, S, S) -> the logits (B, C) that a run's headline is made of, whatever else the method predicts."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        y = self.method.predict(x)
        return y[""] if isinstance(y, dict) else y


@dataclass(frozen=True)
class Trained:
    """method: in eval mode, on `device`; args: those its last stage was trained by; classes: names by label; file: its weights;
    folder: of its run, None where the file stood alone; notes: lines for the user."""

    method: Method
    args: Args
    classes: tuple[str, ...]
    device: torch.device
    file: Path
    folder: Path | None
    notes: tuple[str, ...] = ()
    named: bool = True  # whether `classes` are names, and not numbers for want of them
    script: str | None = None  # of a method of one's own

    @property
    def view(self) -> View:
        """What evaluation makes of an image."""
        return test_view(self.args)

    @torch.inference_mode()
    def predict(self, x: Tensor) -> Tensor:
        """x: (B, 3, S, S) of `view` -> logits (B, C) float32, in the precision of training, as evaluations had it."""
        with autocast(self.args, self.device):
            return self.headline(x.to(self.device)).float()

    @property
    def headline(self) -> Headline:
        return Headline(self.method).eval()

    def description(self) -> dict[str, Any]:
        """What an exported file says of itself; with it `open_trained` needs no run folder."""
        from ssl_bench import __version__

        args = self.args
        return dict(
            version=__version__, method=self.method.name, arch=args.arch, model_kwargs=list(args.model_kwargs), bottleneck_dim=args.bottleneck_dim,
            classes=list(self.classes), named=self.named, input=f"float32 (N, 3, {args.image_size}, {args.image_size}): (RGB / 255 - mean) / std",
            mean=list(args.norm_mean), std=list(args.norm_std), image_size=args.image_size, resizing=args.val_resizing, args=asdict(args),
        )  # fmt: skip


def open_trained(
    checkpoint: str | Path, *, best: bool = False, unfinished: bool = False, args_file: str | Path | None = None,
    script: str | None = None, device: torch.device | str = "cpu",
) -> Trained:  # fmt: skip
    """The network of `checkpoint`: a run's folder, a folder with one run in it, a .pth of a run, or a .safetensors that was exported.

    best: best.pth (chosen on the test set) instead of latest.pth, of a folder; unfinished: the newest weights of a run that
    is not done; args_file: the args.json of a file that lies in no run; script: that of a method of one's own.
    Raises OSError (what is not there), ValueError (weights that do not fit, or that could run code; a run that is not done).
    """
    file, folder = _find(Path(checkpoint).expanduser(), best, unfinished)
    record, weights = _recorded(file, folder, args_file), read_classifier(file)
    method = _method(record, script, file)
    # What is here only makes training faster or smaller; the numbers are the same without.
    plain: dict[str, Any] = dict(pretrained_backbone=None, compile=False, cuda_graphs=False, shard=False, grad_checkpointing=False, concat=False)
    args = method.Args(**check_keys(method.Args, record["args"], f"the arguments of {file}"))
    stage = method.stages(args)[-1]
    args = replace(stage.args, **plain)
    heads = [len(weights[name]) for name in HEADS if name in weights]
    if not heads:
        raise ValueError(f"{file} has no head ({' or '.join(HEADS)}): it is no classifier of this suite")
    classes, notes = _classes(record, folder or file.parent, args, heads[0])
    numbers = classes or tuple(map(str, range(heads[0])))
    # As in a run, but for the random numbers, which weights replace; the counts shape memories that no prediction reads.
    instance = (stage.method or method)(args, Task(len(numbers), 1, 1, pretrained=False))
    load_strictly(instance.evaluated(), weights, str(file))
    chosen = pick_device(device) if isinstance(device, str) else device
    place(instance, args, chosen).eval()
    return Trained(instance, args, numbers, chosen, file, folder, tuple(notes), bool(classes), script)


def _find(given: Path, best: bool, unfinished: bool) -> tuple[Path, Path | None]:
    """(the file of weights, the folder of its run or None)."""
    name = "best.pth" if best else "latest.pth"
    if given.is_file():
        if best:
            raise ValueError(f"--best is for a run's folder; {given} is one file: name that")
        folder = next((where for where in (given.parent.parent, given.parent) if (where / "args.json").is_file()), None)
        if folder is not None and given.parent != folder:
            _check_finished(given, folder, unfinished)
        return given, folder
    if not given.is_dir():
        raise FileNotFoundError(f"no file or folder {given}; name a run's folder, or a .pth in its checkpoints/")
    folder = given
    if not (given / "args.json").is_file():
        runs = sorted(path.parent for depth in range(1, 5) for path in given.glob("*/" * depth + "args.json"))
        runs = [run for run in runs if not any(other in run.parents for other in runs)]  # not its stages
        if len(runs) != 1:
            what = f"holds {len(runs)} runs: name one, such as {runs[0]}" if runs else "is no run's folder (it has no args.json)"
            raise FileNotFoundError(f"{given} {what}")
        folder = runs[0]
    file = folder / "checkpoints" / name
    _check_finished(file, folder, unfinished)
    if not file.is_file() and unfinished:
        inner = sorted(folder.glob(f"*/checkpoints/{name}"), key=lambda path: path.stat().st_mtime_ns)
        if inner:
            return inner[-1], inner[-1].parent.parent
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: the run's weights are not here (removed, or not copied along)")
    return file, folder


def _check_finished(file: Path, folder: Path, unfinished: bool) -> None:
    if not unfinished and not (folder / "result.json").is_file():
        raise ValueError(f"{folder} is not finished: its own command continues it; --unfinished takes its newest weights as they are")


def _recorded(file: Path, folder: Path | None, args_file: str | Path | None) -> dict[str, Any]:
    if args_file is None and file.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as opened:
                text = (opened.metadata() or {}).get(METADATA)
        except SafetensorError as error:
            raise ValueError(f"{file} is truncated or no safetensors file: {' '.join(str(error).split())[:160]}") from None
        source = f"the metadata of {file}"
    else:
        text = None
    if text is None:
        path = Path(args_file) if args_file is not None else None if folder is None else folder / "args.json"
        if path is None:
            raise ValueError(f"{file} lies in no run: give its run's args.json with --args FILE")
        source, text = str(path), read_file(path)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is no JSON: {said(error)}") from None
    if not isinstance(record, dict) or not isinstance(record.get("method"), str) or not isinstance(record.get("args"), dict):
        raise ValueError(f"{source} is no record of a run: it names no method and its arguments")
    return record


def _method(record: dict[str, Any], script: str | None, file: Path) -> type[Method]:
    name = record["method"]
    if script is not None:
        method = load_script(script)
        if method.name != name:
            raise ValueError(f"{file} was trained by {name}, {script} defines {method.name}: name that method's script")
        return method
    if name not in method_names():
        raise ValueError(f"{file} was trained by {name}, which is no method of the suite: name its script with --method {name}.py")
    return load_method(name)


def _classes(record: dict[str, Any], folder: Path, args: Args, count: int) -> tuple[tuple[str, ...] | None, list[str]]:
    """Names by label, or None; what to tell the user.  ValueError: names that are not as many as the head has classes."""
    path, names, source = folder / "classes.json", record.get("classes") if record.get("named", True) else None, "its metadata"
    if names is None and path.is_file():
        source = str(path)
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON: {said(error)}") from None
    if names is None:
        return _names_of_data(args, count)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) != count:
        raise ValueError(f"{source} must list the names of {count} classes, as many as the weights have")
    return tuple(names), []


def _names_of_data(args: Args, count: int) -> tuple[tuple[str, ...] | None, list[str]]:
    """For runs from before classes.json.  A data set of one's own is a function, which is not called because a file names it."""
    why = f"{args.data} is a function of one's own"
    if args.data in zoo.names():
        try:
            data = zoo.load(args.data, args.root, download=False, check_counts=False)
        except (OSError, ValueError):
            why = f"{args.data} is not where it was"
        else:
            if len(data.classes) == count:
                return data.classes, []
            why = f"{args.data} has {len(data.classes)} classes today, not {count}"
    return None, [f"note: the run has no classes.json and {why}: classes are numbers; a list of their names in classes.json beside args.json names them"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags by which a command finds its network; `from_flags` reads them."""
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a run's folder, a .pth in its checkpoints/, or an exported .safetensors")
    add("--best", action="store_true", help="best.pth of the run (chosen on the test set) instead of latest.pth")
    add("--unfinished", action="store_true", help="take the newest weights of a run that is not done")
    add("--args", metavar="FILE", help="args.json of the run, where CHECKPOINT is a file that was moved elsewhere")
    add("--method", metavar="FILE.py", help="script of the method, where it is one of your own; it is run")


def from_flags(options: argparse.Namespace, device: str = "cpu") -> Trained:
    """The network that the flags name; prints its notes on stderr."""
    trained = open_trained(
        options.checkpoint, best=options.best, unfinished=options.unfinished, args_file=options.args, script=options.method, device=device
    )
    print("".join(f"{one_line(note)}\n" for note in trained.notes), end="", file=sys.stderr)
    return trained


def failed(word: str, error: Exception) -> int:
    """Print `error` as the one line of ``ssl-bench WORD``; the exit code.  A reader that left (`| head`) is no failure: see cli."""
    if isinstance(error, BrokenPipeError):
        raise error
    return refuse(f"ssl-bench {word}", last_of_trace(error), 1)
