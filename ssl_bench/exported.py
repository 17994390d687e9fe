"""A trained network in other programs' files: one writer and one reader a format, so that what was written can be compared.

A writer puts the network where it is told; a reader opens that with nothing but the format's own library, and gives a function
of images (B, 3, S, S) -> outputs (B, D) as NumPy arrays.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_bench import models
from ssl_bench.nets import wide_resnet
from ssl_bench.nets.tokens import TimmNetwork
from ssl_bench.trained import METADATA, Headline, Trained, open_trained

Reader = Callable[[np.ndarray], np.ndarray]
ONNX_EXTRA = 'pip install "ssl-bench[onnx]"'
RESIZINGS = {"default": (0.875, "squash"), "cifar": (1.0, "squash"), "short": (0.875, "center")}  # timm's crop_pct and crop_mode
IMAGES, OUTPUTS = "images", "logits"


def examples(trained: Trained, n: int) -> Tensor:
    """n random normalised images, (n, 3, S, S): always the same."""
    size = trained.args.image_size
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


def write_safetensors(trained: Trained, module: nn.Module, path: Path) -> None:
    """Weights by TLlib's names, and `Trained.description` in the metadata."""
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous().clone() for name, value in trained.method.evaluated().state_dict().items()}
    save_file(weights, str(path), {METADATA: json.dumps(trained.description())})


def read_safetensors(path: Path, script: str | None = None) -> Reader:
    """As ``ssl-bench predict FILE.safetensors`` opens it; script: of a method of one's own."""
    module = open_trained(path, script=script).headline
    return lambda x: _numpy(module, x)


def write_torchscript(trained: Trained, module: nn.Module, path: Path) -> None:
    """Traced in eval mode; `Trained.description` as the extra file "ssl_bench"."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants in the trace: whether they matter is tried with other batches
        traced = torch.jit.trace(module, examples(trained, 2), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={METADATA: json.dumps(trained.description())})


def read_torchscript(path: Path) -> Reader:
    """torch.jit.load."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would have us use another format
        module = torch.jit.load(str(path), map_location="cpu")
    return lambda x: _numpy(module, x)


