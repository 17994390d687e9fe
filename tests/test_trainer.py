"""The loop itself: schedule, warm-up, clipping, optimisers, evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import BN_FREE, resolved

from ssl_bench import assessment, feed, finite, trainer
from ssl_bench.evaluate import evaluate, evaluation_stream


def rates(run, n: int) -> list[float]:
    seen = []
    for _ in range(n):
        run.steps(1)
        seen.append(run.trainer.optimizers[0].param_groups[-1]["lr"])
    return seen


def test_the_learning_rate_follows_tllibs_exp_schedule_per_step(tiny):
    run = tiny("erm", "--lr-scheduler", "exp", "--lr-gamma", "0.5", "--lr", "0.01")
    assert rates(run, 4) == pytest.approx([0.01 * (1 + 0.5 * k) ** -0.75 for k in range(4)], rel=1e-12)


def test_the_cosine_and_the_warm_up(tiny):
    run = tiny("erm", "--lr-scheduler", "cos", "--lr", "0.01", "--lr-warmup-epochs", "1")
    expected = [0.01 * math.cos(7 * math.pi / 16 * k / 6) * min(1, (k + 1) / 4) for k in range(6)]
    assert rates(run, 6) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scheduler", ["exp", "cos", "half_cos", "step"])
def test_a_resumed_run_goes_on_with_the_schedule(tiny, scheduler):
    """First step, end of the warm-up (3 of 6 steps), last: the multiplier's closed form, whether the run was cut or not."""
    flags = ["--lr-scheduler", scheduler, "--lr", "0.01", "--lr-warmup-epochs", "1", *(["--lr-gamma", "0.1", "--milestones", "1"] if scheduler == "step" else [])]
    gamma = resolved("erm").lr_gamma
    closed = {
        "exp": lambda k: min(1, (k + 1) / 4) * (1 + gamma * k) ** -0.75, "cos": lambda k: min(1, (k + 1) / 4) * math.cos(7 * math.pi * k / 96),
        "half_cos": lambda k: k / 3 if k < 3 else (1 + math.cos(math.pi * (k - 3) / 3)) / 2, "step": lambda k: min(1, (k + 1) / 4) * 0.1 ** (k >= 3),
    }  # fmt: skip
    expected = [0.01 * closed[scheduler](k) for k in range(6)]
    whole, cut = tiny("erm", *flags), tiny("erm", *flags)
    assert rates(whole, 6) == pytest.approx(expected, abs=1e-12)
    cut.steps(2)
    state, resumed = cut.trainer.state_dict({}), tiny("erm", *flags)
    resumed.trainer.load_state_dict(state, {})
    assert rates(resumed, 4) == pytest.approx(expected[2:], abs=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_finetune_trains_the_backbone_at_a_tenth(tiny, optimizer):
    run = tiny("erm", "--finetune", "--optimizer", optimizer)
    run.steps(1)
    groups = run.trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.001, 0.01, 0.01], rel=1e-12)
    assert {group["weight_decay"] for group in groups} == {5e-4}


def test_sgd_is_nesterov_with_momentum(tiny):
    (optimizer,) = tiny("erm").trainer.optimizers
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_clipping_bounds_the_gradient(tiny):
    free, clipped = tiny("erm", *BN_FREE), tiny("erm", *BN_FREE, "--clip-grad", "0.001")
    start = free.weights()
    free.steps(1), clipped.steps(1)
    moved = [sum((run.weights()[key] - start[key]).norm() ** 2 for key in start) ** 0.5 for run in (free, clipped)]
    assert moved[1] < 0.1 * moved[0] and moved[1] > 0


def test_dropout_is_a_function_of_the_step(tiny):
    def seeds_and_weights():
        run, seeds = tiny("erm"), []
        run.method.model.register_forward_hook(lambda *_: seeds.append(torch.initial_seed()))
        run.steps(2)
        return seeds, run.weights()

    (seeds, weights), (again, same) = seeds_and_weights(), seeds_and_weights()
    assert seeds == again and seeds[0] != seeds[-1]
    assert all(torch.equal(weights[key], same[key]) for key in weights)


def test_mu_multiplies_the_unlabelled_batch(tiny):
    run = tiny("fixmatch", "--mu", "3")
    batch = next(feed.training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0))
    assert len(batch.y_l) == 8 and len(batch.idx_u) == len(batch.x_u[0]) == 24


def test_labelled_and_unlabelled_orders_differ(tiny):
    """Of one set for both: as sets they differ anyway."""
    run = tiny("fixmatch", "--num-samples-per-class", "4")
    run.pools = trainer.Pools(**{**vars(run.pools), "unlabeled": run.pools.labeled})
    batches = feed.training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0)
    assert not any(torch.equal(batch.y_l, batch.y_u_hidden) for batch in (next(batches) for _ in range(5)))


def test_evaluation_is_independent_of_the_batch_size(tiny):
    run = tiny("erm")
    run.steps(3)
    run.method.eval()
    view = feed.test_view(run.args)
    results = [
        evaluate(run.method.predict, evaluation_stream(run.pools.test, view, torch.device("cpu"), batch_size=size), 10) for size in (500, 7, 256)
    ]
    assert results[0]["top1"] == results[1]["top1"] == results[2]["top1"]
    assert results[1]["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)
    assert results[0]["top5"] > results[0]["top1"] and results[0]["mean_class"] == pytest.approx(results[0]["top1"])


def test_evaluation_leaves_the_training_mode_and_the_weights_alone(tiny):
    run = tiny("mean_teacher")
    run.steps(2)
    before = run.weights()
    assessment.evaluate_method(run.method, run.pools, run.args, torch.device("cpu"))
    assert run.method.training and run.method.teacher.training
    assert all(torch.equal(before[key], value) for key, value in run.weights().items())


def test_an_unlabelled_method_without_unlabelled_images_says_so(tiny):
    run = tiny("fixmatch")
    run.pools = trainer.Pools(**{**vars(run.pools), "unlabeled": run.pools.unlabeled.take([])})
    with pytest.raises(ValueError, match="fixmatch needs unlabelled images"):
        run.steps(1)


def test_accumulation_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ValueError, match="--accumulate 2 must divide --batch-size 9"):
        resolved("erm", "--batch-size", "9", "--accumulate", "2")


def test_a_batch_of_one_under_batchnorm_is_refused():
    with pytest.raises(ValueError, match="--bottleneck-dim 0"):
        resolved("erm", "--batch-size", "1")
    assert resolved("erm", "--batch-size", "1", "--bottleneck-dim", "0").batch_size == 1


def test_a_weight_that_is_no_longer_finite_is_named_even_when_no_loss_sees_it(tiny):
    """torch 2.15 on a CPU gives nan gradients, in bf16, for a stride-2 3x3 convolution of a 1x1 map; the loss never shows it."""
    run = tiny("erm")
    run.steps(2)
    run.trainer.finite.check(2)
    with torch.no_grad():
        run.method.model.head.weight[0, 0] = float("nan")
    with pytest.raises(finite.NonFiniteLoss, match="model.head.weight of erm"):
        run.trainer.finite.check(2)
