"""Semiformer's step against its definition; its phases as one run of the optimiser; evaluation of both streams; checkpoints, recipes."""

from __future__ import annotations

import copy
import json
import math
import shutil

import pytest
import torch
from conftest import LIVE, TINY, only_run, resolved

from ssl_bench import catalog, launch
from ssl_bench.feed import training_batches
from ssl_bench.record import read_jsonl
from ssl_bench.weights import read_tensors

SEMIFORMER = catalog.load_method("semiformer")
NORM = torch.nn.modules.batchnorm._BatchNorm


def a_batch(run):
    return next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0))


def smoothed(y, target, smoothing: float):
    """(1 - s) NLL + s mean over classes of -log p, each image's."""
    log_p = y.log_softmax(1)
    return -(1 - smoothing) * log_p.gather(1, target[:, None])[:, 0] - smoothing * log_p.mean(1)


def check_the_step_is_that_of_the_specification(tiny, *flags: str) -> None:
    run = tiny("semiformer", "--mu", "2", *flags)
    run.steps(2)
    batch, model = a_batch(run), copy.deepcopy(run.method.model)
    terms = {}

    class Loop:
        step, epoch = 2, 0

        def backward(self, loss, term):
            terms[term] = loss

    y_conv, y_trans = model.train()(torch.cat([batch.x_l[0], batch.x_u[1]]))
    with torch.no_grad():
        confidence, pseudo = model.eval()(batch.x_u[0])[0].softmax(1).max(1)
    run.args.threshold = confidence.sort().values[5].item()
    mask = (confidence >= run.args.threshold).float()
    assert mask.sum() == len(mask) - 5
    logged = run.method.train_step(batch, Loop())
    n, u = len(batch.y_l), len(pseudo)
    assert u == 2 * n
    supervised = sum(smoothed(y[:n], batch.y_l, 0.1).sum() / n for y in (y_conv, y_trans)) / 2
    smoothing = 0.1 if "--unlabel-smooth" in flags else 0.0
    unsupervised = sum((mask * smoothed(y[n:], pseudo, smoothing)).sum() / u for y in (y_conv, y_trans)) / 2
    wanted = supervised + run.args.trade_off_self_training * unsupervised
    assert terms["cls_loss + self_training_loss"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert logged["cls_loss"].item() == pytest.approx(supervised.item(), rel=1e-5)
    assert logged["kept"].item() == pytest.approx(mask.mean().item())


@pytest.mark.parametrize("flags", [[], ["--unlabel-smooth"]])
def test_the_step_is_that_of_the_specification(tiny, flags):
    check_the_step_is_that_of_the_specification(tiny, *flags)


def test_defaults_are_the_scripts():
    args = SEMIFORMER.Args()
    assert (args.trade_off_self_training, args.threshold, args.pseudo_source, args.unlabel_smooth) == (4.0, 0.7, "cnn", False)
    assert resolved("semiformer", "--semi-lambda", "10", "--pseudo-type", "fuse").trade_off_self_training == 10


def check_the_weak_pass_leaves_no_trace(tiny) -> None:
    """Its images differ, no label passes: every tensor, BatchNorm's statistics too, is the same afterwards."""
    after = []
    for scale in (1.0, 50.0):
        run = tiny("semiformer", "--threshold", "2")
        batch = a_batch(run)
        weak, strong = batch.x_u
        object.__setattr__(batch, "x_u", (scale * weak, strong))
        run.trainer.update(batch)
        after.append(run.weights())
    assert any("running_mean" in key for key in after[0])
    for key, value in after[0].items():
        assert torch.equal(value, after[1][key]), key


def test_the_weak_pass_leaves_no_trace(tiny):
    check_the_weak_pass_leaves_no_trace(tiny)


def check_one_forward_with_gradient_and_one_in_eval_mode(tiny) -> None:
    run = tiny("semiformer", "--mu", "3")
    seen = []
    run.method.model.register_forward_pre_hook(lambda net, inputs: seen.append((net.training, torch.is_grad_enabled(), len(inputs[0]))))
    run.steps(1)
    assert seen == [(True, True, 8 + 24), (False, False, 24)]
    assert run.method.model.training


def test_one_forward_with_gradient_and_one_in_eval_mode(tiny):
    check_one_forward_with_gradient_and_one_in_eval_mode(tiny)


def check_the_convolutional_streams_label_teaches_both(tiny) -> None:
    run = tiny("semiformer", "--threshold", "0")
    batch = a_batch(run)
    with torch.no_grad():
        run.method.model.conv_cls_head.bias[3] += 100
        run.method.model.trans_cls_head.bias[5] += 1
    run.method.model.eval()
    conv, trans = run.method.model(batch.x_u[0])
    assert (conv.argmax(1) == 3).all() and not (trans.argmax(1) == 3).all()
    run.method.model.train()
    grads = {}
    run.method.model.trans_cls_head.bias.register_hook(lambda g: grads.setdefault("trans", g.clone()))

    class Loop:
        step, epoch = 0, 0

        def backward(self, loss, term):
            loss.backward()

    run.method.train_step(batch, Loop())
    assert grads["trans"][3] < 0 and grads["trans"][3] == grads["trans"].min()  # towards the other stream's class


def test_the_convolutional_streams_label_teaches_both(tiny):
    check_the_convolutional_streams_label_teaches_both(tiny)


@pytest.mark.parametrize("stream", ["conv", "trans"])
def test_a_stream_alone_labels_for_itself(tiny, stream):
    run = tiny("semiformer", "--streams", stream, "--threshold", "0")
    logged = run.steps(2)[1]
    assert logged["self_training_loss"] > 0 and logged["kept"] == 1
    run.method.eval()
    assert list(run.method.predict(torch.zeros(1, 3, 8, 8))) == [""]


def test_without_units_the_streams_share_the_stem_and_the_labels(tiny):
    run = tiny("semiformer", "--remove-fcu")
    before = run.weights()
    run.steps(2)
    still = {key for key, value in run.weights().items() if torch.equal(value, before[key]) and "num_batches" not in key}
    assert still and all("squeeze_block" in key or "expand_block" in key for key in still)


# Two phases, one run of the optimiser


def a_finished_run(log, *more):
    argv = [*TINY, *LIVE["semiformer"], "--optimizer", "adamw", "--lr-scheduler", "half_cos", "--lr-warmup-epochs", "0.5", *more, "--log", str(log)]
    assert launch.run_command(SEMIFORMER, argv) == 0
    return only_run(log), argv


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return a_finished_run(tmp_path_factory.mktemp("semiformer"))


def test_the_optimiser_goes_on_and_the_schedule_too(finished):
    check_the_optimiser_goes_on_and_the_schedule_too(finished)


def check_the_optimiser_goes_on_and_the_schedule_too(finished) -> None:
    run, argv = finished
    args = resolved("semiformer", *argv)
    warmup, semi = SEMIFORMER.stages(args)
    last = read_tensors(run / "warmup" / "checkpoints" / f"state-{warmup.args.epochs * warmup.args.iters_per_epoch:08d}.pt")
    first = read_tensors(run / "semi" / "checkpoints" / f"state-{semi.args.iters_per_epoch:08d}.pt")
    steps = [state["optimizers"][0]["state"][0]["step"].item() for state in (last, first)]
    assert steps == [3, 3 + 3]
    rate = first["optimizers"][0]["param_groups"][0]["lr"]
    whole, at, warm = 9, 3 + 2, 1.5  # 1 + 2 epochs of 3 steps each; the third step of semi is the last one done
    assert rate == pytest.approx(0.01 * (1e-5 / 0.01 + (1 - 1e-5 / 0.01) * (1 + math.cos(math.pi * (at - warm) / (whole - warm))) / 2))
    assert (warmup.args.epochs_before, warmup.args.epochs_after, semi.args.epochs_before) == (0, 2, 1)


def test_a_position_head_goes_on_too(tmp_path):
    run, argv = a_finished_run(tmp_path / "a", "--positional", "apl", "--epochs", "1", "--lr", "1e-9", "--min-lr", "1e-9")
    states = [read_tensors(max((run / stage / "checkpoints").glob("state-*.pt")))["method"] for stage in ("warmup", "semi")]
    heads = [state["positional.fc1.weight"] for state in states]
    torch.testing.assert_close(*heads, rtol=0, atol=1e-6)


def test_a_first_phase_without_its_state_is_one_line(tmp_path, capsys):
    run, argv = a_finished_run(tmp_path)
    for file in [*(run / "warmup" / "checkpoints").glob("state-*"), run / "result.json"]:
        file.unlink()
    shutil.rmtree(run / "semi")
    assert launch.run_command(SEMIFORMER, argv) == 1
    assert "warmup has no state to go on from: remove its result.json" in capsys.readouterr().err.strip().splitlines()[-1]


def test_each_phase_has_its_batch(finished):
    run, _ = finished
    sizes = [json.loads((run / stage / "args.json").read_text())["args"]["batch_size"] for stage in ("warmup", "semi")]
    assert sizes == [16, 8]
    rows = [row for row in read_jsonl(run / "warmup" / "metrics.jsonl") if row["kind"] == "train"]
    assert rows and all("self_training_loss" not in row for row in rows)


def test_both_streams_are_recorded_beside_their_sum(finished, capsys):
    run, argv = finished
    row = json.loads((run / "result.json").read_text())["evaluations"][-1]
    assert {"top1", "conv_top1", "trans_top1", "conv_loss", "trans_mean_class"} <= {*row}
    assert launch.run_command(SEMIFORMER, [*argv, "--phase", "test", "--resume", "latest"]) == 0
    again = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert again == {key: row[key] for key in again} and set(again) == {*row} - {"step", "epoch"}


def test_the_headline_is_the_sum_of_the_logits(tiny):
    run = tiny("semiformer")
    run.method.eval()
    x = torch.randn(4, 3, 8, 8)
    y = run.method.predict(x)
    torch.testing.assert_close(y[""], y["conv"] + y["trans"])
    torch.testing.assert_close(torch.stack([y["conv"], y["trans"]]), torch.stack(run.method.model(x)))


@pytest.mark.parametrize("wrapped", ["raw", "model", "training"])
def test_a_published_file_is_evaluated(finished, tmp_path, capsys, wrapped):
    import argparse

    run, argv = finished
    weights = read_tensors(run / "checkpoints" / "latest.pth")
    tree = {"raw": weights, "model": {"model": weights}, "training": {
        "model": weights, "optimizer": {}, "lr_scheduler": {}, "epoch": 599, "model_ema": weights, "args": argparse.Namespace(lr=1e-3)}}  # fmt: skip
    torch.save(tree[wrapped], tmp_path / "semiformer.pth")
    assert launch.run_command(SEMIFORMER, [*argv, "--phase", "test", "--resume", str(tmp_path / "semiformer.pth")]) == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    row = json.loads((run / "result.json").read_text())["evaluations"][-1]
    assert found["top1"] == row["top1"] and found["conv_top1"] == row["conv_top1"]


def test_the_published_network_takes_the_published_keys_at_the_door(tmp_path, capsys):
    """A state dict of the published network, of another number of classes than the data's, is refused by what differs."""
    from ssl_bench.nets.semiformer import NETWORKS

    torch.save(NETWORKS["semiformer_tiny_patch4"](num_classes=7).state_dict(), tmp_path / "seven.pth")
    argv = [*TINY, *LIVE["semiformer"], "--phase", "test", "--resume", str(tmp_path / "seven.pth")]
    assert launch.run_command(SEMIFORMER, argv) == 1
    assert "has a head of 7 classes" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "text", "code"), [
    (["--arch", "resnet50"], "--arch resnet50 is no two-stream network", 1),
    (["--image-size", "12"], "takes images whose side is a multiple of 8, not 12: change --image-size", 1),
    (["--stages", "semi", "warmup"], "each once, in this order", 2),
    (["--bottleneck-dim", "16"], "--bottleneck-dim", 1),
    (["--no-pos-embed"], "has no position embedding to leave out", 1),
    (["--lr-scheduler", "exp"], "semi: --lr-scheduler exp counts steps", 1),
    (["--warmup-batch-size", "7", "--accumulate", "2"], "must divide --warmup-batch-size 7: use 6 or 8", 1),
    (["--model-kwargs", "base_channel=0"], "base_channel must be 1 or more", 1),
    (["--model-kwargs", "nonsense=1"], "--arch semiformer_tiny_patch4 refuses its arguments", 1),
    (["--arch", "semiformer:test_convnext+test_vit", "--image-size", "36", "--model-kwargs", "vit_patch_size=8"], "patches of 8x8 do not divide 36x36", 1),
    (["--arch", "semiformer:test_convnext+test_vit", "--image-size", "32", "--model-kwargs", "vit_patch_size=8", "vit_global_pool="], "no vector of features", 1),
    (["--arch", "semiformer:test_convnext+test_vit", "--image-size", "32", "--model-kwargs", "base_channel=8"], "a recipe may set it", 1),
    (["--arch", "semiformer:test_convnex+test_vit"], "did you mean test_convnext", 1),
])  # fmt: skip
def test_what_cannot_be_is_one_line(capsys, flags, text, code):
    assert launch.run_command(SEMIFORMER, [*TINY, *LIVE["semiformer"], *flags]) == code
    assert text in capsys.readouterr().err.strip().splitlines()[-1]


