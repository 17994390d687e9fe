"""A backbone from a file: of this suite, of timm and torchvision, or a self-supervised checkpoint (MAE, DINO, ...) as it is.

Nothing is laid over a network silently wrong: every tensor of the network comes from the file or is named in the report, every
tensor of the file goes into the network or is named there too, and what fits neither way is an error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ssl_bench.foreign import choose, find_networks, is_head
from ssl_bench.weights import CONVERTER, beginnings, is_whole_classifier, read_tensors

PATCHES = "patch_embed.proj.weight"
BLOCK = re.compile(r"blocks\.(\d+)\.")


def load_backbone(backbone: nn.Module, path: str, classifier: Sequence[str] = ()) -> str:
    """`lay_over` with the network in a file.  Raises ValueError, OSError; each names the file."""
    return lay_over(backbone, _network_in(read_tensors(path), path), path, classifier)


def backbone_over(backbone: nn.Module, classifier: Mapping[str, Tensor], source: str) -> str:
    """`lay_over` with the backbone alone of a classifier of this suite: for a stage that begins a head of its own."""
    own = {key.removeprefix("backbone."): value for key, value in classifier.items() if key.startswith("backbone.")}
    return lay_over(backbone, own, source)


def lay_over(backbone: nn.Module, given: dict[str, Tensor], path: str, classifier: Sequence[str] = ()) -> str:
    """Lay a network's tensors, from `path`, over `backbone`; a report of what fitted, and of what was left aside.

    The file is a flat state dict of plain names, a whole ``latest.pth``/``best.pth`` of this suite or of TLlib (``backbone.*`` is
    taken), or a checkpoint that holds exactly one network under plain names, such as MAE's ``model``.
    Left aside is what the backbone does not have of classifier (``fc.* head.* classifier.*``, and the names in `classifier`),
    projector, decoder and mask token.  Any other key that is unknown or of another shape, and any parameter left unset, is an
    error: a wrong file must not pass silently.  Three things are made to fit, and the report says so:
    a ViT's position embedding is resampled (bicubic, the class token's kept) to the network's grid of patches, from the
    grid that square images have of the file's;
    its patch kernels to the network's patch size, by timm's ``resample_patch_embed`` (FlexiViT's pseudo-inverse,
    arXiv:2212.08013: a patch and its enlargement give the same token), where Semi-ViT interpolates the kernels themselves;
    and where the network pools the mean of tokens, its ``fc_norm.*`` keeps its fresh values if the file has only the ``norm.*``
    of self-supervised training, which is left aside (as MAE's and Semi-ViT's fine-tuning do).
    ValueError names `path`.
    """
    own = backbone.state_dict()
    prefix = "backbone." if is_whole_classifier(given) and not any(key.startswith("backbone.") for key in own) else ""
    weights = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    if not any(key in own for key in weights):
        raise ValueError(
            f"{path} has nothing for this backbone: its {len(given)} tensors are named {beginnings(given)}, the backbone's "
            f"{beginnings(own)}; {CONVERTER} makes a file of plain names, or is it another --arch?"
        )
    constants = {name for name, _ in backbone.named_buffers()} - own.keys()  # positions that were taken out of it, say
    weights = {key: value for key, value in weights.items() if key not in constants}
    _check_size(weights, backbone, path)
    fresh = _fresh_norm(weights, own)
    names = ("fc", "head", "classifier", *classifier)
    aside = tuple(f"{name}." for name in (*names, *(["norm"] if fresh else [])))
    extra = [key for key in weights if key not in own and not key.startswith(aside) and not is_head(key)]
    # Old torchvision files lack the BatchNorm counters, which no forward reads while momentum is set.
    missing = [key for key in own if key not in weights and key not in fresh and not key.endswith("num_batches_tracked")]
    _check_pooling(extra, missing, path)
    for what, keys in (("unknown", extra), ("missing", missing)):
        if keys:
            raise ValueError(f"{path} does not fit the backbone: {len(keys)} keys {what}, the first is {keys[0]!r}")
    weights, positions = _fit_positions(weights, backbone, path)  # first: the file's kernels tell its grid
    weights, kernels = _fit_patches(weights, backbone)
    shapes = [key for key in own if key in weights and weights[key].shape != own[key].shape]
    if shapes:
        raise ValueError(
            f"{path} does not fit the backbone: {len(shapes)} keys differently shaped, the first is {shapes[0]!r}: "
            f"{tuple(weights[shapes[0]].shape)} in the file, {tuple(own[shapes[0]].shape)} in the network"
        )
    backbone.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)
    left = [key for key in given if not (key.startswith(prefix) and key.removeprefix(prefix) in own)]
    report = f"{sum(key in weights for key in own)} of {len(own)} backbone tensors loaded{kernels}{positions}"
    report += f"; not in the file, fresh values: {beginnings(fresh)}" if fresh else ""
    report += f"; left aside: {beginnings(left, most=6)}" if left else ""
    return report + _classifier_in({key: given[key] for key in left}, names)


def _network_in(tree: Any, path: str) -> dict[str, Tensor]:
    """A flat state dict as it is; of anything else the one network in it with its heads, under plain names."""
    if isinstance(tree, dict) and tree and all(isinstance(value, Tensor) for value in tree.values()):
        return tree
    found = find_networks(tree)
    try:
        network = choose(found, None)
    except ValueError as error:
        held = f", which holds {', '.join(map(str, list(tree)[:6]))}" if isinstance(tree, dict) and tree and not found else ""
        remedy = f" in python {CONVERTER} {path} backbone.pth --which ..., and give backbone.pth" if found else ""
        raise ValueError(f"{path} gives no backbone: {error}{held}{remedy}") from None
    return network.heads | network.tensors


def _check_size(weights: Mapping[str, Tensor], backbone: nn.Module, path: str) -> None:
    """ValueError if a ViT of another depth or width is in the file."""
    own = backbone.state_dict()
    if PATCHES not in weights or PATCHES not in own:
        return
    theirs, ours = (
        (len({match[1] for key in keys if (match := BLOCK.match(key))}), len(keys[PATCHES])) for keys in (weights, own)
    )
    if theirs == ours or 0 in (theirs[0], ours[0]):
        return
    arch = (getattr(backbone, "pretrained_cfg", None) or {}).get("architecture") or "the network"
    raise ValueError(
        f"{path} does not fit: the file's network has {_count(theirs[0])} of width {theirs[1]}, {arch} has {ours[0]} of width "
        f"{ours[1]}: is it another --arch (or --model-kwargs)?"
    )


def _count(blocks: int) -> str:
    return f"{blocks} block{'s' if blocks != 1 else ''}"


def _fresh_norm(weights: Collection[str], own: Collection[str]) -> list[str]:
    """The network's ``fc_norm.*``, where the file normalises every token (``norm.*``) instead of their mean."""
    if any(key.startswith("fc_norm.") for key in weights) or "norm.weight" not in weights:
        return []
    return [key for key in own if key.startswith("fc_norm.")]


