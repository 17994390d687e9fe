"""Weights from files: TLlib's checkpoints load, foreign, broken and malicious files are refused by name."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ssl_bench.models import Classifier, bottleneck, build_classifier
from ssl_bench.weights import load_backbone, load_classifier, read_tensors, read_weights


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


# ---- backbones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", ["", "fc", "head", "classifier"])
def test_backbone_file_with_or_without_a_classifier(tmp_path, classifier):
    path = str(tmp_path / "backbone.pth")
    state = dict(network(1).backbone.state_dict())
    if classifier:
        state |= {f"{classifier}.weight": torch.zeros(1000, 6), f"{classifier}.bias": torch.zeros(1000)}
    torch.save(state, path)
    model = network(2)
    report = load_backbone(model.backbone, path)
    assert equal(model.backbone, state)
    total = len(model.backbone.state_dict())
    left = f"; left aside: {classifier}.* (2)" if classifier else ""
    assert report == f"{total} of {total} backbone tensors loaded{left}"


@pytest.mark.parametrize("theirs", [False, True])
def test_the_backbone_of_a_whole_checkpoint_is_taken(tmp_path, theirs):
    """latest.pth of this suite, and TLlib's with its backbone.fc and a second head: what is not the backbone is named."""
    path = str(tmp_path / "latest.pth")
    state = dict(network(1).state_dict())
    if theirs:
        state |= {"backbone.fc.weight": torch.zeros(1000, 6), "pseudo_head.0.weight": torch.zeros(5, 8)}
    torch.save(state, path)
    model = network(2)
    report = load_backbone(model.backbone, path)
    assert equal(model.backbone, network(1).backbone.state_dict()) and torch.equal(model.head.weight, network(2).head.weight)
    count = len(model.backbone.state_dict())
    assert report.startswith(f"{count} of {count} backbone tensors loaded; left aside: ")
    names = ["bottleneck.* (7)", "head.* (2)", *(["backbone.* (1)", "pseudo_head.* (1)"] if theirs else [])]
    assert all(name in report for name in names)


def test_a_classifier_by_another_name_is_left_aside_where_the_network_says_so(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({**network(1).backbone.state_dict(), "classif.weight": torch.zeros(2, 2)}, path)
    assert "'classif.weight'" in one_line(ValueError, path, lambda: load_backbone(Backbone(), str(path)))
    assert load_backbone(Backbone(), str(path), ("classif",)).endswith("; left aside: classif.* (1)")


def test_a_whole_timm_file_fits_whatever_its_classifier_is_called(tmp_path, capsys):
    for arch, name in {"test_efficientnet": "classifier", "test_vit": "head", "test_resnet": "fc", "test_convnext": "head"}.items():
        path = str(tmp_path / f"{arch}.pth")
        torch.save(timm.create_model(arch, num_classes=4, **({"img_size": 32} if arch == "test_vit" else {})).state_dict(), path)
        build_classifier(arch, 3, 32, bottleneck_dim=0, pretrained_backbone=path)
        assert f"left aside: {name}.* (2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arch", "size", "words"), [("test_vit", 32, "10x10 to 2x2"), ("deit_tiny_distilled_patch16_224", 48, "14x14 to 3x3")]
)
def test_a_position_embedding_is_resampled_to_the_images_asked_for(tmp_path, capsys, arch, size, words):
    path = str(tmp_path / "vit.pth")
    torch.manual_seed(3)
    there = timm.create_model(arch, num_classes=0, depth=1).state_dict()
    torch.save(there, path)
    built = build_classifier(arch, 3, size, bottleneck_dim=0, model_kwargs=["depth=1"], pretrained_backbone=path).backbone
    assert f"tensors loaded, position embedding resampled from {words} patches" in capsys.readouterr().out
    first = built.num_prefix_tokens
    assert torch.equal(built.pos_embed[:, :first], there["pos_embed"][:, :first])
    assert torch.equal(built.cls_token, there["cls_token"])
    assert not torch.equal(built.pos_embed[:, first:], there["pos_embed"][:, first : built.pos_embed.shape[1]])


