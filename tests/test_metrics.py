"""Metrics against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssl_bench.metrics import RunningMeans, class_counts, mean_class_accuracy, top_k_hits


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 6, 40])
def test_top_k_against_sorting(classes):
    random = np.random.RandomState(classes)
    y = np.stack([random.permutation(classes) for _ in range(64)]).astype(np.float32)
    target = random.randint(classes, size=64)
    hits = top_k_hits(torch.from_numpy(y), torch.from_numpy(target))
    ranks = [int((row > row[label]).sum()) for row, label in zip(y, target, strict=True)]
    assert hits.tolist() == [sum(rank < 1 for rank in ranks), sum(rank < 5 for rank in ranks)]
    assert hits.dtype == torch.int64 and hits.shape == (2,)
    if classes <= 5:
        assert hits[1] == 64, "with at most five classes the label is always among the best five"


def test_top_k_for_other_ks():
    y = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 4)
    assert top_k_hits(y, torch.arange(4), (1, 2, 3)).tolist() == [1, 2, 3]
    assert top_k_hits(y, torch.arange(4), (9,)).tolist() == [4]
    assert top_k_hits(y[:1], torch.tensor([1]), (2,)).tolist() == [1]


def test_right_and_all_images_of_each_true_class():
    prediction, target = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0, 0, 1, 1, 0])
    assert class_counts(prediction, target, 3).tolist() == [[2, 1, 0], [3, 2, 0]]
    random = np.random.RandomState(0)
    p, t = random.randint(7, size=500), random.randint(7, size=500)
    slow = np.zeros((2, 7), dtype=int)
    for i in range(500):
        slow[0, t[i]] += t[i] == p[i]
        slow[1, t[i]] += 1
    assert class_counts(torch.from_numpy(p), torch.from_numpy(t), 7).numpy().tolist() == slow.tolist()


def test_a_hundred_thousand_classes_are_counted_in_little_memory():
    """A matrix of all pairs would take 75 GiB."""
    target = torch.arange(0, 100_000, 7)
    counts = class_counts(torch.where(target % 2 == 0, target, 0), target, 100_000)
    assert counts.nbytes == 1_600_000 and counts[1].sum() == len(target)
    assert mean_class_accuracy(counts) == pytest.approx((target % 2 == 0).double().mean().item(), abs=1e-12)


def test_mean_per_class_leaves_absent_classes_out():
    # class 0: 2 of 3, class 1: 1 of 2, class 2 never occurs (though it is predicted once)
    assert mean_class_accuracy(torch.tensor([[2, 1, 0], [3, 2, 0]])) == pytest.approx((2 / 3 + 1 / 2) / 2, abs=1e-6)
    assert mean_class_accuracy(torch.tensor([[9, 0], [9, 1]])) == pytest.approx(0.5, abs=1e-6)
    assert mean_class_accuracy(torch.ones(2, 4, dtype=torch.int64)) == 1


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value)


def test_running_means_leave_nan_out():
    means = RunningMeans()
    for value in (1.0, math.nan, 2.0, 6.0):
        means.add({"a": scalar(value), "b": scalar(math.nan)})
    means.add({"late": scalar(5.0)})
    got = means.pop()
    assert list(got) == ["a", "b", "late"]
    assert got["a"] == 3 and got["late"] == 5 and math.isnan(got["b"])
    assert all(type(value) is float for value in got.values())
    assert means.pop() == {}, "pop starts again"
    means.add({"a": scalar(7.0)})
    assert means.pop() == {"a": 7.0}


def test_running_means_do_not_lose_digits():
    means = RunningMeans()
    means.add({"a": scalar(2.0**24)})
    for _ in range(64):
        means.add({"a": scalar(1.0)})
    assert means.pop()["a"] == (2**24 + 64) / 65


def test_running_means_hold_no_graph_and_take_whole_numbers():
    means = RunningMeans()
    x = torch.ones((), requires_grad=True)
    means.add({"loss": x * 2, "flag": torch.tensor(1.0, dtype=torch.bfloat16)})
    assert not means.sums["loss"].requires_grad
    assert means.pop() == {"loss": 2.0, "flag": 1.0}


def test_infinite_values_are_shown_not_hidden():
    means = RunningMeans()
    means.add({"a": scalar(math.inf)})
    means.add({"a": scalar(1.0)})
    assert means.pop() == {"a": math.inf}


def test_running_means_round_trip_through_a_file(tmp_path):
    """Saved mid-epoch and read again, the mean is that of the uninterrupted run; the two do not share memory."""
    whole, first = RunningMeans(), RunningMeans()
    values = [0.1, math.nan, 0.7, 3.0, 0.2]
    for value in values:
        whole.add({"a": scalar(value), "b": scalar(value * 2)})
    for value in values[:3]:
        first.add({"a": scalar(value), "b": scalar(value * 2)})
    torch.save(first.state_dict(), tmp_path / "means.pt")
    second = RunningMeans()
    second.load_state_dict(torch.load(tmp_path / "means.pt", weights_only=True))
    shared = RunningMeans()
    shared.load_state_dict(first.state_dict())
    for value in values[3:]:
        second.add({"a": scalar(value), "b": scalar(value * 2)})
        first.add({"a": scalar(value), "b": scalar(value * 2)})
    assert shared.pop()["a"] == pytest.approx(0.4, abs=1e-6), "loading copied the state"
    expected = whole.pop()
    assert second.pop() == expected == first.pop()