def _check_pooling(extra: Sequence[str], missing: Sequence[str], path: str) -> None:
    """ValueError if the file's network pools the mean of tokens and this one the class token, and nothing else differs."""
    if "fc_norm.weight" in extra and {key.split(".")[0] for key in missing} == {"norm"}:
        raise ValueError(
            f"{path} normalises the mean of all tokens (it has fc_norm.*, no norm.*): add --model-kwargs global_pool=avg"
        )


def _fit_patches(weights: dict[str, Tensor], backbone: Any) -> tuple[dict[str, Tensor], str]:
    """`weights` with patch kernels (D, C, P, P) of the backbone's patch size, and what was done in words."""
    there, here = weights.get(PATCHES), backbone.state_dict().get(PATCHES)
    if there is None or here is None or there.ndim != 4 or here.ndim != 4 or there.shape[:2] != here.shape[:2]:
        return weights, ""
    size = tuple(here.shape[2:])
    if there.shape[2:] == size or tuple(getattr(backbone.patch_embed.proj, "stride", ())) != size:
        return weights, ""  # equal; or patches that overlap: a kernel of another size is another network
    from timm.layers import resample_patch_embed  # takes seconds

    old = "x".join(map(str, there.shape[2:]))
    fitted = resample_patch_embed(there, list(size))
    return weights | {PATCHES: fitted}, f", patch kernels resampled from {old} to {size[0]}x{size[1]} pixels"


def _fit_positions(weights: dict[str, Tensor], backbone: nn.Module, path: str) -> tuple[dict[str, Tensor], str]:
    """`weights` with ``pos_embed`` (1, N, D) for the backbone's grid of patches, and what was done in words."""
    there, here = weights.get("pos_embed"), getattr(backbone, "pos_embed", None)
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if there is None or here is None or grid is None or there.ndim != 3 or here.ndim != 3:
        return weights, ""
    first = here.shape[1] - grid[0] * grid[1]  # entries of class and register tokens
    cells = there.shape[1] - first
    if first < 0 or cells < 1:
        return weights, ""  # a shape of another kind: for the caller to name
    old = _grid_of(cells, weights.get(PATCHES), backbone.state_dict().get(PATCHES), grid)
    if old != tuple(grid) and old[0] * old[1] != cells and there.shape[1] == here.shape[1]:
        raise ValueError(
            f"{path} has a position each for {cells} patches, which are no grid of a square image, and the network's are "
            f"{grid[0]}x{grid[1]} of another shape: give the patch size it was trained with"
        )
    if old == tuple(grid) or old[0] * old[1] != cells:
        return weights, ""  # as it should be, or a number that is for the caller to name
    from timm.layers import resample_abs_pos_embed  # takes seconds

    fitted = resample_abs_pos_embed(there, new_size=list(grid), old_size=list(old), num_prefix_tokens=first)
    return weights | {"pos_embed": fitted}, f", position embedding resampled from {old[0]}x{old[1]} to {grid[0]}x{grid[1]} patches"


def _grid_of(cells: int, theirs: Tensor | None, ours: Tensor | None, grid: tuple[int, int]) -> tuple[int, int]:
    """The grid of `cells` patches of a square image, their kernels `theirs`: as many times longer than `grid` as they are shorter.

    Without kernels (a hybrid's) it is square.
    """
    ratio = 1.0  # rows to columns
    if theirs is not None and ours is not None and theirs.ndim == ours.ndim == 4:
        ratio = grid[0] / grid[1] * (theirs.shape[3] / theirs.shape[2]) / (ours.shape[3] / ours.shape[2])
    return round((cells * ratio) ** 0.5), round((cells / ratio) ** 0.5)


def _classifier_in(left: Mapping[str, Tensor], names: Sequence[str]) -> str:
    """That a linear classifier was among what was left aside, in words: such weights have seen labels."""
    for name in names:
        weight = left.get(f"{name}.weight")
        if weight is not None and weight.ndim == 2 and len(weight):
            return (
                f"; the file holds a classifier of {len(weight)} classes ({name}.*, left aside): it was trained with labels, "
                "unless that was a probe of self-supervised weights"
            )
    return ""
