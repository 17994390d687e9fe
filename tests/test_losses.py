"""Losses against NumPy references, their limits, and where the gradient goes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_bench.losses import confident_pseudo_labels, masked_cross_entropy, pseudo_label_metrics, two_view_cross_entropy


def softmax(y: np.ndarray) -> np.ndarray:
    e = np.exp(y - y.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropies(y: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.array([-np.log(row[label]) for row, label in zip(softmax(y.astype(np.float64)), target, strict=True)])


def case(seed: int, batch: int = 16, classes: int = 7, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    random = np.random.RandomState(seed)
    y, z = (torch.from_numpy((scale * random.randn(batch, classes)).astype(np.float32)) for _ in range(2))
    return y, z, torch.from_numpy(random.randint(classes, size=batch))


@pytest.mark.parametrize("trade_off", [0.0, 0.1, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(3))
def test_two_view_cross_entropy(seed, trade_off):
    y, z, target = case(seed)
    expected = (
        cross_entropies(y.numpy(), target.numpy()).mean()
        + trade_off * cross_entropies(z.numpy(), target.numpy()).mean()
    )
    assert two_view_cross_entropy(y, z, target, trade_off).item() == pytest.approx(expected, rel=1e-6)


def test_two_view_cross_entropy_sends_gradient_to_both_views():
    y, z, target = case(0)
    y.requires_grad_(), z.requires_grad_()
    two_view_cross_entropy(y, z, target, 0.1).backward()
    hot = np.eye(7)[target.numpy()]
    np.testing.assert_allclose(y.grad.numpy(), (softmax(y.detach().numpy()) - hot) / 16, atol=1e-6)
    np.testing.assert_allclose(z.grad.numpy(), 0.1 * (softmax(z.detach().numpy()) - hot) / 16, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_confident_pseudo_labels(seed, threshold):
    y, _, _ = case(seed, batch=200)
    mask, pseudo = confident_pseudo_labels(y, threshold)
    p = softmax(y.numpy().astype(np.float64))
    near = np.abs(p.max(axis=1) - threshold) < 1e-6
    assert not near.any(), "no case at the edge, so the comparison is exact"
    assert mask.tolist() == [float(best > threshold) for best in p.max(axis=1)]
    assert pseudo.tolist() == p.argmax(axis=1).tolist()
    assert mask.dtype == torch.float32 and pseudo.dtype == torch.int64
    if 0 < threshold:
        assert 0 < mask.sum() < 200, "a case that keeps some and drops some"


def test_threshold_zero_keeps_all_and_one_keeps_none():
    y = torch.tensor([[0.0, 0.0, 0.0], [1e-3, 0.0, 0.0], [9.0, 0.0, 0.0], [1000.0, 0.0, 0.0]])
    assert y.softmax(1).max() == 1, "a confidence of exactly one is among them"
    assert confident_pseudo_labels(y, 0.0)[0].tolist() == [1, 1, 1, 1]
    assert confident_pseudo_labels(y, 1.0)[0].tolist() == [0, 0, 0, 0]


def test_the_comparison_is_strict():
    y = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.0]])  # confidence 0.5 to the bit, 0.525, 0.5
    assert confident_pseudo_labels(y, 0.5)[0].tolist() == [0, 1, 0]
    assert confident_pseudo_labels(y, math.nextafter(0.5, 0) - 1e-7)[0].tolist() == [1, 1, 1]


def test_confidences_of_bf16_logits_are_not_rounded():
    y = torch.tensor([[2.953125, 0.0]], dtype=torch.bfloat16)  # 0.95039, in bf16 0.94922
    assert y.softmax(dim=1).max().float() < 0.95
    assert confident_pseudo_labels(y, 0.95)[0].tolist() == [1]


@pytest.mark.parametrize("seed", range(3))
def test_masked_cross_entropy_divides_by_the_batch(seed):
    _, y, pseudo = case(seed)
    mask = (torch.arange(16) % 3 == 0).float()
    rows = cross_entropies(y.numpy(), pseudo.numpy())
    expected = sum(rows[i] for i in range(0, 16, 3)) / 16
    assert masked_cross_entropy(y, pseudo, mask).item() == pytest.approx(expected, rel=1e-6)
    assert masked_cross_entropy(y, pseudo, torch.ones(16)).item() == pytest.approx(rows.mean(), rel=1e-6)
    assert masked_cross_entropy(y, pseudo, torch.zeros(16)).item() == 0
    weights = torch.linspace(0, 1, 16)
    assert masked_cross_entropy(y, pseudo, weights).item() == pytest.approx(
        (rows * weights.numpy()).sum() / 16, rel=1e-5
    )


def test_gradient_reaches_the_prediction_where_kept_and_nothing_else():
    y_weak, y_strong, _ = case(1)
    y_weak.requires_grad_(), y_strong.requires_grad_()
    mask, pseudo = confident_pseudo_labels(y_weak, 0.7)
    assert 0 < mask.sum() < 16
    assert not mask.requires_grad and not pseudo.requires_grad
    masked_cross_entropy(y_strong, pseudo, mask).backward()
    assert y_weak.grad is None
    hot = np.eye(7)[pseudo.numpy()]
    expected = mask.numpy()[:, None] * (softmax(y_strong.detach().numpy()) - hot) / 16
    np.testing.assert_allclose(y_strong.grad.numpy(), expected, atol=1e-6)
    assert (y_strong.grad[mask == 0] == 0).all() and (y_strong.grad[mask == 1].abs().sum(1) > 0).all()


def test_gradient_of_self_labelling_goes_through_the_prediction_only():
    """Pseudo Label: the same logits give target and prediction; the target side must act as a constant."""
    y, _, _ = case(2)
    y.requires_grad_()
    mask, pseudo = confident_pseudo_labels(y, 0.0)
    masked_cross_entropy(y, pseudo, mask).backward()
    expected = (softmax(y.detach().numpy()) - np.eye(7)[y.detach().numpy().argmax(1)]) / 16
    np.testing.assert_allclose(y.grad.numpy(), expected, atol=1e-6)
    assert y.grad.norm() > 1e-3


def test_pseudo_label_metrics_by_hand():
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0])
    pseudo = torch.tensor([2, 1, 0, 3, 1])
    hidden = torch.tensor([2, 0, 0, -1, -1])  # kept and known: rows 0 (right) and 1 (wrong)
    got = pseudo_label_metrics(mask, pseudo, hidden)
    assert got["kept"].item() == pytest.approx(0.6) and got["pseudo_acc"].item() == 0.5
    assert math.isnan(pseudo_label_metrics(torch.zeros(5), pseudo, hidden)["pseudo_acc"].item())
    assert math.isnan(pseudo_label_metrics(mask, pseudo, torch.full((5,), -1))["pseudo_acc"].item())
    assert pseudo_label_metrics(torch.zeros(5), pseudo, hidden)["kept"].item() == 0
    assert pseudo_label_metrics(torch.ones(5), pseudo, pseudo)["pseudo_acc"].item() == 1


def test_extreme_logits_stay_finite():
    y = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    mask, pseudo = confident_pseudo_labels(y, 0.95)
    assert mask.tolist() == [1, 1]
    loss = masked_cross_entropy(y, pseudo.flip(0), mask)
    loss.backward()
    assert loss.item() == pytest.approx(2e4) and y.grad.isfinite().all()