def test_other_methods_say_who_takes_two_streams(capsys):
    assert launch.run_command(catalog.load_method("erm"), [*TINY, "--arch", "semiformer_tiny_patch4"]) == 1
    assert "--arch semiformer_tiny_patch4 has two streams of logits: it is for the method semiformer" in capsys.readouterr().err


# Recipes

SCRIPTS = {  # epochs, GPUs, labelled images a GPU, learning rate, smoothing: of the specification's table
    "1to5_300ep_16gpus": (300, 16, 18, 1e-3, False), "1to7_300ep_16gpus": (300, 16, 13, 1e-3, False),
    "1to7_smooth_600ep_32gpus": (600, 32, 13, 1e-3, True), "1to7_600ep_8gpus": (600, 8, 13, 1e-3, False),
    "1to7_600ep_32gpus": (600, 32, 13, 4e-3, False), "ddp_example_600ep_8gpus": (600, 8, 13, 1e-3, True),
}  # fmt: skip
LABELED = 128_116


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_the_published_scripts(recipe):
    epochs, gpus, labeled, lr, smooth = SCRIPTS[recipe]
    args = resolved("semiformer", "data/imagenet", "-d", "ImageNet", "--recipe", recipe)
    warmup, semi = (stage.args for stage in SEMIFORMER.stages(args))
    own = math.ceil(LABELED / gpus)
    assert warmup.epochs * warmup.iters_per_epoch == 30 * (own // 108)
    assert semi.epochs * semi.iters_per_epoch == (epochs - 30) * (own // labeled)
    assert (warmup.batch_size, semi.batch_size, semi.mu) == (108 * gpus, labeled * gpus, 5 if labeled == 18 else 7)
    assert (semi.lr, semi.unlabel_smooth, semi.threshold, semi.trade_off_self_training) == (lr, smooth, 0.7, 4.0)
    whole = semi.epochs_before + semi.epochs
    assert warmup.lr_warmup_epochs / whole == semi.lr_warmup_epochs / whole == 5 / epochs
    assert (semi.min_lr, semi.wd, semi.drop_path, semi.erasing, semi.crop_scale) == (1e-5, 0.05, 0.1, 0.25, 0.08)
    assert semi.unlabeled_all and semi.auto_augment == "rand-m9-mstd0.5-inc1" and semi.val_resizing == "short"
    assert SEMIFORMER(semi, launch.Task(10, 40, 100)).unlabeled_views == ("weak_short", "strong") if recipe == "1to5_300ep_16gpus" else True


def test_the_published_budgets():
    for recipe, steps in (("1to7_600ep_8gpus", 706_110), ("1to7_600ep_32gpus", 176_670)):
        stages = SEMIFORMER.stages(resolved("semiformer", "data/imagenet", "-d", "ImageNet", "--recipe", recipe))
        assert sum(stage.args.epochs * stage.args.iters_per_epoch for stage in stages) == steps


def check_positions_of_the_transformer_stream(tiny) -> None:
    run = tiny("semiformer", "--positional", "apl", "--positional-weight", "1")
    first = run.steps(1)[0]
    assert first["position_loss"] == pytest.approx(math.log(4), rel=0.05)
    assert run.method.positional.classifier.out_features == 4


def test_positions_of_the_transformer_stream(tiny):
    check_positions_of_the_transformer_stream(tiny)