def write_onnx(trained: Trained, module: nn.Module, path: Path) -> None:
    """Any batch; `Trained.description` as the metadata "ssl_bench".  ValueError: the extra is missing, or it cannot be expressed."""
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError:
        raise ValueError(f"--format onnx needs onnx and onnxscript: {ONNX_EXTRA}") from None
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module, (examples(trained, 2),), dynamo=True, input_names=[IMAGES], output_names=[OUTPUTS], verbose=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )  # fmt: skip
        except Exception as error:  # its own, and whatever a network's Python raises under tracing
            raise ValueError(f"--arch {trained.args.arch} cannot be exported to onnx: {' '.join(str(error).split())[:200]}") from error
    assert program is not None, "of dynamo=True"
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(trained.description())
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def read_onnx(path: Path) -> Reader | None:
    """onnxruntime; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {IMAGES: x})[0]


def write_timm(trained: Trained, path: Path, backbone_only: bool) -> None:
    """A folder of timm's own: model.safetensors and config.json.  ValueError: timm has no place for the network."""
    from safetensors.torch import save_file

    network, arguments = timm_network(trained, backbone_only)
    weights = {name: value.detach().contiguous().clone() for name, value in network.state_dict().items()}
    save_file(weights, str(path / "model.safetensors"), {"format": "pt"})
    args, published = trained.args, network.pretrained_cfg or {}
    crop, mode = RESIZINGS[args.val_resizing]
    first = {name: published[name] for name in ("first_conv", "classifier", "fixed_input_size") if published.get(name) is not None}
    config = dict(
        architecture=args.arch, num_classes=network.num_classes, num_features=network.num_features, model_args=arguments,
        pretrained_cfg=dict(
            tag="ssl_bench", custom_load=False, input_size=[3, args.image_size, args.image_size], interpolation="bicubic", crop_pct=crop,
            crop_mode=mode, mean=list(args.norm_mean), std=list(args.norm_std), num_classes=network.num_classes, **first,
        ),
        **{METADATA: trained.description()},
    )  # fmt: skip
    if not backbone_only:
        config["label_names"] = config["pretrained_cfg"]["label_names"] = list(trained.classes)
    (path / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def read_timm(path: Path) -> Reader:
    """timm.create_model("local-dir:FOLDER", pretrained=True)."""
    import timm

    network = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    return lambda x: _numpy(network, x)


def timm_network(trained: Trained, backbone_only: bool) -> tuple[TimmNetwork, dict[str, Any]]:
    """timm's own network with these weights, and the arguments it is made with.  ValueError, with the remedy, where there is none."""
    args, network = trained.args, trained.method.evaluated()
    elsewhere = "use --format onnx, torchscript or safetensors"
    if wide_resnet.depth_and_width(args.arch) is not None or not isinstance(network, models.Classifier):
        raise ValueError(f"timm has no {args.arch}: {elsewhere}")
    if not args.pos_embed or args.conditional_positions:
        raise ValueError(f"timm's {args.arch} has other positions than this one (--no-pos-embed, --conditional-positions): {elsewhere}")
    if not backbone_only and not isinstance(network.bottleneck, nn.Identity):
        raise ValueError(
            "timm has no place for the bottleneck between backbone and head: --backbone-only exports what is before it, --format onnx "
            "and torchscript all of it; or train with --bottleneck-dim 0"
        )
    import timm

    kwargs = models.parse_model_kwargs((*args.model_kwargs, *args.more_model_kwargs))
    classes = 0 if backbone_only else len(trained.classes)
    for arguments in ({**kwargs, "img_size": args.image_size}, kwargs):
        try:
            theirs: TimmNetwork = timm.create_model(args.arch, pretrained=False, num_classes=classes, **arguments)
            head = {} if backbone_only else dict(theirs.get_classifier().named_parameters(prefix=_classifier(theirs)))
            missing = theirs.load_state_dict(network.backbone.state_dict(), strict=False)
        except (TypeError, RuntimeError, AssertionError, AttributeError, ValueError):
            continue  # this network's size is no argument, or its weights have other shapes
        if not missing.unexpected_keys and sorted(missing.missing_keys) == sorted(head) and _filled(head, network.head):
            return theirs.eval(), arguments
    raise ValueError(f"timm's {args.arch} has no single linear classifier behind these features: --backbone-only, or {elsewhere}")


def _classifier(network: TimmNetwork) -> str:
    own = network.get_classifier()
    return next((name for name, module in network.named_modules() if module is own), "")


def _filled(head: dict[str, Tensor], linear: nn.Linear) -> bool:
    """Lay the weights of `linear` over timm's classifier, which may be a 1 x 1 convolution; False: it is something else."""
    ours = {"weight": linear.weight, "bias": linear.bias}
    for name, value in head.items():
        mine = ours.pop(name.rpartition(".")[2], None)
        if mine is None or mine.numel() != value.numel():
            return False
        with torch.no_grad():
            value.copy_(mine.reshape(value.shape))
    return not ours or not head


def module_of(trained: Trained, backbone_only: bool) -> nn.Module:
    """What is exported: the headline's logits, or the pooled features in front of the bottleneck.  On the CPU, float32, for ever in eval mode."""
    network = trained.method.evaluated()
    module: nn.Module = Headline(trained.method)
    if backbone_only:
        if not isinstance(network, models.Classifier):
            raise ValueError(f"--backbone-only: {trained.args.arch} has no backbone of its own")
        module = nn.Sequential(network.backbone, network.pool)
    return module.eval().float().to(memory_format=torch.contiguous_format).requires_grad_(False)


@torch.inference_mode()
def _numpy(module: nn.Module, x: np.ndarray) -> np.ndarray:
    return module(torch.from_numpy(x)).numpy()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter reports every step on stdout, and warns of operators that this one does not use."""
    log, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
