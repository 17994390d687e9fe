"""Weights from files: TLlib's checkpoints load, foreign, broken and malicious files are refused by name."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ssl_bench.models import Classifier, bottleneck, build_classifier
from ssl_bench.pretrained import load_backbone
from ssl_bench.record import read_all_weights
from ssl_bench.weights import load_classifier, read_tensors, read_weights


class Backbone(nn.Module):
    """A stand-in with torchvision's habits: dotted names and BatchNorm counters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 6, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer1(self.bn1(self.conv1(x))).mean(dim=(2, 3))


def network(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(Backbone(), nn.Identity(), bottleneck(6, 8), nn.Linear(8, 5))


def equal(a: nn.Module, b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, b[name]) for name, tensor in a.state_dict().items())


def one_line(error: type[Exception], path, action) -> str:
    with pytest.raises(error) as caught:
        action()
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and len(text) < 400 + len(str(path))
    return text


# ---- whole classifiers -----------------------------------------------------------------------------------------------


def test_a_checkpoint_round_trips(tmp_path):
    torch.save(network(1).state_dict(), tmp_path / "latest.pth")
    model = network(2)
    load_classifier(model, str(tmp_path / "latest.pth"))
    assert equal(model, network(1).state_dict())


def test_a_tllib_checkpoint_loads_although_its_backbone_kept_the_classifier(tmp_path):
    """TLlib's ResNet keeps torchvision's unused 1000-way fc, so its files carry backbone.fc.*."""
    path = tmp_path / "best.pth"
    torch.manual_seed(1)
    theirs = Classifier(__import__("torchvision").models.resnet18(weights=None), nn.Identity(), bottleneck(1000, 16), nn.Linear(16, 5))
    theirs.bottleneck = bottleneck(512, 16)
    torch.save(theirs.state_dict(), path)
    assert "backbone.fc.weight" in theirs.state_dict()
    ours = build_classifier("resnet18", 5, 32, bottleneck_dim=16)
    load_classifier(ours, str(path))
    assert equal(ours, theirs.state_dict())
    theirs.backbone.fc = nn.Identity()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-5), "the same function, not only the same names"


def semiformer(state: dict[str, torch.Tensor], **more) -> dict:
    """The keys of Semiformer's training checkpoints (and of DeiT's, from whose code they come)."""
    args = argparse.Namespace(model="Semiformer_small_patch16", lr=1e-3, pseudo_type="cnn")
    ema = {name: value + 1 for name, value in state.items()}
    return {"model": state, "optimizer": {"state": {}}, "lr_scheduler": {"t": 1}, "epoch": 599, "model_ema": ema, "args": args} | more


@pytest.mark.parametrize("form", ["model", "module.", "model and module.", "training checkpoint"])
def test_published_forms_of_a_checkpoint_load(tmp_path, form):
    path = tmp_path / "published.pth"
    state = dict(network(1).state_dict())
    wrapped = {f"module.{name}": value for name, value in state.items()}
    tree = {"model": {"model": state}, "module.": wrapped, "model and module.": {"model": wrapped}, "training checkpoint": semiformer(state)}
    torch.save(tree[form], path)
    model = network(2)
    load_classifier(model, str(path))
    assert equal(model, state), "the weights under model, not their average"
    assert read_all_weights(path)[0].keys() == state.keys()  # what --phase test reads, too


def test_a_training_checkpoint_is_strict_too_and_with_objects_refused_with_the_way_out(tmp_path):
    path = tmp_path / "published.pth"
    state = dict(network(1).state_dict())
    torch.save(semiformer(state | {"projector.weight": torch.ones(2)}), path)
    assert "unknown projector.weight" in one_line(ValueError, path, lambda: load_classifier(network(), str(path)))
    some = {f"module.{name}" if name.startswith("head") else name: value for name, value in state.items()}
    torch.save({"model": some}, path)  # a prefix that not all share is part of their names
    assert "belongs to another network: it lacks head" in one_line(ValueError, path, lambda: load_classifier(network(), str(path)))
    for tree in ({"model": {"net": state}, "epoch": 3}, {"model": {}}, {"model": [1]}, {"model": {3: torch.ones(1)}}):
        torch.save(tree, path)
        assert "not a flat state dict" in one_line(ValueError, path, lambda: load_classifier(network(), str(path)))
    torch.save(semiformer(state, best=Path("x")), path)
    text = one_line(ValueError, path, lambda: load_classifier(network(), str(path)))
    assert "holds pathlib." in text and f"tools/convert_checkpoint.py {path} TARGET --tensors-only model" in text


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "other classes"])
def test_a_foreign_checkpoint_is_refused(tmp_path, change):
    path = tmp_path / "foreign.pth"
    state = dict(network(1).state_dict())
    if change == "missing":
        del state["bottleneck.1.running_var"]
    elif change == "extra":
        state["projector.weight"] = torch.zeros(3)
    elif change == "shape":
        state["backbone.conv1.weight"] = torch.zeros(4, 3, 5, 5)
    else:
        state["head.weight"] = torch.zeros(7, 8)
    torch.save(state, path)
    named = {"missing": "running_var", "extra": "projector", "shape": "conv1", "other classes": "head of 7 classes"}[change]
    text = one_line(ValueError, path, lambda: load_classifier(network(), str(path)))
    assert change != "other classes" or "the data set 5:" in text
    assert named in one_line(ValueError, path, lambda: load_classifier(network(), str(path)))


