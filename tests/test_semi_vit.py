"""Semi-ViT's step against independent references, its stages, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import BN_FREE, LIVE, TINY, only_run
from test_contract import assert_trees_equal
from test_methods import softmax

from ssl_bench import catalog, launch, mixup, record
from ssl_bench.feed import training_batches
from ssl_bench.record import read_jsonl
from ssl_bench.streams import MIX, random_of
from ssl_bench.weights import read_tensors, read_weights

SemiViT = catalog.load_method("semi_vit")
VIT = [*BN_FREE, "--lambda-u", "5", "--mu", "2", "--auto-augment", "", "--erasing", "0"]


class Step:
    """The last stage's next step on a real batch, by hand: what is trained on, what was logged, and each loss."""

    def __init__(self, run, step: int = 0) -> None:
        self.step, self.epoch, self.losses = step, step // run.args.iters_per_epoch, {}
        self.raw = next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), step))
        self.batch, self.logged = run.method.before_step(self.raw, self)
        run.method.train_step(self.batch, self)

    def backward(self, loss: torch.Tensor, term: str) -> None:
        self.losses[term] = loss.item()


def middling(tiny, share: float) -> float:
    """A threshold that `share` of the first batch's pseudo-labels do not reach."""
    run = tiny("semi_vit", *VIT)
    with torch.no_grad():
        confidence = run.method.teacher(Step(run).raw.x_u[0]).softmax(dim=1).amax(dim=1)
    return round(confidence.quantile(share).item(), 6)


@pytest.mark.parametrize("kind", ["none", "mixup", "prob"])
def test_the_unlabelled_loss_is_the_papers(tiny, kind):
    threshold = middling(tiny, 0.7)
    run = tiny("semi_vit", *VIT, "--threshold", str(threshold), "--pseudo-mixup", kind, "--pseudo-smoothing", "0.2", "--lambda-u", "3")
    step = Step(run)
    x_u, x_u_strong = step.raw.x_u
    with torch.no_grad():
        p = softmax(run.method.teacher.model.eval()(x_u).numpy().astype(np.float64))
    confidence, pseudo = p.max(axis=1), p.argmax(axis=1)
    draws = random_of(run.args.seed, MIX, 0)
    settings = {"mixup": 0.8, "cutmix": 1.0, "random": draws}
    mixup.draw_mixup(8, **settings)  # of the labelled images, drawn first
    target = 0.2 / 10 + 0.8 * np.eye(10)[pseudo]
    sure, x = confidence, x_u_strong
    if kind != "none":
        mix = mixup.draw_pseudo_mixup(16, **settings) if kind == "prob" else mixup.draw_mixup(16, **settings)
        j = mix.partner.numpy()
        weight = confidence / (confidence + confidence[j]) if kind == "prob" else mix.weight.numpy()
        x, share = mixup.blend(x_u_strong, x_u_strong[mix.partner], torch.from_numpy(weight), mix.cut, mix.centre)
        share = share.numpy()[:, None]
        target = share * target + (1 - share) * target[j]
        sure = np.maximum(confidence, confidence[j]) if kind == "prob" else confidence
    torch.testing.assert_close(step.batch.x_u[0], x)
    mask = sure >= threshold
    assert 0 < mask.sum() < 16
    with torch.no_grad():
        log_q = np.log(softmax(run.method.model(x).numpy().astype(np.float64)))
    expected = 3 * (mask * -(target * log_q).sum(axis=1)).mean()
    assert step.losses["self_training_loss"] == pytest.approx(expected, rel=1e-5)
    assert step.logged["kept"].item() == pytest.approx((confidence >= threshold).mean())
    assert step.logged["kept_pairs"].item() == pytest.approx(mask.mean())


