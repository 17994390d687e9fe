"""Published weights through timm: those that were fetched once without asking the network, and within seconds what to do without one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_bench.weights import read_tensors

if TYPE_CHECKING:
    from torch import nn

ANSWER_SECONDS = 10.0  # a server that says nothing for so long cannot be reached; the hub's own client asks for minutes


@dataclass(frozen=True)
class Source:
    """url: of the file; place: how to put it where it is looked for; file: where it lies already, None if it does not."""

    url: str
    place: str
    file: str | None


def create(name: str, kwargs: Mapping[str, Any], pretrained: bool, backbone_file: bool = True) -> nn.Module:
    """timm.create_model without a classifier; backbone_file: whether --pretrained-backbone is a way out.

    Raises:
        OSError: the weights are not to be had; the message says where to put them.
        TypeError: the network refuses its arguments.
    """
    import timm

    if not pretrained:
        return timm.create_model(name, pretrained=False, num_classes=0, **kwargs)
    source = source_of(name)
    if source is not None and source.file is None and (reason := unreachable(source.url)):
        raise OSError(_message(name, reason, source, backbone_file))
    given: dict[str, Any] = {}
    try:
        if source is not None and source.file:
            # The hub's client asks the network first, whatever it has: 25 seconds long where there is none.
            given = {"pretrained_cfg_overlay": _overlay(source.file)}
        network = timm.create_model(name, pretrained=True, num_classes=0, **given, **kwargs)
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise OSError(_message(name, reason, source, backbone_file)) from None
    vars(network).get("pretrained_cfg", {}).pop("state_dict", None)  # would be copied with the network
    return network


def _overlay(file: str) -> dict[str, Any]:
    if file.endswith(".safetensors"):
        return {"file": file}
    try:
        return {"state_dict": read_tensors(file)}  # of such a file timm 1.0.12 runs what it pickles
    except ValueError as error:
        raise OSError(str(error).replace(file, os.path.basename(file))) from None


def source_of(name: str) -> Source | None:
    """Where timm takes the weights of a network from; None: it says nothing of it, or reads them in a way of its own."""
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None or published.file or published.custom_load or not (published.hf_hub_id or published.url):
        return None
    if published.hf_hub_id:
        return _on_the_hub(published.hf_hub_id, published.hf_hub_filename)
    if not isinstance(published.url, str):  # the next of two
        return None
    import torch

    target = Path(torch.hub.get_dir(), "checkpoints", published.url.rpartition("/")[2])
    return Source(published.url, f"put it at {target}", None if not target.is_file() else str(target))


def _on_the_hub(identifier: str, filename: str | None) -> Source:
    from huggingface_hub import constants, try_to_load_from_cache

    repository, _, revision = identifier.partition("@")
    names = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    found = (try_to_load_from_cache(repository, name, revision=revision or None) for name in names)
    url = f"{constants.ENDPOINT}/{repository}/resolve/{revision or 'main'}/{names[0]}"
    folder = "--".join(["models", *repository.split("/")])
    place = f"copy the folder {folder} of a machine that has it into {constants.HF_HUB_CACHE}"
    return Source(url, place, next((file for file in found if isinstance(file, str)), None))


def unreachable(url: str) -> str | None:
    """Why nothing answers at `url`, in a few words; None if anything does, a refusal too, or if that is not for us to say."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE and url.startswith(constants.ENDPOINT):
        return "HF_HUB_OFFLINE is set"
    if any(os.environ.get(name) for name in ("ALL_PROXY", "all_proxy")):  # urllib does not go through it, the hub's client does
        return None
    try:
        urlopen(Request(url, method="HEAD", headers={"User-Agent": "ssl-bench"}), timeout=ANSWER_SECONDS).close()
    except HTTPError as error:
        error.close()
    except URLError as error:
        if "CERTIFICATE" not in str(error.reason):  # the other client may trust others
            return f"{url.split('/')[2]} cannot be reached: {getattr(error.reason, 'strerror', None) or error.reason}"
    except OSError as error:
        return f"{url.split('/')[2]} cannot be reached: {error.strerror or error}"
    except HTTPException as error:  # of whoever stands between, and speaks no HTTP
        return f"{url.split('/')[2]} cannot be reached: what answers is no web server ({type(error).__name__})"
    return None


def _message(name: str, reason: str, source: Source | None, backbone_file: bool) -> str:
    ways = []
    if source is not None and backbone_file:
        ways.append(f"fetch {source.url} elsewhere and give it as --pretrained-backbone FILE")
    elif backbone_file:
        ways.append("give --pretrained-backbone FILE")
    if source is not None:
        ways.append(source.place if source.place.startswith("copy") else f"{source.place} (from {source.url})")
    ways.append("add --scratch for random weights")
    return f"ImageNet weights of {name} could not be loaded ({reason}): {', or '.join(ways)}"