def test_a_whole_other_network_is_refused_in_one_short_line(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({f"layer{i}.weight": torch.zeros(1) for i in range(300)}, path)
    assert "belongs to another network" in one_line(ValueError, path, lambda: load_classifier(network(), str(path)))


def test_safetensors_are_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file(dict(network(1).backbone.state_dict()), path)
    assert equal(network(1).backbone, read_weights(path))
    content = path.read_bytes()
    for broken in (b"", b"not one", content[: len(content) // 2], content[:20]):
        path.write_bytes(broken)
        assert "truncated or no safetensors" in one_line(ValueError, path, lambda: read_weights(path))


# ---- broken and malicious files --------------------------------------------------------------------------------------


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "gone.pth", tmp_path):
        one_line(FileNotFoundError, path, lambda path=path: read_weights(path))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"not a checkpoint\n", b"PK\x03\x04", b"<html>404</html>", bytes(4096), b"\x80\x02}q\x00."],
)
def test_files_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "strange.pth"
    path.write_bytes(content)
    one_line(ValueError, path, lambda: read_weights(path))


@pytest.mark.parametrize(
    "tree",
    [{}, [], torch.zeros(3), {"state_dict": {"a": torch.zeros(1)}}, {"a": torch.zeros(1), "epoch": 3}, "text"],
    ids=["empty", "list", "tensor", "nested", "mixed", "text"],
)
def test_what_is_no_flat_state_dict_is_refused(tmp_path, tree):
    path = tmp_path / "tree.pth"
    torch.save(tree, path)
    text = one_line(ValueError, path, lambda: read_weights(path))
    assert "flat state dict" in text and "tools/convert_checkpoint.py" in text
    assert not isinstance(tree, dict) or all(key in text for key in tree)
    read_tensors(path)  # readable, only not weights


def test_the_namespace_of_official_files_is_read_and_nothing_else_of_its_kind(tmp_path):
    """MAE's, DeiT's and DINO's files carry the argparse.Namespace of their command line."""
    path = tmp_path / "mae.pth"
    args = argparse.Namespace(model="mae_vit_base_patch16", lr=1e-3, betas=[0.9, 0.95], nested=argparse.Namespace(x=None))
    torch.save({"model": {"a": torch.ones(2)}, "args": args}, path)
    assert read_tensors(path)["args"] == args
    assert "holds model, args: tools/convert_checkpoint.py" in one_line(ValueError, path, lambda: read_weights(path))
    torch.save({"args": argparse.Namespace(folder=tmp_path)}, path)
    text = one_line(ValueError, path, lambda: read_tensors(path))
    assert "holds pathlib." in text and "refused" in text
    torch.save({"args": argparse.Namespace(bomb=Bomb(str(tmp_path / "crater")))}, path)
    assert "mkdir" in one_line(ValueError, path, lambda: read_tensors(path)) and not (tmp_path / "crater").exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert argparse.Namespace not in torch.serialization.get_safe_globals(), "allowed while one file is read, not for the process"


@pytest.fixture(scope="module", params=["zip", "legacy"])
def good_file(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.pth"
    torch.save(network(1).state_dict(), path, _use_new_zipfile_serialization=request.param == "zip")
    return path


def test_both_file_formats_load(good_file):
    model = network(2)
    load_classifier(model, str(good_file))
    assert equal(model, network(1).state_dict())


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_a_truncated_file_is_refused(good_file, tmp_path, fraction):
    content = good_file.read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(content[: int(len(content) * fraction)])
    one_line(ValueError, path, lambda: read_weights(path))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4)
)
def test_a_damaged_file_never_raises_anything_else(good_file, tmp_path, cut, flips):
    content = bytearray(good_file.read_bytes())
    for place, change in flips:
        # most of a small file is padding: damage its beginning and its end, where the structure is
        content[int(place * 2000) if place < 0.5 else -1 - int((place - 0.5) * 2000)] ^= change
    path = tmp_path / "damaged.pth"
    path.write_bytes(bytes(content[: int(len(content) * cut)] if cut < 0.5 else content))
    try:
        read_weights(path)
    except (ValueError, OSError) as error:
        assert str(path) in str(error) and "\n" not in str(error)


class Bomb:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch", "legacy", "pickle", "nested"])
def test_a_pickle_bomb_is_refused_and_never_goes_off(tmp_path, form):
    path, crater = tmp_path / "bomb.pth", tmp_path / "crater"
    bomb = {"weight": torch.zeros(2), "x": Bomb(str(crater))}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(str(crater))))
    else:
        torch.save(
            {"deep": [bomb]} if form == "nested" else bomb, path, _use_new_zipfile_serialization=form != "legacy"
        )
    for action in (
        read_tensors,
        read_weights,
        lambda p: load_classifier(network(), str(p)),
        lambda p: load_backbone(Backbone(), str(p)),
    ):
        assert "refused" in one_line(ValueError, path, lambda action=action: action(path))
    assert not crater.exists()
    if form == "torch":
        assert zipfile.is_zipfile(path)
        torch.load(path, weights_only=False)
        assert crater.exists(), "the bomb is live: without weights_only it does go off"


def test_a_checkpoint_of_each_release_still_loads_strictly():
    """tests/golden/release-<version>.pth: erm, test_vit, patch 4, depth 1, 8 pixels, bottleneck 8, 10 classes."""
    kept = sorted((Path(__file__).parent / "golden").glob("release-*.pth"))
    assert kept
    for path in kept:
        model = build_classifier("test_vit", 10, 8, bottleneck_dim=8, model_kwargs=["patch_size=4", "depth=1"])
        load_classifier(model, str(path))
        assert all(torch.equal(value, read_weights(path)[key]) for key, value in model.state_dict().items())


def test_a_file_without_checksums_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "it.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(network(1).state_dict(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    said = one_line(ValueError, path, lambda: read_tensors(path))
    assert "saved without checksums" in said and said.endswith("save it again with them)")
    torch.save(torch.load(path, weights_only=True), path)
    assert equal(network(1), read_tensors(path))
