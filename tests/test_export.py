"""Exports: every file is opened by the format's own library and gives the logits of the run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BN_FREE, TINY
from torch import nn

from ssl_bench import catalog, exported, launch, record
from ssl_bench.export import TOLERANCE, export, main
from ssl_bench.method import Task
from ssl_bench.models import Classifier
from ssl_bench.trained import METADATA, Trained, open_trained

NETWORKS = {
    "test_resnet with a bottleneck": ["fixmatch"],
    "test_resnet": ["fixmatch", "--bottleneck-dim", "0"],
    "test_vit": ["fixmatch", *BN_FREE],
    "convnext": ["fixmatch", *"--arch test_convnext --bottleneck-dim 0 --image-size 32".split()],
    "efficientnet": ["pseudo_label", *"--arch test_efficientnet --bottleneck-dim 0 --image-size 32".split()],
    "wrn": ["fixmatch", "--arch", "wrn_10_1"],
    "semi_vit": ["semi_vit", *BN_FREE],
    "semiformer": ["semiformer", *"--arch semiformer_tiny_patch4 --bottleneck-dim 0".split()],
    "mean_teacher": ["mean_teacher", "--bottleneck-dim", "0"],
    "dst": ["dst", "--width", "16", "--bottleneck-dim", "0"],
    "no pooling": ["erm", *BN_FREE, "--no-pool"],
    "flattened map": ["erm", *"--bottleneck-dim 0 --no-pool --image-size 64".split()],
    "no positions": ["erm", *BN_FREE, "--no-pos-embed"],
    "resnet18": ["erm", *"--arch resnet18 --bottleneck-dim 0".split()],
    "wrn_28_2": ["erm", *"--arch wrn_28_2".split()],
    "swin": ["erm", *"--arch swin_tiny_patch4_window7_224 --bottleneck-dim 0 --image-size 32 --model-kwargs depths=(1,1) num_heads=(1,2) embed_dim=16".split()],
    "mobilenet": ["erm", *"--arch mobilenetv3_small_050 --bottleneck-dim 0 --image-size 32".split()],
}
IN_TIMM = {"test_resnet", "test_vit", "convnext", "efficientnet", "semi_vit", "mean_teacher", "dst", "no pooling", "resnet18", "swin", "mobilenet"}
QUICK = {
    "safetensors": {"test_resnet with a bottleneck", "semiformer"},
    "torchscript": {"test_resnet with a bottleneck", "test_vit", "semiformer"},
    "timm": {*NETWORKS} - {"efficientnet", "dst", "no pooling"},
    "onnx": set(),  # 4 to 8 s each; one is exported below
}
SLOW = ("resnet18", "wrn_28_2", "swin", "mobilenet")
CASES = [
    pytest.param(format, name, marks=[] if name in few and name not in SLOW else pytest.mark.slow)
    for format, few in QUICK.items() for name in NETWORKS
]  # fmt: skip


def a_run(folder: Path, name: str, *flags: str) -> Path:
    """The folder of a finished run whose weights, of teachers and of BatchNorm too, are random."""
    method = catalog.load_method(name)
    args, recipe = launch.resolve(method, [*TINY, *flags, "--scratch", "--log", str(folder)])
    run = record.RunFolder(record.run_path(name, args))
    run.create(name, args, recipe.name, recipe.hash, 4, [f"<class {i}>" for i in range(10)])
    stage = method.stages(args)[-1]
    torch.manual_seed(0)
    built = method(stage.args, Task(10, 40, 100))
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1), nn.init.uniform_(module.running_var, 0.5, 2)
    if name == "mean_teacher":
        nn.init.normal_(built.teacher.model.head.weight)  # so that it is not the student
    run.save_weights("latest", built.evaluated().state_dict())
    run.finish({"method": name})
    return run.path


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """opened(name) -> Trained, of NETWORKS; made once."""
    made: dict[str, Trained] = {}

    def get(name: str) -> Trained:
        if name not in made:
            made[name] = open_trained(a_run(tmp_path_factory.mktemp("run"), *NETWORKS[name]))
        return made[name]

    return get


@pytest.mark.parametrize("format,name", CASES)
def test_an_export_gives_the_same_logits_or_is_refused(opened, tmp_path, format, name):
    trained, out = opened(name), tmp_path / "out"
    if format == "timm" and name not in IN_TIMM:
        with pytest.raises(ValueError, match="timm.*(--format|--backbone-only)"):
            export(trained, format, out)
        assert not list(tmp_path.iterdir())
        return
    difference, where = export(trained, format, out)
    assert 0 <= difference < TOLERANCE and where
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    x = exported.examples(trained, 5)
    path = out
    if format == "safetensors":
        path = out.rename(tmp_path / "out.safetensors")
    reader = getattr(exported, f"read_{format}")(path)
    torch.testing.assert_close(torch.from_numpy(reader(x.numpy())), trained.predict(x), rtol=1e-4, atol=1e-5)


def test_the_teacher_is_what_is_exported(opened, tmp_path):
    trained = opened("mean_teacher")
    export(trained, "torchscript", tmp_path / "out")
    x = exported.examples(trained, 4)
    y = torch.from_numpy(exported.read_torchscript(tmp_path / "out")(x.numpy()))
    with torch.no_grad():
        assert (y - trained.method.model(x)).abs().max() > 0.1
        torch.testing.assert_close(y, trained.method.teacher.model(x))


def test_timm_gets_names_and_preprocessing(opened, tmp_path):
    import timm

    export(opened("test_resnet"), "timm", tmp_path / "out")
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    config = timm.data.resolve_data_config({}, model=network)
    assert network.pretrained_cfg["label_names"][3] == "<class 3>" and network.num_classes == 10
    assert tuple(config["input_size"]) == (3, 8, 8) and tuple(config["mean"]) == (0.5, 0.5, 0.5) and config["interpolation"] == "bicubic"
    assert config["crop_pct"] == 1.0


def test_features_alone_for_a_network_with_a_bottleneck(opened, tmp_path):
    trained = opened("test_resnet with a bottleneck")
    export(trained, "timm", tmp_path / "out", backbone_only=True)
    x = exported.examples(trained, 2)
    network: Classifier = trained.method.evaluated()
    with torch.no_grad():
        features = network.backbone(x)
        torch.testing.assert_close(torch.from_numpy(exported.read_timm(tmp_path / "out")(x.numpy())), features)
        torch.testing.assert_close(network.head(network.bottleneck(features)), trained.predict(x))
    with pytest.raises(ValueError, match="backbone.\\*"):
        export(trained, "safetensors", tmp_path / "x", backbone_only=True)


@pytest.mark.slow
def test_files_describe_themselves(opened, tmp_path):
    import onnx

    trained = opened("test_resnet with a bottleneck")
    export(trained, "onnx", tmp_path / "out.onnx")
    export(trained, "torchscript", tmp_path / "out.pt")
    extra = {METADATA: ""}
    torch.jit.load(str(tmp_path / "out.pt"), _extra_files=extra)
    (entry,) = [prop.value for prop in onnx.load(tmp_path / "out.onnx").metadata_props if prop.key == METADATA]
    for text in (entry, extra[METADATA]):
        body = json.loads(text)
        assert body["classes"][3] == "<class 3>" and body["method"] == "fixmatch" and body["mean"] == [0.5, 0.5, 0.5]
        assert body["image_size"] == 8 and body["resizing"] == "cifar" and body["arch"] == "test_resnet"


def test_a_safetensors_file_needs_no_run_folder(opened, tmp_path):
    trained = opened("semiformer")
    export(trained, "safetensors", tmp_path / "alone.safetensors")
    alone = open_trained(tmp_path / "alone.safetensors")
    x = exported.examples(trained, 3)
    torch.testing.assert_close(alone.predict(x), trained.predict(x))
    assert alone.classes == trained.classes and alone.folder is None and not alone.notes


def test_a_file_that_gives_other_logits_is_not_kept(opened, tmp_path, monkeypatch):
    trained, out = opened("test_resnet"), tmp_path / "out.pt"
    export(trained, "torchscript", out)
    before = out.read_bytes()
    read = exported.read_torchscript
    monkeypatch.setattr(exported, "read_torchscript", lambda path: lambda x: 1.001 * read(path)(x))
    with pytest.raises(ValueError, match="gives other outputs for a batch of 1: 1.0e-03 of the largest"):
        export(trained, "torchscript", out)
    monkeypatch.setattr(exported, "read_torchscript", lambda path: lambda x: np.zeros((2, 10), np.float32))
    with pytest.raises(ValueError, match=r"gives \(2, 10\) for a batch of 1"):
        export(trained, "torchscript", out)
    assert [*tmp_path.iterdir()] == [out] and out.read_bytes() == before


def test_the_command(opened, tmp_path, capsys):
    folder = str(opened("test_resnet with a bottleneck").folder)
    assert main([folder, "--format", "safetensors", "--out", "new/x.safetensors"]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert main([folder, "--format", "timm", "--out", "t"]) == 1
    assert capsys.readouterr().err.startswith("ssl-bench export: error: timm has no place for the bottleneck") and not Path("t").exists()
    Path("mine").mkdir()
    Path("mine", "letter.txt").write_text("keep me")
    for format, out, message in (("timm", "mine", "no folder of timm's"), ("onnx", "mine", "is a folder")):
        assert main([folder, "--format", format, "--out", out]) == 1
        assert message in capsys.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]
    with pytest.raises(SystemExit) as stop:
        main([folder, "--format", "caffe", "--out", "t"])
    assert stop.value.code == 2


def test_without_onnx_one_line_names_the_extra(opened, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r'pip install "ssl-bench\[onnx\]"'):
        export(opened("test_resnet"), "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_network_in_other_precision_is_exported_in_full(opened, tmp_path):
    trained = opened("test_vit")
    half = dataclasses.replace(trained, args=dataclasses.replace(trained.args, precision="bf16"))
    export(half, "torchscript", tmp_path / "out")
    x = exported.examples(trained, 2)
    torch.testing.assert_close(torch.from_numpy(exported.read_torchscript(tmp_path / "out")(x.numpy())), trained.predict(x))


def test_files_are_readable_as_others_of_this_user(opened, tmp_path):
    for format, name in (("safetensors", "model.safetensors"), ("torchscript", "model.pt")):
        export(opened("test_vit"), format, str(tmp_path / name))
        (tmp_path / "plain").touch()
        assert (tmp_path / name).stat().st_mode == (tmp_path / "plain").stat().st_mode
