"""Prefetching changes no item and no order; on CUDA it runs on a stream of its own."""

from __future__ import annotations

import itertools

import pytest
import torch

from ssl_bench.prefetch import ahead, tensors_in


def test_elsewhere_items_pass_through_one_at_a_time():
    made = []
    source = (made.append(k) or k for k in range(5))
    got = ahead(source, torch.device("cpu"))
    assert list(itertools.islice(got, 2)) == [0, 1] and made == [0, 1]  # nothing is made before it is asked for
    assert list(got) == [2, 3, 4]
    assert list(ahead([], torch.device("cpu"))) == []


def test_an_error_in_making_an_item_arrives():
    def broken():
        yield 0
        raise OSError("gone")

    got = ahead(broken(), torch.device("cpu"))
    assert next(got) == 0
    with pytest.raises(OSError, match="gone"):
        next(got)


def test_tensors_are_found_at_any_depth():
    a, b, c = torch.zeros(1), torch.ones(2), torch.ones(3)
    assert [len(found) for found in tensors_in((((a, b), [c]), "text", 3, ()))] == [1, 2, 3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda_items_are_whole_when_they_arrive():
    device = torch.device("cuda")

    def slow():
        for k in range(20):
            assert torch.cuda.current_stream() != torch.cuda.default_stream()
            yield ((torch.full((1 << 22,), 1.0).pin_memory().to(device, non_blocking=True) * k).sqrt().square(),)

    for k, (x,) in enumerate(ahead(slow(), device)):
        total = x.mean()
        del x  # its memory may be given to the next item only after the mean is taken
        assert total.item() == pytest.approx(k)
