"""What each method computes beside the shared losses, against independent references in NumPy and against limit cases."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import shutil
import types
from typing import Generic, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from ssl_bench import catalog, launch, runs
from ssl_bench.args import Args
from ssl_bench.feed import training_batches
from ssl_bench.method import Method, Stage

flexmatch, dst, self_tuning, uda = (importlib.import_module(f"ssl_bench.methods.{name}") for name in ("flexmatch", "dst", "self_tuning", "uda"))


def softmax(y: np.ndarray) -> np.ndarray:
    e = np.exp(y - y.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


class OneStep:
    """A method's step on logits given by hand: what each backward got, and what was logged."""

    def __init__(self, run, logits: list[torch.Tensor], epoch: int = 0) -> None:
        self.run, self.step, self.epoch, self.losses = run, 0, epoch, {}
        waiting = iter(logits)
        batch = next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0))
        self.batch = dataclasses.replace(batch, idx_u=torch.arange(len(batch.idx_u)))
        run.method.model.forward = lambda x: next(waiting)
        self.logged = run.method.train_step(self.batch, self)

    def backward(self, loss: torch.Tensor, term: str) -> None:
        self.losses[term] = loss.item()


# Who labels whom


def gradient_of_views(tiny, name: str, *flags: str) -> list[bool]:
    """Whether each unlabelled view's logits get gradient."""
    run = tiny(name, *flags)
    batch = next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0))
    marked = [tuple(torch.full_like(x, first + i) for i, x in enumerate(views)) for first, views in ((0, batch.x_l), (10, batch.x_u))]
    logits = {mark: draws(8, 10, seed=mark).requires_grad_() for mark in (0, 1, 10, 11)}
    run.method.model.forward = lambda x: 1 * logits[int(x[0, 0, 0, 0])]

    class Loop:
        step = epoch = 0

        def backward(self, loss, term):
            loss.backward()

    run.method.train_step(dataclasses.replace(batch, x_l=marked[0], x_u=marked[1]), Loop())
    assert all(logits[mark].grad.abs().sum() > 0 for mark in (0, 1))
    return [logits[mark].grad is not None and bool(logits[mark].grad.abs().sum() > 0) for mark in (10, 11)]


@pytest.mark.parametrize("name", ["fixmatch", "flexmatch", "uda", "debiasmatch"])
def test_a_weak_view_labels_the_strong_one_and_gets_no_gradient(tiny, name):
    assert catalog.load_method(name).unlabeled_views == ("weak", "strong")
    assert gradient_of_views(tiny, name, "--threshold", "0") == [False, True]


def test_both_views_of_a_pi_model_have_gradient(tiny):
    assert gradient_of_views(tiny, "pi_model") == [True, True]


# Mean Teacher


def test_the_teacher_is_a_true_mean_until_the_cap(tiny):
    run, seen = tiny("mean_teacher", "--alpha", "0.999"), []
    for _ in range(3):
        run.steps(1)
        seen.append({key: value.clone() for key, value in run.method.model.named_parameters()})
    for key, value in run.method.teacher.model.named_parameters():
        torch.testing.assert_close(value, sum(weights[key] for weights in seen) / 3, rtol=1e-5, atol=1e-7)
    run = tiny("mean_teacher", "--alpha", "0.5")
    run.steps(2)
    before = {key: value.clone() for key, value in run.method.teacher.model.named_parameters()}
    run.steps(1)
    for key, value in run.method.model.named_parameters():
        torch.testing.assert_close(run.method.teacher.model.get_parameter(key), (before[key] + value) / 2, rtol=1e-5, atol=1e-7)


def test_the_network_that_is_asked_for_is_evaluated(tiny):
    x = draws(4, 3, 8, 8)
    for flags, which in (([], "teacher"), (["--evaluate", "student"], "student")):
        run = tiny("mean_teacher", *flags)
        run.steps(2)
        run.method.eval()
        networks = {"teacher": run.method.teacher.model, "student": run.method.model}
        assert run.method.evaluated() is networks[which] and torch.equal(run.method.predict(x), networks[which](x))
        assert not torch.equal(networks["teacher"](x), networks["student"](x))


