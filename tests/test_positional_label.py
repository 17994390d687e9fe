"""Positional labels as a method: its recipes against the publication, its stages, its checkpoints in other methods, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import BN_FREE, LIVE, TINY, only_run, resolved
from test_weights import one_line

from ssl_bench import catalog, launch
from ssl_bench.feed import training_batches
from ssl_bench.method import Task
from ssl_bench.models import build_classifier
from ssl_bench.pretrained import load_backbone
from ssl_bench.record import read_jsonl
from ssl_bench.weights import read_tensors, read_weights

POSITIONAL = catalog.load_method("positional_label")
CPU = torch.device("cpu")

# ---- recipes ---------------------------------------------------------------------------------------------------------

IMAGES = {"ImageNet": 1_281_167, "MiniImageNet": 50_000}
PUBLISHED = {  # epochs, warm-up, CutMix's alpha, images a GPU, drop path: section 4 of the specification, two GPUs
    "vit_base_apl": (150, 10, 0.0, 256, 0.0),
    "vit_base_rpl": (150, 10, 0.0, 256, 0.0),
    "swin_tiny_rpl": (150, 20, 1.0, 320, 0.2),
}


@pytest.mark.parametrize("data", IMAGES)
@pytest.mark.parametrize("recipe", PUBLISHED)
def test_the_published_settings(recipe, data):
    epochs, warmup, cutmix, each, drop_path = PUBLISHED[recipe]
    args = resolved("positional_label", "data", "-d", data, "--recipe", recipe)
    batch = 2 * each
    assert (args.epochs, args.lr_warmup_epochs, args.batch_size, args.drop_path) == (epochs, warmup, batch, drop_path)
    assert args.lr == pytest.approx(5e-4 * batch / 512) and args.min_lr == pytest.approx(5e-6 * batch / 512)
    assert args.iters_per_epoch == IMAGES[data] // batch
    assert (args.mixup, args.cutmix, args.switch_prob, args.mixup_mode, args.disable_x_mixup) == (0.8, cutmix, 0.5, "batch", False)
    assert (args.optimizer, args.beta2, args.wd, args.clip_grad, args.lr_scheduler) == ("adamw", 0.999, 0.05, 5.0, "half_cos")
    assert (args.layer_decay, args.label_smoothing, args.precision, args.scratch) == (1.0, 0.1, "fp16", True)
    assert (args.auto_augment, args.erasing, args.color_jitter) == ("rand-m9-mstd0.5-inc1", 0.25, 0.0)
    assert (args.crop_scale, args.hflip, args.image_size, args.train_resizing, args.val_resizing) == (0.08, 0.5, 224, "default", "short")
    assert (args.positional, args.positional_weight, args.images) == (recipe[-3:], 0.5, "labeled")
    assert args.all_labeled and args.stages == ("train",)
    assert args.pairs_per_image == (2401 if recipe == "vit_base_rpl" else 0)
    assert (args.pos_embed, args.conditional_positions) == ((False, True) if "swin" in recipe else (True, False))
    assert args.head_init_std == (0.02 if "swin" in recipe else 0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "parameters", "classes"), [("vit_base_apl", 86_825_708, 196), ("swin_tiny_rpl", 28_817_393, 169)])
def test_the_published_networks(monkeypatch, recipe, parameters, classes):
    for name in ("trunc_normal_", "kaiming_uniform_"):  # only counted here, and drawing 87 million numbers takes seconds
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor.data.zero_())
    args = resolved("positional_label", "data", "-d", "ImageNet", "--recipe", recipe)
    method = POSITIONAL(args, Task(num_classes=1000, num_labeled=1_281_167, num_unlabeled=0))
    assert sum(value.numel() for value in method.parameters()) == parameters
    assert method.positional.classifier.out_features == classes and method.unlabeled_views == ()


# ---- images and stages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "seen"), [("labeled", [8]), ("both", [8, 24])])
def test_whose_tokens_are_placed(tiny, images, seen):
    run = tiny("positional_label", "--mu", "3", "--images", images)
    batch = next(training_batches(run.method, run.pools, run.args, CPU, 0))
    assert [len(x) for x in (*batch.x_l, *batch.x_u)] == seen and len(batch.idx_u) == sum(seen[1:])
    placed = []
    run.method.positional.register_forward_pre_hook(lambda _, inputs: placed.append(len(inputs[0])))
    run.steps(1)
    assert placed == [sum(seen)]


class Losses:
    """A loop that only keeps the terms."""

    step = epoch = 0

    def __init__(self) -> None:
        self.terms: dict[str, torch.Tensor] = {}

    def backward(self, loss: torch.Tensor, term: str) -> None:
        self.terms[term] = loss


def gradients_of_a_step(run) -> dict[str, set[str]]:
    """Term -> which parts of the network it has a gradient in."""
    loop = Losses()
    batch, _ = run.method.before_step(next(training_batches(run.method, run.pools, run.args, CPU, 0)), loop)
    run.method.train_step(batch, loop)
    run.method.position_step(loop)
    weights = {name: value for name, value in run.method.model.named_parameters()}
    reached = {}
    for term, loss in loop.terms.items():
        found = torch.autograd.grad(loss, [*weights.values()], retain_graph=True, allow_unused=True)
        reached[term] = {name.split(".")[0] for name, value in zip(weights, found, strict=True) if value is not None and value.any()}
    return reached


@pytest.mark.parametrize(("stage", "wanted"), [("pretext", {"head"}), ("train", {"backbone", "head"})])
def test_in_a_pretext_positions_alone_move_the_backbone(tiny, stage, wanted):
    reached = gradients_of_a_step(tiny("positional_label", "--stages", stage))
    assert reached == {"cls_loss": wanted, "position_loss": {"backbone"}}


def test_a_pretext_mixes_no_images(tiny):
    for stage, same in (("pretext", True), ("train", False)):
        run = tiny("positional_label", "--stages", stage)
        raw = next(training_batches(run.method, run.pools, run.args, CPU, 0))
        batch, _ = run.method.before_step(raw, Losses())
        assert torch.equal(batch.x_l[0], raw.x_l[0]) == same


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A pretext and the training after it: its run folder and its command line."""
    log = tmp_path_factory.mktemp("positional_label")
    argv = [*TINY, *LIVE["positional_label"], "--stages", "pretext", "train", "--pretext-epochs", "1", "--epochs", "1", "--log", str(log)]
    assert launch.run_command(POSITIONAL, argv) == 0
    return only_run(log), argv