def test_the_labelled_loss_is_soft_cross_entropy_of_the_mixed_images(tiny):
    run = tiny("semi_vit", *VIT, "--mixup-mode", "elem", "--label-smoothing", "0.3")
    step = Step(run)
    mix = mixup.draw_mixup(8, mixup=0.8, cutmix=1.0, mode="elem", random=random_of(run.args.seed, MIX, 0))
    x, q = mixup.mix_batch(step.raw.x_l[0], step.raw.y_l, mix, 10, 0.3)
    with torch.no_grad():
        expected = -(q * run.method.model(x).log_softmax(dim=1)).sum(dim=1).mean()
    assert step.losses["cls_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_images_below_the_threshold_stay_in_the_denominator(tiny):
    def loss(threshold: str) -> tuple[float, float]:
        step = Step(tiny("semi_vit", *VIT, "--pseudo-mixup", "none", "--threshold", threshold))
        return step.losses["self_training_loss"], step.logged["kept"].item()

    everything, one = loss("0")
    assert one == 1
    step = Step(tiny("semi_vit", *VIT, "--pseudo-mixup", "none", "--threshold", str(middling(tiny, 0.5))))
    used = step.batch.q_u.sum(dim=1) > 0
    run = tiny("semi_vit", *VIT)
    with torch.no_grad():
        each = -(step.batch.q_u * run.method.model(step.batch.x_u[0]).log_softmax(dim=1)).sum(dim=1)
    assert 0 < used.sum() < 16 and (each[~used] == 0).all()
    assert step.losses["self_training_loss"] == pytest.approx(5 * each[used].sum().item() / 16, rel=1e-5)
    assert everything > step.losses["self_training_loss"]


def test_a_threshold_above_one_is_a_supervised_step(tiny):
    semi = tiny("semi_vit", *VIT, "--threshold", "1.5")
    supervised = tiny("semi_vit", *VIT, "--lambda-u", "0")
    burnin = tiny("semi_vit", *VIT, "--burnin-epochs", "2")
    for run in (semi, supervised, burnin):
        run.logged = run.steps(4)
    for name, value in semi.weights().items():
        torch.testing.assert_close(value, supervised.weights()[name], rtol=0, atol=1e-7)
        torch.testing.assert_close(value, burnin.weights()[name], rtol=0, atol=1e-7)
    assert semi.logged[0]["kept_pairs"] == 0 and "kept" not in burnin.logged[0]


def test_the_teacher_follows_in_closed_form_and_never_trains(tiny):
    run = tiny("semi_vit", *VIT, "--ema-decay", "0.8")
    name = "blocks.0.mlp.fc1.weight"
    expected = dict(run.method.teacher.model.backbone.named_parameters())[name].clone()
    for _ in range(3):
        run.steps(1)
        expected = 0.8 * expected + 0.2 * dict(run.method.model.backbone.named_parameters())[name]
    torch.testing.assert_close(dict(run.method.teacher.model.backbone.named_parameters())[name], expected)
    assert not run.method.train().teacher.model.training


def test_the_teacher_moves_once_a_step_however_the_batch_is_split(tiny):
    one, four = tiny("semi_vit", *VIT, "--ema-decay", "0.5"), tiny("semi_vit", *VIT, "--ema-decay", "0.5", "--accumulate", "4")
    for run in (one, four):
        run.steps(2)
    for name, value in one.weights().items():
        torch.testing.assert_close(value, four.weights()[name], rtol=0, atol=1e-6, msg=name)


def test_auto_decay_keeps_the_published_horizon(tiny):
    from ssl_bench.ema import constant_decay

    assert [constant_decay(None, n) for n in (2000, 5000, 10_000, 200_000, 10)] == pytest.approx([0.99, 0.996, 0.998, 0.9999, 0])
    assert constant_decay(0.7, 10) == 0.7
    run = tiny("semi_vit", *VIT, "--ema-decay", "auto", "--epochs", "4", "--iters-per-epoch", "10")
    before = {name: value for name, value in run.weights().items() if name.startswith("teacher.model.head")}
    run.steps(1)
    for name, old in before.items():
        new, student = run.weights()[name], run.weights()[name.removeprefix("teacher.")]
        torch.testing.assert_close(new, 0.5 * old + 0.5 * student)


def test_without_a_teacher_the_student_labels_in_training_mode(tiny):
    run = tiny("semi_vit", *VIT, "--no-ema-teacher", "--drop-path", "0.5", "--pseudo-mixup", "none", "--threshold", "0")
    assert run.method.teacher is None and run.method.also_evaluated() == {}
    torch.manual_seed(0)
    first = Step(run).batch.q_u
    torch.manual_seed(1)
    assert not torch.equal(first, Step(run).batch.q_u)  # stochastic depth was on
    assert len(run.steps(1)[0]) >= 4


def test_stochastic_depth_can_be_off_for_labelled_images_alone(tiny):
    flags = [*VIT, "--drop-path", "0.5", "--threshold", "0", "--disable-x-mixup", "--pseudo-mixup", "none"]
    run = tiny("semi_vit", *flags, "--disable-x-drop-path")
    losses = []
    for seed in range(3):
        torch.manual_seed(seed)
        losses.append(Step(run).losses)
    assert len({loss["cls_loss"] for loss in losses}) == 1 and len({loss["self_training_loss"] for loss in losses}) == 3
    run = tiny("semi_vit", *flags)
    torch.manual_seed(0)
    a = Step(run).losses["cls_loss"]
    torch.manual_seed(1)
    assert a != Step(run).losses["cls_loss"]


def test_views_follow_their_switches(tiny):
    def views(*flags: str) -> tuple:
        return tiny("semi_vit", *BN_FREE, *flags).method.unlabeled_views

    assert views() == ("weak", "strong")
    assert views("--weak-aa", "--strong-no-re") == ("strong_whole", "strong_whole")
    assert views("--weak-no-aug") == ("test", "strong")


def test_learning_rates_of_the_layers_of_a_vit_b():
    args, _ = launch.resolve(SemiViT, ["-d", "Digits", "--recipe", "none", "-a", "vit_base_patch16_224", "--scratch", "--stages", "semi"])
    with torch.device("meta"):
        from ssl_bench import models

        model = models.build_classifier(args.arch, 10, 224, bottleneck_dim=0)
    groups = models.parameter_groups(model, False, args.layer_decay, args.wd)
    of = {name: group for group in groups for name, value in model.named_parameters() if any(value is p for p in group["params"])}
    assert of["backbone.patch_embed.proj.weight"]["lr_scale"] == pytest.approx(0.75**13) == pytest.approx(0.0238, abs=5e-5)
    assert of["backbone.blocks.0.attn.qkv.weight"]["lr_scale"] == pytest.approx(0.75**12)
    assert of["backbone.blocks.11.attn.qkv.weight"]["lr_scale"] == pytest.approx(0.75)
    assert of["head.weight"]["lr_scale"] == 1 and of["backbone.norm.weight"]["lr_scale"] == 0.75  # timm's rule for a norm before pooling
    for name, group in of.items():
        vector = name.endswith("bias") or "norm" in name or name.split(".")[-1] in ("cls_token", "pos_embed")
        assert group["weight_decay"] == (0 if vector else 0.05), name
    assert len(of) == len(dict(model.named_parameters()))


def command(log, *flags: str) -> int:
    return launch.run_command(SemiViT, [*TINY, *LIVE["semi_vit"], *BN_FREE, "--log", str(log), *flags])


def test_the_stages_of_one_command_and_what_they_hand_on(tmp_path, capsys):
    assert command(tmp_path, "--stages", "pretrain", "finetune", "semi", "--pretrain-epochs", "1", "--pretrain-iters-per-epoch", "3", "--finetune-ema-decay", "0.5", "--lambda-u", "0") == 0
    run = only_run(tmp_path)
    assert json.loads((run / "pretrain" / "args.json").read_text())["method"] == "mae"
    assert [json.loads((run / stage / "args.json").read_text())["args"]["arch"] for stage in ("pretrain", "finetune", "semi")] == ["test_vit"] * 3
    before, after = (read_weights(run / stage / "checkpoints" / "latest.pth") for stage in ("finetune", "semi"))
    assert before.keys() == after.keys()
    result = json.loads((run / "result.json").read_text())
    assert result["minutes_of_stages"].keys() == {"pretrain", "finetune", "semi"} and "teacher_top1" in result["evaluations"][-1]
    assert (run / "checkpoints" / "latest_teacher.pth").is_file()
    assert any(row["kind"] == "test" and "teacher_top1" in row for row in read_jsonl(run / "semi" / "metrics.jsonl"))
    assert "tensors loaded" in capsys.readouterr().out
    # A finished stage is not trained again.
    (run / "result.json").unlink()
    changed = (run / "finetune" / "result.json").stat().st_mtime_ns
    assert command(tmp_path, "--stages", "pretrain", "finetune", "semi", "--pretrain-epochs", "1", "--pretrain-iters-per-epoch", "3", "--finetune-ema-decay", "0.5", "--lambda-u", "0") == 0
    assert (run / "finetune" / "result.json").stat().st_mtime_ns == changed and (run / "result.json").is_file()


def test_the_teacher_starts_from_the_average_of_fine_tuning_and_the_student_from_the_raw_weights(tiny):
    run = tiny("semi_vit", *VIT)
    raw = {name: value + 1 for name, value in run.method.model.state_dict().items()}
    average = {name: value + 2 for name, value in raw.items()}
    run.method.load_previous(raw, {"teacher": average})
    torch.testing.assert_close(run.method.model.state_dict(), raw)
    torch.testing.assert_close(run.method.teacher.model.state_dict(), average)
    run.method.load_previous(raw, {})
    torch.testing.assert_close(run.method.teacher.model.state_dict(), raw)


@pytest.mark.slow
def test_a_stage_can_be_entered_from_outside(tmp_path):
    assert command(tmp_path / "a", "--stages", "finetune") == 0
    finetuned = only_run(tmp_path / "a")
    assert command(tmp_path / "b", "--stages", "semi", "--from", str(finetuned)) == 0
    assert command(tmp_path / "c", "--stages", "finetune", "semi") == 0
    for name, value in read_weights(only_run(tmp_path / "c") / "checkpoints" / "latest.pth").items():
        torch.testing.assert_close(value, read_weights(only_run(tmp_path / "b") / "checkpoints" / "latest.pth")[name], rtol=0, atol=0)
    assert command(tmp_path / "d", "--stages", "finetune", "--from", str(finetuned)) == 0  # as a backbone


@pytest.mark.parametrize(
    "flags,said",
    [
        (["--stages", "semi", "finetune"], "--stages semi finetune: one or more of pretrain, finetune, semi, each once, in this order"),
        (["--finetune-batch-size", "7", "--no-finetune-disable-x-mixup"], "--finetune-batch-size 7 is odd"),
        (["--batch-size", "7"], "--batch-size 7 is odd, and mixup pairs the images of a batch: use an even one"),
        (["--stages", "pretrain", "semi"], "starts from a fine-tuned network, name finetune too"),
        (["--concat", "--disable-x-drop-path"], "leave --concat out"),
        (["--min-lr", "1"], "--min-lr 1 is above --lr"),
        (["--accumulate", "3", "--batch-size", "6"], "finetune: --accumulate 3 must divide --finetune-batch-size 8"),
        (["--stages", "semi", "--from", "nowhere.pth"], "nowhere.pth"),
        (["--stages", "finetune", "--from", "nowhere.pth"], "nowhere.pth"),
        (["--labeled-list", "nowhere.csv"], "nowhere.csv"),
        (["--all-labeled"], "needs unlabelled images"),
        (["--ema-decay", "often"], "--ema-decay takes a number"),
        (["--stages", "pretrain", "--arch", "test_resnet", "--model-kwargs", "stem_type="], "test_resnet"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, capsys, flags, said):
    assert command(tmp_path, *flags) != 0
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "warning" not in line]
    assert len(lines) == 1 and said in lines[0], error


def test_only_labelled_images_need_no_unlabelled_ones(tmp_path):
    assert command(tmp_path, "--all-labeled", "--stages", "finetune") == 0


def test_a_collapse_is_said_and_recorded(tmp_path, capsys):
    assert command(tmp_path, "--threshold", "1.1") == 0
    assert capsys.readouterr().err.count("hardly used, 0 % of them") == 1
    rows = [row for row in read_jsonl(only_run(tmp_path) / "semi" / "metrics.jsonl") if row["kind"] == "warning"]
    assert [row["epoch"] for row in rows if "--threshold" in row["text"] and "hardly" in row["text"]] == [0, 1]


def test_the_published_recipes_resolve_to_the_published_values():
    table = {  # model_labels: lr and batch of fine-tuning, layer decay, steps; lr, batch, threshold, drop path, erasing, mixup; steps
        "mae_vit_base_1p": (1e-4, 512, 0.65, 2500, 5e-4, 128, 0.6, 0, 0, False, 198_100),
        "mae_vit_base_10p": (5e-4, 512, 0.65, 25_000, 5e-4, 128, 0.5, 0.1, 0.25, True, 180_100),
        "mae_vit_large_1p": (2e-3, 512, 0.75, 1250, 5e-4, 128, 0.6, 0.1, 0.25, True, 198_100),
        "mae_vit_large_10p": (2e-3, 512, 0.75, 12_500, 1e-3, 128, 0.6, 0.2, 0.25, True, 180_100),
        "mae_vit_huge_1p": (5e-3, 128, 0.75, 5000, 1.25e-3, 64, 0.7, 0.05, 0.25, True, 198_150),
        "mae_vit_huge_10p": (5e-4, 128, 0.75, 50_000, 1.25e-3, 128, 0.6, 0.1, 0.25, True, 90_050),
        "scratch_vit_base_10p": (4e-4, 1024, 1, 62_500, 5e-4, 128, 0.5, 0.1, 0.25, True, 180_100),
        "scratch_convnext_tiny_10p": (1e-3, 1024, 1, 62_500, 5e-4, 128, 0.7, 0.1, 0.25, True, 180_100),
    }
    for name, expected in table.items():
        args, _ = launch.resolve(SemiViT, ["x", "-d", "ImageNet", "--recipe", name])
        got = (
            args.finetune_lr, args.finetune_batch_size, args.finetune_layer_decay, args.finetune_epochs * args.finetune_iters_per_epoch,
            args.lr, args.batch_size, args.threshold, args.drop_path, args.erasing, not args.disable_x_mixup,
            args.epochs * args.iters_per_epoch,
        )  # fmt: skip
        assert got == pytest.approx(expected), name
        assert (args.mu, args.ema_decay, args.wd, args.min_lr, args.pseudo_mixup, args.burnin_epochs) == (5, 0.9999, 0.05, 1e-6, "prob", 0)
        assert args.trade_off_self_training == (10 if "convnext" in name else 5)
        warm = args.finetune_lr_warmup_epochs / args.finetune_epochs
        assert warm == pytest.approx({2500: 5 / 100, 25_000: 5 / 100, 62_500: 50 / 500}.get(expected[3], 5 / 50)), name
        assert args.finetune_ema_decay == {"mae_vit_huge_10p": 0.9998}.get(name, 0.9999 if "scratch" in name else 0)


@pytest.mark.parametrize("processes,accumulate", [(1, 8), (2, 4), (8, 1), (64, 1), (3, 1)])
def test_accumulation_is_chosen_for_the_devices_there_are(processes, accumulate):
    from ssl_bench.shares import accumulated, described

    args, _ = launch.resolve(SemiViT, ["x", "-d", "ImageNet", "--recipe", "mae_vit_base_1p"])
    chosen = accumulated(args, processes)
    assert chosen.accumulate == accumulate and chosen.batch_size == 128
    if processes == 2:
        line = "2 processes: 64 labelled and 320 unlabelled images each, 128 and 640 in all; 4 parts a step, of 16 and 80\n"
        assert described(chosen, 2) == line
    odd = dataclasses.replace(args, batch_size=90, batch_per_device=16)
    assert accumulated(odd, 2).accumulate == 3


@pytest.mark.slow
def test_a_run_cut_in_any_stage_ends_the_same(tmp_path):
    flags = ["--stages", "pretrain", "finetune", "semi", "--pretrain-epochs", "1", "--pretrain-iters-per-epoch", "3", "--finetune-ema-decay", "0.5", "--checkpoint-freq", "2"]
    assert command(tmp_path / "whole", *flags) == 0
    whole = only_run(tmp_path / "whole")
    states = {stage: sorted((whole / stage / "checkpoints").glob("state-*.pt")) for stage in ("pretrain", "finetune", "semi")}
    for i, stage in enumerate(states):
        part = tmp_path / stage
        shutil.copytree(whole.parents[3], part)
        run = only_run(part)
        for later in list(states)[i + 1 :]:
            shutil.rmtree(run / later)
        (run / stage / "result.json").unlink()
        (run / "result.json").unlink()
        (run / stage / "checkpoints" / states[stage][-1].name).unlink()
        assert command(part, *flags) == 0
        ends = [read_tensors(folder / "semi" / "checkpoints" / states["semi"][-1].name) for folder in (run, whole)]
        assert all(end.pop("train_seconds") for end in ends)
        assert_trees_equal(*ends, stage)


def test_the_networks_of_the_paper_build_and_take_a_step(tiny):
    for flags in (
        "-a vit_tiny_patch16_224 --model-kwargs depth=2 patch_size=4 global_pool=avg --fixed-positions",
        "-a vit_tiny_patch16_224 --model-kwargs depth=2 patch_size=2 --drop-path 0.1",
        "-a convnext_atto --model-kwargs depths=(1,1,1,1) dims=(8,8,16,16) --image-size 32 --drop-path 0.1",
    ):
        run = tiny("semi_vit", "--bottleneck-dim", "0", *flags.split())
        assert run.steps(2)[-1]["self_training_loss"] > 0
        if "--fixed" in flags:
            assert not run.method.model.backbone.pos_embed.requires_grad


def test_mae_weights_of_another_depth_and_with_a_classifier_say_so(tmp_path, capsys):
    import timm

    small = {"img_size": 8, "patch_size": 2, "num_classes": 7}
    torch.save({"model": timm.create_model("test_vit", depth=3, **small).state_dict()}, tmp_path / "deep.pth")
    torch.save({"model": timm.create_model("test_vit", **small).state_dict()}, tmp_path / "tuned.pth")
    assert command(tmp_path / "a", "--stages", "finetune", "--from", str(tmp_path / "deep.pth")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "has 3 blocks" in error and "is it another --arch" in error
    assert command(tmp_path / "b", "--stages", "finetune", "--from", str(tmp_path / "tuned.pth")) == 0
    assert "holds a classifier of 7 classes" in capsys.readouterr().out


@pytest.mark.slow
def test_the_test_phase_evaluates_what_was_recorded(tmp_path, capsys):
    flags = ["--ema-decay", "0.5"]
    assert command(tmp_path, *flags) == 0
    run = only_run(tmp_path)
    last = json.loads((run / "result.json").read_text())["evaluations"][-1]
    capsys.readouterr()
    for which, expected in (("latest", last), (str(run / "checkpoints" / "latest_teacher.pth"), {"top1": last["teacher_top1"]})):
        assert command(tmp_path, *flags, "--phase", "test", "--resume", which) == 0
        row = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert {name: row.get(name) for name in ("top1", "teacher_top1")} == {name: expected.get(name) for name in ("top1", "teacher_top1")}
    assert command(tmp_path / "mae", "--stages", "pretrain", "--pretrain-epochs", "1", "--pretrain-iters-per-epoch", "2") == 0
    assert command(tmp_path / "mae", "--stages", "pretrain", "--pretrain-epochs", "1", "--pretrain-iters-per-epoch", "2", "--phase", "test") == 0


def test_the_probe_of_a_pretraining_is_no_start_for_self_training(tmp_path, capsys):
    argv = [*TINY, *LIVE["mae"], "--log", str(tmp_path / "mae"), "--epochs", "1"]
    assert launch.run_command(catalog.load_method("mae"), argv) == 0
    assert command(tmp_path / "a", "--stages", "semi", "--from", str(only_run(tmp_path / "mae"))) == 1
    assert "is of a pre-training" in capsys.readouterr().err
    assert command(tmp_path / "b", "--stages", "finetune", "--from", str(only_run(tmp_path / "mae"))) == 0


def test_another_recipe_of_pretraining_is_another_run(tmp_path):
    def folder(ratio: float):
        (tmp_path / "mine.yaml").write_text(f"default: {{all: {{mask_ratio: {ratio}}}}}")
        args, _ = launch.resolve(SemiViT, [*TINY, *BN_FREE, "--stages", "pretrain", "finetune", "--pretrain-recipe", str(tmp_path / "mine.yaml")])
        return record.run_path("semi_vit", args)

    assert folder(0.5) != folder(0.75) and folder(0.5) == folder(0.5)


def test_a_run_of_one_stage_is_recorded_by_its_own_flags(tmp_path):
    assert command(tmp_path, "--stages", "finetune", "--epochs", "7") == 0
    run = only_run(tmp_path)
    for name in ("args.json", "result.json"):
        body = json.loads((run / name).read_text())
        assert body["args"]["epochs"] == 7 and body["args"]["finetune_epochs"] == 1 and run.name.endswith(body["args_hash"])


def test_the_rest_of_the_published_recipes():
    def of(name: str):
        return launch.resolve(SemiViT, ["x", "-d", "ImageNet", "--recipe", name])[0]

    base, scratch, convnext, huge = (of(f"{name}") for name in ("mae_vit_base_10p", "scratch_vit_base_10p", "scratch_convnext_tiny_10p", "mae_vit_huge_10p"))
    assert [args.layer_decay for args in (base, huge, scratch, convnext)] == [0.75, 0.75, 0.85, 1]
    assert [args.finetune_drop_path for args in (base, huge, scratch, convnext)] == [0.1, 0.2, 0.1, 0.1]
    assert all(args.finetune_erasing == 0.25 and not args.finetune_disable_x_mixup for args in (base, huge, scratch, convnext))
    assert [args.finetune_wd for args in (base, scratch, convnext)] == [0.05, 0.3, 0.05]
    assert [args.finetune_beta2 for args in (base, scratch, convnext)] == [0.999, 0.95, 0.999]
    assert [args.lr_warmup_epochs for args in (base, scratch, convnext)] == [5, 5, 10]
    assert [args.fixed_positions for args in (base, scratch, convnext)] == [False, True, False]
    assert [args.model_kwargs for args in (base, huge, scratch, convnext)] == [("global_pool=avg",), (), ("global_pool=avg",), ()]
    assert [args.scratch for args in (base, huge, scratch, convnext)] == [False, False, True, True]
    for name, lr, epochs, drop in (("base", 2e-3, 100, 0.1), ("large", 4e-3, 50, 0.2), ("huge", 4e-3, 50, 0.3)):
        args = of(f"mae_vit_{name}_100p")
        assert args.all_labeled and args.stages == ("finetune",) and args.finetune_batch_size == 1024 and args.finetune_drop_path == drop
        assert args.finetune_lr == lr and args.finetune_epochs * args.finetune_iters_per_epoch == epochs * 1251