# Figures for display


def hot(label: torch.Tensor, right: int) -> torch.Tensor:
    """Logits (8, 10) whose arg max is the label in the first `right` rows and the next class in the others."""
    return 5.0 * nn.functional.one_hot(torch.where(torch.arange(8) < right, label.clamp(min=0), (label + 1) % 10), 10)


@pytest.mark.parametrize("name", ["fixmatch", "flexmatch", "debiasmatch", "uda", "pseudo_label", "mean_teacher", "noisy_student", "dst"])
def test_figures_for_display_are_what_their_names_say(tiny, name):
    run = tiny(name, *(["--threshold", "0.5"] if name not in ("mean_teacher", "noisy_student") else []))
    batch = next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0))
    y_l, y_u = hot(batch.y_l, 3), hot(batch.y_u_hidden, 6)
    y_u[7] = 0  # not confident
    if name == "dst":
        three = torch.cat([torch.cat([y_l, y_u])] * 3, dim=1)
        logits = [draws(8, 30), three, draws(8, 30)]
    else:
        logits = [y_l, draws(8, 10), y_u, draws(8, 10, seed=1)]
    if name == "mean_teacher":
        run.method.teacher.forward = lambda x: y_u
    if name == "noisy_student":
        run.method.teacher_logits = y_u
    if name == "debiasmatch":
        run.method.prior.copy_(torch.arange(1, 11) / 55)
    logged = OneStep(run, logits).logged
    assert logged["cls_acc"].item() == 3 / 8
    known = batch.y_u_hidden[7] == 0  # of equal logits the first counts
    if name in ("mean_teacher", "noisy_student"):
        assert logged["teacher_acc"].item() == (6 + bool(known)) / 8
    elif name != "flexmatch":
        assert logged["kept"].item() == 7 / 8 and logged["pseudo_acc"].item() == pytest.approx(6 / 7)
    if name == "flexmatch":
        assert logged["mean_threshold"].item() == 0 and logged["kept"].item() == 1
    if name == "debiasmatch":
        assert logged["prior_max"].item() == pytest.approx(10 / 55)


# UDA


def uda_logits() -> list[torch.Tensor]:
    """Of weak and strong labelled, weak and strong unlabelled views (the order in which UDA asks for them)."""
    return [draws(8, 10, seed=i) * (4 if i == 2 else 1) for i in range(4)]


@pytest.mark.parametrize("side", ["target", "student"])
@pytest.mark.parametrize("divisor", ["batch", "kept"])
def test_uda_sharpens_the_target_and_tllibs_flags_do_what_tllib_does(tiny, side, divisor):
    logits = uda_logits()
    step = OneStep(tiny("uda", "--threshold", "0.7", "--T", "0.4", "--temperature-on", side, "--divide-by", divisor), logits)
    weak, strong = logits[2].numpy().astype(np.float64), logits[3].numpy().astype(np.float64)
    p, q = softmax(weak / (0.4 if side == "target" else 1)), softmax(strong / (1 if side == "target" else 0.4))
    mask = softmax(weak).max(axis=1) > 0.7
    assert 0 < mask.sum() < 8
    kl = (p * (np.log(p) - np.log(q))).sum(axis=1)[mask].sum()
    assert step.losses["con_loss"] == pytest.approx(kl / (8 if divisor == "batch" else mask.sum()), rel=1e-5)


def test_uda_that_keeps_nothing_has_no_loss(tiny):
    for divisor in ("batch", "kept"):
        assert OneStep(tiny("uda", "--threshold", "1", "--divide-by", divisor), uda_logits()).losses["con_loss"] == 0