def test_a_pretext_hands_its_backbone_on_and_no_head(finished):
    run, argv = finished
    assert [len(read_jsonl(run / stage / "metrics.jsonl")) for stage in ("pretext", "train")] == [3, 3]
    pretext = read_weights(run / "pretext" / "checkpoints" / "latest.pth")
    _, stage = POSITIONAL.stages(resolved("positional_label", *argv))
    torch.manual_seed(7)
    method = POSITIONAL(stage.args, Task(10, 40, 1257))
    head = {name: value.clone() for name, value in method.state_dict().items() if not name.startswith("model.backbone")}
    method.load_previous(pretext, {})
    now = method.state_dict()
    for name, value in pretext.items():
        assert torch.equal(now[f"model.{name}"], value) == name.startswith("backbone."), name
    assert all(torch.equal(now[name], value) for name, value in head.items())
    state = read_tensors(run / "train" / "checkpoints" / "state-00000003.pt")
    assert len(state["optimizers"][0]["state"]) and all(each["step"] == 3 for each in state["optimizers"][0]["state"].values() if "step" in each)


def test_a_pretext_is_a_backbone_for_any_method(finished, tmp_path, capsys):
    file = finished[0] / "pretext" / "checkpoints" / "latest.pth"
    argv = [*TINY, *BN_FREE, "--pretrained-backbone", str(file), "--epochs", "1", "--log", str(tmp_path / "erm")]
    assert launch.run_command(catalog.load_method("erm"), argv) == 0
    out = capsys.readouterr().out
    count = sum(name.startswith("backbone.") for name in read_weights(file))
    assert f"{count} of {count} backbone tensors loaded; left aside: head.* (2)" in out


def test_a_run_is_not_continued_with_another_grid(tiny):
    square, other = (tiny("positional_label", "--model-kwargs", f"patch_size={patch}") for patch in ("(2,2)", "(1,4)"))
    assert square.method.positional.classifier.out_features == other.method.positional.classifier.out_features == 16
    with pytest.raises(ValueError, match="the checkpoint was made with other arguments"):
        other.trainer.load_state_dict(square.trainer.state_dict({}), {})


@pytest.mark.parametrize(("flags", "cells"), [(["--model-kwargs", "patch_size=(2,4)"], (4, 2)), (["--model-kwargs", "patch_size=2"], (4, 4))])
def test_the_grid_is_the_networks(tiny, flags, cells):
    for kind, classes in (("apl", cells[0] * cells[1]), ("rpl", (2 * cells[0] - 1) * (2 * cells[1] - 1))):
        run = tiny("positional_label", "--positional", kind, *flags)
        assert run.method.positional.classifier.out_features == classes
        assert run.steps(1)[0]["position_loss"] == pytest.approx(0.5 * math.log(classes), rel=0.05)


# ---- files of the publication's names --------------------------------------------------------------------------------

NO_CLASS_TOKEN = "class_token=False global_pool=avg fc_norm=False depth=1 embed_dim=16 num_heads=2".split()