def test_a_position_embedding_of_another_width_is_a_wrong_shape(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(timm.create_model("test_vit", num_classes=0, depth=1, embed_dim=32).state_dict(), path)
    build = lambda: build_classifier("test_vit", 3, 160, model_kwargs=["depth=1"], pretrained_backbone=str(path))
    text = one_line(ValueError, path, build)
    assert "'cls_token': (1, 1, 32) in the file, (1, 1, 64) in the network" in text


def test_safetensors_are_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file(dict(network(1).backbone.state_dict()), path)
    model = network(2)
    load_backbone(model.backbone, str(path))
    assert equal(model.backbone, network(1).backbone.state_dict())
    content = path.read_bytes()
    for broken in (b"", b"not one", content[: len(content) // 2], content[:20]):
        path.write_bytes(broken)
        assert "truncated or no safetensors" in one_line(ValueError, path, lambda: read_weights(path))


def test_backbone_file_of_old_torchvision_without_counters(tmp_path):
    path = str(tmp_path / "old.pth")
    state = {
        key: value for key, value in network(1).backbone.state_dict().items() if not key.endswith("num_batches_tracked")
    }
    torch.save(state, path)
    model = network(2)
    assert load_backbone(model.backbone, path) == f"{len(state)} of {len(state) + 1} backbone tensors loaded"
    assert torch.equal(model.backbone.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda state: {f"module.encoder_q.{key}": value for key, value in state.items()},
            "module.encoder_q.* (9), the backbone's bn1.* (5), conv1.* (2), layer1.* (2); tools/convert_checkpoint.py",
        ),
        (
            lambda state: {key: value for key, value in state.items() if key != "layer1.0.bias"},
            "1 keys missing, the first is 'layer1.0.bias'",
        ),
        (
            lambda state: state | {"bn1.running_mean": torch.zeros(5)},
            "1 keys differently shaped, the first is 'bn1.running_mean': (5,) in the file, (4,) in the network",
        ),
        (lambda state: state | {"layer9.weight": torch.zeros(5)}, "1 keys unknown, the first is 'layer9.weight'"),
        (lambda state: {"fc.weight": torch.zeros(2, 2)}, "has nothing for this backbone: its 1 tensors are named fc.* (1)"),
        (lambda state: {f"backbone.{key}": value for key, value in state.items()}, "named backbone.* (9)"),
    ],
)
def test_a_wrong_backbone_file_is_refused_and_touches_nothing(tmp_path, change, says):
    path = tmp_path / "wrong.pth"
    torch.save(change(dict(network(1).backbone.state_dict())), path)
    model = network(2)
    assert says in one_line(ValueError, path, lambda: load_backbone(model.backbone, str(path)))
    assert equal(model, network(2).state_dict())


def test_building_with_a_backbone_file_says_what_fitted(tmp_path, capsys):
    path = tmp_path / "backbone.pth"
    torch.manual_seed(5)
    source = build_classifier("test_resnet", 3, 32, bottleneck_dim=4).backbone.state_dict()
    torch.save(source, path)
    built = build_classifier("test_resnet", 9, 32, bottleneck_dim=4, pretrained_backbone=str(path))
    assert equal(built.backbone, source)
    assert f"{path}: {len(source)} of {len(source)} backbone tensors loaded" in capsys.readouterr().out


@pytest.mark.parametrize("pool", [True, False])
def test_a_backbone_file_fits_with_and_without_pooling(tmp_path, pool):
    """--no-pool changes what is done with the features, not the weights of the backbone."""
    path = tmp_path / "backbone.pth"
    torch.manual_seed(5)
    source = build_classifier("test_resnet", 3, 32, bottleneck_dim=4).backbone.state_dict()
    torch.save(source, path)
    built = build_classifier("test_resnet", 3, 32, bottleneck_dim=4, pool=pool, pretrained_backbone=str(path))
    assert sum(
        torch.equal(a, b) for a, b in zip(built.backbone.state_dict().values(), source.values(), strict=True)
    ) == len(source)


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