def test_kl_divergence_of_hard_targets_is_cross_entropy():
    y, label = draws(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    hard = nn.functional.one_hot(label, 5).float()
    torch.testing.assert_close(uda.kl_divergence(hard, y.log_softmax(1)), nn.functional.cross_entropy(y, label, reduction="none"))
    assert uda.kl_divergence(y.softmax(1), y.log_softmax(1)).abs().max() < 1e-6


# FlexMatch


def reference_factors(selected: list[int], num_classes: int, warmup: bool) -> list[float]:
    """Algorithm 1 of the paper with its loops."""
    learned = [sum(label == c for label in selected) for c in range(num_classes)]
    most = max([*learned, selected.count(-1)] if warmup else learned)
    beta = [count / most if most else 0.0 for count in learned]
    return [b / (2 - b) for b in beta]


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("selected", [[-1] * 9, [0, 0, 1, -1, -1, -1, 2, 0, -1], [3] * 9, [0, 1, 2, 3, 0, 1, 2, 3, 0]])
def test_flexible_thresholds_are_the_papers(selected, warmup):
    got = flexmatch.flexible(torch.tensor(selected), 4, warmup)
    assert got.tolist() == pytest.approx(reference_factors(selected, 4, warmup), abs=1e-7)


def test_the_best_learned_class_has_the_full_threshold_and_an_unseen_one_none():
    factors = flexmatch.flexible(torch.tensor([2, 2, 1, -1]), 4, False)
    assert factors.tolist() == pytest.approx([0, 0.5 / 1.5, 1, 0])
    assert flexmatch.flexible(torch.full((4,), 2), 3, False)[2] == 1  # TLlib's guard set all thresholds to 0 here


def test_flexmatch_masks_by_class_and_remembers_only_confident_labels(tiny):
    weak = torch.full((8, 10), -20.0)
    for i, (label, confidence) in enumerate([(0, 0.9), (0, 0.7), (1, 0.9), (1, 0.7), (1, 0.5), (2, 0.2), (2, 0.9), (3, 0.6)]):
        weak[i] = math.log((1 - confidence) / 9)
        weak[i, label] = math.log(confidence)
    run = tiny("flexmatch", "--threshold", "0.8")
    run.method.selected[100:104] = torch.tensor([0, 0, 1, -1])  # beta: 1, 1/2, 0 ... -> thresholds 0.8, 0.8 / 3, 0 ...
    strong = draws(8, 10, seed=5)
    step = OneStep(run, [draws(8, 10), draws(8, 10), weak, strong])
    kept = np.array([1, 0, 1, 1, 1, 1, 1, 1])
    labels = weak.argmax(1).numpy()
    expected = -(np.log(softmax(strong.numpy().astype(np.float64)))[np.arange(8), labels] * kept).mean()
    assert step.losses["self_training_loss"] == pytest.approx(expected, rel=1e-5)
    assert step.logged["kept"].item() == pytest.approx(7 / 8)
    run.method.after_step(step)
    assert run.method.selected[:8].tolist() == [0, -1, 1, -1, -1, -1, 2, -1]
    assert run.method.selected[100:104].tolist() == [0, 0, 1, -1]


def test_an_image_twice_in_a_batch_gets_the_larger_label_whatever_the_order(tiny):
    for order in ([0, 1], [1, 0]):
        run = tiny("flexmatch")
        run.method.seen.append((torch.tensor([7, 7, 9]), torch.tensor([[3, 5][i] for i in order] + [-1])))
        run.method.after_step(None)
        assert run.method.selected[7] == 5 and run.method.selected[9] == -1


# DebiasMatch


def test_debiasmatch_corrects_both_sides_by_the_prior_and_averages_predictions(tiny):
    run = tiny("debiasmatch", "--threshold", "0.3", "--tau", "2", "--momentum", "0.9")
    prior = np.linspace(1, 10, 10) / 55
    run.method.prior.copy_(torch.from_numpy(prior))
    logits = [draws(8, 10, seed=i) for i in range(4)]
    step = OneStep(run, list(logits))
    weak, strong = (y.numpy().astype(np.float64) for y in logits[2:])
    target, student = softmax(weak - 2 * np.log(prior)), softmax(strong + 2 * np.log(prior))
    mask = target.max(axis=1) > 0.3
    assert 0 < mask.sum()
    expected = -(np.log(student)[np.arange(8), target.argmax(axis=1)] * mask).mean()
    assert step.losses["self_training_loss"] == pytest.approx(expected, rel=1e-5)
    run.method.after_step(step)
    assert run.method.prior.tolist() == pytest.approx((0.9 * prior + 0.1 * softmax(weak).mean(axis=0)).tolist(), rel=1e-5)


def test_the_prior_lives_on_across_epochs_unless_tllibs_reset_is_asked_for(tiny):
    for flags, uniform in (([], False), (["--reset-prior"], True)):
        run = tiny("debiasmatch", *flags)
        run.steps(2)
        assert run.method.prior.max() > run.method.prior.min()
        run.steps(1)  # the last of the epoch's three
        assert (run.method.prior.max() == run.method.prior.min()) == uniform


# DST


def test_the_reversal_is_the_identity_with_a_negative_gradient():
    x = draws(3, 4).requires_grad_()
    y = dst.Reversal.apply(x, torch.tensor(0.25))
    assert torch.equal(x, y)
    y.backward(torch.ones(3, 4))
    assert (x.grad == -0.25).all()


def test_the_reversal_grows_with_the_step_as_tllibs_clock(tiny):
    run = tiny("dst")
    for step, expected in ((0, 0), (500, 0.0245), (1000, 0.0462), (2000, 0.0762), (100_000, 0.1)):
        assert 2 * 0.1 / (1 + math.exp(-step / 1000)) - 0.1 == pytest.approx(expected, abs=5e-5)
        run.trainer.step = step
        batch = next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0))
        run.method.train_step(batch, run.trainer)
        assert run.method.model.reversal.item() == pytest.approx(expected, abs=5e-5)