def backbone_of(size: int, patch: str, *more: str, file=None):
    kwargs = [*(more or NO_CLASS_TOKEN), f"patch_size={patch}"]
    return build_classifier("test_vit", 5, size, bottleneck_dim=0, model_kwargs=kwargs, pretrained_backbone=file and str(file)).backbone


@pytest.fixture
def published_file(tmp_path):
    """A miniature of their ViT with APL: 196 positions, no class token, the classifier of places beside that of classes."""
    torch.manual_seed(3)
    tensors = dict(backbone_of(224, "16").state_dict())
    for name, shape in {"To2D.fc1": (8, 8), "To2D.fc2": (4, 8), "head_coordinate": (196, 4), "head": (1000, 16)}.items():
        tensors |= {f"{name}.weight": torch.zeros(shape), f"{name}.bias": torch.zeros(shape[0])}
    assert tensors["pos_embed"].shape == (1, 196, 16)
    torch.save({"model": tensors, "epoch": 149}, tmp_path / "apl.pth")
    return tmp_path / "apl.pth", tensors


def test_a_published_file_is_a_backbone_and_its_classifier_of_places_is_left_aside(published_file, capsys):
    file, tensors = published_file
    backbone = backbone_of(224, "16", file=file)
    own = backbone.state_dict()
    assert all(torch.equal(value, tensors[name]) for name, value in own.items())
    out = capsys.readouterr().out
    assert f"{len(own)} of {len(own)} backbone tensors loaded; left aside: To2D.* (4), head_coordinate.* (2), head.* (2)" in out
    assert "a classifier of 1000 classes" in out


@pytest.mark.parametrize(("size", "patch", "grid"), [(32, "(2,4)", (16, 8)), (56, "(2,8)", (28, 7)), (56, "4", (14, 14))])
def test_its_square_positions_are_resampled_to_another_grid_even_of_as_many_cells(published_file, capsys, size, patch, grid):
    from timm.layers import resample_abs_pos_embed

    file, tensors = published_file
    backbone = backbone_of(size, patch, file=file)
    assert backbone.patch_embed.grid_size == grid
    wanted = resample_abs_pos_embed(tensors["pos_embed"], new_size=[*grid], old_size=[14, 14], num_prefix_tokens=0)
    assert torch.equal(backbone.pos_embed, tensors["pos_embed"] if grid == (14, 14) else wanted)
    out = capsys.readouterr().out
    assert (f"position embedding resampled from 14x14 to {grid[0]}x{grid[1]} patches" in out) == (grid != (14, 14))


def test_positions_of_a_rectangular_grid_go_to_a_network_of_the_same_patches(tmp_path, capsys):
    torch.manual_seed(4)
    there = backbone_of(32, "(2,4)")
    torch.save(there.state_dict(), tmp_path / "rectangular.pth")
    same = backbone_of(32, "(2,4)", file=tmp_path / "rectangular.pth")
    assert torch.equal(same.pos_embed, there.pos_embed) and "resampled" not in capsys.readouterr().out
    backbone_of(16, "(2,4)", file=tmp_path / "rectangular.pth")
    assert "position embedding resampled from 16x8 to 8x4 patches" in capsys.readouterr().out
    backbone_of(32, "(4,2)", file=tmp_path / "rectangular.pth")
    assert "position embedding resampled from 16x8 to 8x16 patches" in capsys.readouterr().out


def test_positions_that_no_square_image_has_are_refused(published_file, tmp_path):
    _, tensors = published_file
    file = tmp_path / "wide.pth"
    torch.save(tensors | {"pos_embed": torch.zeros(1, 128, 16)}, file)
    network = backbone_of(32, "(2,4)")
    text = one_line(ValueError, file, lambda: load_backbone(network, str(file)))
    assert "a position each for 128 patches, which are no grid of a square image, and the network's are 16x8" in text


def test_its_network_has_no_class_token(published_file):
    file, _ = published_file
    text = one_line(ValueError, file, lambda: backbone_of(224, "16", "depth=1", "embed_dim=16", "num_heads=2", file=file))
    assert "1 keys missing, the first is 'cls_token'" in text


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "text", "code"), [
    (["--positional", "none"], "--positional", 2),
    (["--stages", "train", "pretext"], "each once, in this order", 2),
    (["--batch-size", "7"], "--batch-size 7 is odd, and mixup pairs the images of a batch: use an even one", 2),
    (["--min-lr", "0.5"], "--min-lr 0.5 is above --lr", 2),
    (["--images", "unlabeled"], "--images", 2),
    (["--pairs-per-image", "9"], "--pairs-per-image is of --positional rpl", 1),
    (["--model-kwargs", "patch_size=8"], "no grid of several: change --image-size or the patch size", 1),
])  # fmt: skip
def test_what_cannot_be_is_one_line(capsys, flags, text, code):
    assert launch.run_command(POSITIONAL, [*TINY, *LIVE["positional_label"], *flags]) == code
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("positional_label: error: ") and text in error[-1]