def test_the_agreement_penalty_is_large_where_the_label_is_believed():
    y, label = draws(7, 5), torch.arange(7) % 5
    expected = -np.log(1 - softmax(y.numpy().astype(np.float64))[np.arange(7), label.numpy()]).mean()
    assert dst.agreement_penalty(y, label).item() == pytest.approx(expected, rel=1e-4)
    sure = nn.functional.one_hot(label, 5) * 50.0
    assert dst.agreement_penalty(sure, label).item() == pytest.approx(-math.log(1e-6), rel=0.01)  # finite
    assert dst.agreement_penalty(-sure, label).item() == pytest.approx(0, abs=1e-6)


def heads(y: torch.Tensor) -> list[np.ndarray]:
    return [part.numpy().astype(np.float64) for part in y.chunk(3, dim=1)]


@pytest.mark.parametrize("labels", ["true", "predicted"])
def test_dst_losses_are_those_of_its_three_heads(tiny, labels):
    run = tiny("dst", "--threshold", "0.3", "--eta", "0.5", "--eta-prime", "3", "--worst-case-labels", labels)
    logits = [2 * draws(8, 30, seed=0), 2 * draws(16, 30, seed=1), 2 * draws(8, 30, seed=2)]
    step = OneStep(run, list(logits))
    y_l, rows = step.batch.y_l.numpy(), np.arange(8)
    main, _, adversarial = heads(logits[1])
    guess, pseudo = main[:8].argmax(axis=1), main[8:].argmax(axis=1)
    label = y_l if labels == "true" else guess
    cls = -np.log(softmax(main[:8]))[rows, y_l].mean()
    labelled = -np.log(softmax(adversarial[:8]))[rows, label].mean()
    unlabelled = -np.log(1 - softmax(adversarial[8:])[rows, pseudo] + 1e-6).mean()
    strong = -np.log(softmax(heads(logits[0])[0]))[rows, y_l].mean()
    mask = softmax(main[8:]).max(axis=1) > 0.3
    training = -(np.log(softmax(heads(logits[2])[1]))[rows, pseudo] * mask).mean()
    assert step.losses == pytest.approx({
        "cls_strong_loss": 0.1 * strong, "cls_loss + worst_case_loss": cls + 0.5 * (3 * labelled + unlabelled), "self_training_loss": training,
    }, rel=1e-4)  # fmt: skip


def test_pseudo_labels_never_train_dsts_main_head(tiny):
    run = tiny("dst")
    batch = next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0))
    moved = {}

    class Loop:
        step = 5000
        epoch = 0

        def backward(self, loss, term):
            run.method.zero_grad()
            loss.backward()
            parts = {"main": run.method.model.head, "pseudo": run.method.model.pseudo_head, "adv": run.method.model.adv_head}
            moved[term] = {name for name, part in parts.items() if any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())}

    run.method.train_step(batch, Loop())
    assert moved == {"cls_strong_loss": {"main"}, "cls_loss + worst_case_loss": {"main", "adv"}, "self_training_loss": {"pseudo"}}


def test_only_the_main_head_predicts(tiny):
    run = tiny("dst")
    run.method.eval()
    assert run.method.predict(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    assert {key.split(".")[0] for key in run.method.evaluated().state_dict()} == {"backbone", "bottleneck", "head", "pseudo_head", "adv_head"}


# Self-Tuning


def reference_contrast(h: np.ndarray, key: np.ndarray, label: np.ndarray, memory: np.ndarray, T: float) -> float:
    """The published loss with its loops: KL of the uniform distribution over the positives to the softmax over everything."""
    classes, K, _ = memory.shape
    total = 0.0
    for i, c in enumerate(label):
        entries = [key[i], *memory[c], *(entry for other in range(classes) if other != c for entry in memory[other])]
        p = softmax(np.array([h[i] @ entry for entry in entries]) / T)
        target = np.array([1 / (K + 1)] * (K + 1) + [0.0] * (len(entries) - K - 1))
        total += sum(t * (math.log(t) - math.log(q)) for t, q in zip(target, p, strict=True) if t)
    return total / len(label)


@pytest.mark.parametrize("T", [0.07, 1.0])
def test_group_contrast_is_the_published_loop(T):
    h, key = (nn.functional.normalize(draws(6, 7, seed=i), dim=1) for i in (0, 1))
    memory, label = nn.functional.normalize(draws(4, 3, 7, seed=2), dim=2), torch.tensor([0, 3, 3, 1, 2, 0])
    got = self_tuning.group_contrast(h, key, label, memory, T).item()
    expected = reference_contrast(*(x.double().numpy() for x in (h, key)), label.numpy(), memory.double().numpy(), T)
    assert got == pytest.approx(expected, rel=1e-5) and got > 0


def test_group_contrast_of_equal_similarities_is_the_entropy_of_the_rest():
    h = key = torch.ones(2, 1)
    assert self_tuning.group_contrast(h, key, torch.tensor([0, 1]), torch.ones(4, 3, 1), 0.5).item() == pytest.approx(math.log(13 / 4), rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_the_memory_is_a_ring_a_class(seed):
    """Against one key at a time, with more keys of a class than its ring holds."""
    random = np.random.default_rng(seed)
    memory, oldest = draws(3, 4, 2, seed=seed), torch.from_numpy(random.integers(0, 4, 3))
    want, pointer = memory.clone(), oldest.tolist()
    for _ in range(3):
        label, key = torch.from_numpy(random.integers(0, 3 if seed % 2 else 1, 11)), draws(11, 2, seed=int(random.integers(1000)))
        for c, k in zip(label.tolist(), key, strict=True):
            want[c, pointer[c]] = k
            pointer[c] = (pointer[c] + 1) % 4
        self_tuning.enqueue(memory, oldest, key, label)
        assert torch.equal(memory, want) and oldest.tolist() == pointer


def test_the_key_encoder_follows_once_a_step_or_twice_as_tllibs(tiny):
    for flags, decay in (([], 0.9), (["--two-updates"], 0.81)):
        run = tiny("self_tuning", *flags)
        before = {key: value.clone() for key, value in run.method.key_encoder.model.named_parameters()}
        run.steps(1)
        for key, value in run.method.model.named_parameters():
            expected = decay * before[key] + (1 - decay) * value
            torch.testing.assert_close(run.method.key_encoder.model.get_parameter(key), expected, rtol=1e-5, atol=1e-7)


def test_self_tuning_takes_any_bottleneck_and_a_slow_projector(tiny):
    for width in ("0", "24"):
        run = tiny("self_tuning", "--bottleneck-dim", width, "--finetune")
        run.steps(1)
        scales = {id(p): group["lr_scale"] for group in run.trainer.optimizers[0].param_groups for p in group["params"]}
        assert {scales[id(p)] for p in run.method.model.projector.parameters()} == {0.1}
        assert {scales[id(p)] for p in run.method.model.head.parameters()} == {1.0}


def test_a_step_remembers_every_labelled_and_unlabelled_key(tiny):
    run = tiny("self_tuning", "--K", "64")
    before = run.method.memory.clone()
    run.steps(1)
    assert run.method.oldest.sum() == 16  # 8 + 8 keys
    written = (run.method.memory != before).any(dim=2)
    assert written.sum(dim=1).tolist() == run.method.oldest.tolist()


# Noisy Student


def test_generations_are_stages_each_taught_by_the_one_before():
    method = catalog.load_method("noisy_student")

    def resolve(*argv: str) -> list[Stage]:
        return method.stages(launch.resolve(method, ["--recipe", "none", *argv])[0])

    alone, taught = resolve(), resolve("--pretrained-teacher", "file.pth")
    assert [(s.name, s.previous, s.args.pretrained_teacher) for s in alone + taught] == [("train", None, None), ("train", "file.pth", "file.pth")]
    three = resolve("--generations", "3", "--teacher-epochs", "7")
    assert [s.name for s in three] == ["generation0", "generation1", "generation2", "generation3"]
    assert [s.args.epochs for s in three] == [7, 40, 40, 40]
    assert [s.args.pretrained_teacher for s in three] == [None, "generation0", "generation1", "generation2"]
    outside = resolve("--generations", "2", "--pretrained-teacher", "file.pth")
    assert [(s.name, s.previous) for s in outside] == [("generation1", "file.pth"), ("generation2", None)]


def test_teacher_logits_are_those_of_the_image_that_the_index_names(tiny):
    """TLlib paired them with other images when no seed was given."""
    run = tiny("noisy_student")
    identity = nn.Module()
    identity.forward = lambda x: x.flatten(1)
    identity.anchor = nn.Parameter(torch.zeros(1))
    run.method.teacher = identity
    run.args = dataclasses.replace(run.args, hflip=0.0, train_resizing="cifar", eval_batch_size=100)
    run.method.args = run.args
    run.method.prepare(run.pools)
    pixels = run.pools.unlabeled.pixels.float()
    ink = run.method.teacher_logits.mean(dim=1) * 0.5 + 0.5
    want = pixels.mean(dim=(1, 2, 3)) / 255
    agreement = [np.corrcoef(ink.numpy(), want.roll(shift).numpy())[0, 1] for shift in (0, 1)]
    assert agreement[0] > 0.8 and abs(agreement[1]) < 0.3
    again = run.method.teacher_logits.clone()
    run.method.prepare(run.pools)
    assert torch.equal(run.method.teacher_logits, again)  # after a resume, the same


def test_the_student_starts_anew_and_its_teacher_stays(tiny):
    run = tiny("noisy_student")
    teacher, student = (dict(net.named_parameters()) for net in (run.method.teacher.model, run.method.model))
    assert any(not torch.equal(teacher[key], student[key]) for key in teacher)
    before = {key: value.clone() for key, value in teacher.items()}
    run.steps(3)
    assert all(torch.equal(before[key], value) for key, value in run.method.teacher.model.named_parameters())


def test_the_teachers_logits_are_made_without_noise(tiny):
    run, x = tiny("noisy_student"), draws(4, 3, 8, 8)
    run.method.train()
    y = run.method.teacher(x)
    assert torch.equal(run.method.teacher(x), y)
    torch.testing.assert_close(torch.cat([run.method.teacher(x[i : i + 1]) for i in range(4)]), y, rtol=1e-5, atol=1e-5)


def test_noisy_student_loss_is_soft_cross_entropy_at_a_temperature(tiny):
    run = tiny("noisy_student", "--T", "2.5")
    strong = draws(8, 10, seed=3)
    step = OneStep(run, [draws(8, 10), draws(8, 10), strong])
    teacher = run.method.teacher_logits[:8].numpy().astype(np.float64)
    expected = -(softmax(teacher / 2.5) * np.log(softmax(strong.numpy().astype(np.float64) / 2.5))).sum(axis=1).mean()
    assert step.losses["self_training_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_run_of_stages_is_one_run_with_the_weights_of_its_last(tmp_path, capsys):
    method = catalog.load_method("noisy_student")
    argv = "-a test_resnet --generations 2 --teacher-epochs 1 --epochs 2 --iters-per-epoch 2 --device cpu --batch-size 4 --log out".split()
    assert launch.run_command(method, argv) == 0
    (run,) = tmp_path.glob("out/noisy_student/Digits/4x/*")
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["checkpoints", "generation0", "generation1", "generation2"]
    result = json.loads((run / "result.json").read_text())
    assert [row["epoch"] for row in result["evaluations"]] == [0, 1] and result["args"]["generations"] == 2
    assert result["minutes"] == pytest.approx(sum(result["minutes_of_stages"].values()), abs=1e-3) and len(result["minutes_of_stages"]) == 3
    for name in ("latest.pth", "best.pth"):
        assert (run / "checkpoints" / name).read_bytes() == (run / "generation2" / "checkpoints" / name).read_bytes()
    frame = runs.collect([tmp_path / "out"])
    assert len(frame) == 1 and frame["state"].tolist() == ["done"]
    for stage in ("generation0", "generation2"):  # each is a run in its own right
        assert runs.collect([run / stage])["state"].tolist() == ["done"]
    assert launch.run_command(method, argv) == 0
    assert "is done already" in capsys.readouterr().out


def test_a_stopped_run_of_stages_goes_on_with_the_stage_it_was_in(tmp_path, capsys):
    method = catalog.load_method("noisy_student")
    argv = "-a test_resnet --generations 2 --teacher-epochs 1 --epochs 1 --iters-per-epoch 2 --device cpu --batch-size 4 --log out".split()
    assert launch.run_command(method, argv) == 0
    (run,) = tmp_path.glob("out/noisy_student/Digits/4x/*")
    weights = (run / "checkpoints" / "latest.pth").read_bytes()
    first = (run / "generation1" / "result.json").stat().st_mtime_ns
    (run / "result.json").unlink()
    shutil.rmtree(run / "generation2")
    assert launch.run_command(method, argv) == 0
    assert (run / "generation1" / "result.json").stat().st_mtime_ns == first
    assert (run / "checkpoints" / "latest.pth").read_bytes() == weights


@pytest.mark.slow
def test_a_teacher_in_a_file_a_run_folder_or_tllibs_place(tmp_path, capsys):
    method = catalog.load_method("noisy_student")
    common = ["-a", "test_resnet", "--epochs", "1", "--iters-per-epoch", "2", "--device", "cpu", "--batch-size", "4"]
    assert launch.run_command(method, [*common, "--log", "iter_0"]) == 0
    assert "the first teacher, on the labelled images" in capsys.readouterr().out
    run = next(tmp_path.glob("iter_0/noisy_student/Digits/4x/*"))
    results = []
    for i, teacher in enumerate(("iter_0/checkpoints/latest.pth", str(run), str(run / "checkpoints" / "latest.pth"))):
        assert launch.run_command(method, [*common, "--generations", "1", "--log", f"s{i}", "--pretrained-teacher", teacher]) == 0
        results.append(capsys.readouterr().out.splitlines()[-3:])
    assert results[0] == results[1] == results[2]
    argv = [*common, "--generations", "1", "--log", "s1", "--pretrained-teacher", str(run), "--phase", "test", "--resume", "latest"]
    assert launch.run_command(method, argv) == 0
    assert results[1][0].split()[2] == f"{float(capsys.readouterr().out.split('Acc@1 ')[1].split()[0]):.1f}"


@pytest.mark.parametrize("argv,message", [
    (["--pretrained-teacher", "nowhere.pth"], "no weights 'nowhere.pth'; name a .pth file or the folder of a finished run"),
    (["--lr-scheduler", "step"], "--lr-scheduler step multiplies the learning rate by --lr-gamma 0.0004"),
    (["-d", "EuroSAT", "x", "--recipe", "tllib"], "recipe tllib of noisy_student is for CIFAR100, not for EuroSAT"),
    (["--generations", "0"], "--generations 0 is out of range: >= 1"),
    (["--T", "0"], "--T 0.0 is out of range: > 0"),
    (["--trade-off-self-training", "-1"], "--trade-off-self-training -1.0 is out of range: >= 0"),
])  # fmt: skip
def test_noisy_students_wrong_values_are_one_line(argv, message, capsys):
    assert launch.run_command(catalog.load_method("noisy_student"), ["-a", "test_resnet", "--device", "cpu", *argv]) in (1, 2)
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and message in error[0]


def test_a_teacher_of_another_network_is_one_line(tmp_path, capsys):
    torch.save({"head.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    code = launch.run_command(catalog.load_method("noisy_student"), ["--device", "cpu", "--pretrained-teacher", str(tmp_path / "other.pth")])
    error = capsys.readouterr().err.splitlines()
    assert code == 1 and len(error) == 1 and "other.pth has a head of 3 classes" in error[0]
    assert not list(tmp_path.rglob("args.json"))  # no run in the tables


def test_a_run_that_goes_on_at_a_stage_says_which_are_done(tmp_path, capsys):
    argv = "-a test_resnet --epochs 1 --iters-per-epoch 1 --device cpu --batch-size 4 --generations 1 --teacher-epochs 1 --log whole".split()
    assert launch.run_command(catalog.load_method("noisy_student"), argv) == 0
    assert "generation0, 1 of 2\n" in capsys.readouterr().out
    (run,) = tmp_path.glob("whole/noisy_student/Digits/4x/*")
    for folder in (run, run / "generation1"):
        (folder / "result.json").unlink()
    assert launch.run_command(catalog.load_method("noisy_student"), argv) == 0
    assert "generation0, 1 of 2: done already\n" in capsys.readouterr().out


def test_a_teacher_that_is_not_trained_to_its_end_is_refused(tmp_path, capsys):
    method = catalog.load_method("noisy_student")
    argv = "-a test_resnet --epochs 1 --iters-per-epoch 1 --device cpu --batch-size 4 --generations 1 --teacher-epochs 1".split()
    assert launch.run_command(method, [*argv, "--log", "whole"]) == 0
    assert "generation0, 1 of 2" in capsys.readouterr().out
    (run,) = tmp_path.glob("whole/noisy_student/Digits/4x/*")
    (run / "result.json").unlink()
    for teacher in (str(run), "whole/checkpoints/latest.pth"):
        assert launch.run_command(method, [*argv, "--log", "next", "--pretrained-teacher", teacher]) == 1
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and "is of a run that is not finished" in error[0]


@pytest.mark.parametrize("name", ["noisy_student", "self_tuning"])
def test_without_an_unlabelled_image_a_method_says_so_before_it_trains(name, tmp_path, capsys):
    assert launch.run_command(catalog.load_method(name), ["--device", "cpu", "--all-labeled"]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and f"{name} needs unlabelled images" in error[0] and not list(tmp_path.rglob("args.json"))


# The contract of a method of one's own


def test_a_method_s_arguments_pass_through_a_generic_one_in_between():
    @dataclasses.dataclass
    class Own(Args):
        """Flags of one's own."""

    given, other = TypeVar("given", bound=Args), TypeVar("other")

    class Between(Method[given]):
        pass

    class Typed(Method[Own], Generic[other]):
        pass

    class Last(Between[Own]):
        pass

    class Listed(Typed[int]):
        pass

    assert Between.Args is Args and [made.Args for made in (Typed, Last, Listed)] == [Own] * 3


def test_the_supervised_term_takes_a_flag_of_the_method_s_own():
    y, strong = draws(4, 3, seed=1), draws(4, 3, seed=2)
    target, lost = torch.tensor([0, 1, 2, 0]), []
    method = types.SimpleNamespace(args=types.SimpleNamespace(trade_off_cls_strong=0.5))
    loop = types.SimpleNamespace(backward=lambda loss, term: lost.append((loss.item(), term)))
    Method.supervised(method, iter([y, strong]), target, loop)
    cross = [-np.log(softmax(each.numpy())[range(4), target]).mean() for each in (y, strong)]
    assert lost == [(pytest.approx(cross[0] + 0.5 * cross[1], rel=1e-5), "cls_loss")]
