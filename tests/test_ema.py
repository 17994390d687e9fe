"""The moving average against its closed form, buffers included, and its fixed mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ssl_bench.ema import EMATeacher, capped_decay


def student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))


def disturb(net: nn.Module, seed: int) -> None:
    """New values for every parameter and buffer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.fill_(seed)


def values(net: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy().copy() for name, tensor in net.state_dict().items()}


def test_follows_the_closed_form_buffers_included():
    net, decay, steps = student(), 0.9, 7
    teacher = EMATeacher(net, "train")
    history = [values(net)]
    for step in range(1, steps + 1):
        disturb(net, step)
        history.append(values(net))
        teacher.update(net, decay)
    weights = [decay**steps] + [(1 - decay) * decay ** (steps - t) for t in range(1, steps + 1)]
    assert sum(weights) == pytest.approx(1)
    got = values(teacher.model)
    assert set(got) == set(history[0]) and "1.running_var" in got
    for name, value in got.items():
        if name.endswith("num_batches_tracked"):
            assert value == steps, "whole numbers are copied, not averaged"
            continue
        expected = sum(weight * old[name] for weight, old in zip(weights, history, strict=True))
        np.testing.assert_allclose(value, expected, atol=1e-6)
        assert np.abs(value - history[-1][name]).max() > 1e-3


def test_integer_buffers_keep_their_type():
    net = student()
    teacher = EMATeacher(net, "train")
    disturb(net, 41)
    teacher.update(net, 0.999)
    counter = teacher.model[1].num_batches_tracked
    assert counter.dtype == torch.int64 and counter.item() == 41


def test_a_net_without_integer_buffers_works():
    net = nn.Linear(2, 2)
    teacher = EMATeacher(net, "eval")
    disturb(net, 3)
    teacher.update(net, 0.0)
    assert torch.equal(teacher.model.weight, net.weight)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_decay_zero_copies_and_one_stands_still(decay):
    net = student()
    teacher = EMATeacher(net, "train")
    start = values(net)
    disturb(net, 1)
    teacher.update(net, decay)
    for name, value in values(teacher.model).items():
        if "num_batches" not in name:
            np.testing.assert_array_equal(value, (values(net) if decay == 0 else start)[name])


def test_no_gradient_and_nothing_shared_with_the_student():
    net = student()
    teacher = EMATeacher(net, "train")
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())
    ours = {tensor.data_ptr() for tensor in net.state_dict().values()}
    assert not ours & {tensor.data_ptr() for tensor in teacher.state_dict().values()}
    before = values(net)
    disturb(teacher.model, 5)
    assert all(np.array_equal(before[name], value) for name, value in values(net).items())
    memory = [parameter.data_ptr() for parameter in teacher.parameters()]
    teacher.update(net, 0.5)
    assert [parameter.data_ptr() for parameter in teacher.parameters()] == memory, "updated in place"
    assert all(parameter.grad_fn is None for parameter in teacher.parameters())
    assert not teacher(torch.randn(4, 4)).requires_grad


def test_train_mode_uses_batch_statistics_and_dropout():
    """Also when the student is in eval mode as the copy is made."""
    teacher = EMATeacher(student().eval(), "train")
    assert all(module.training for module in teacher.modules())
    x = torch.randn(64, 4)
    assert not torch.equal(teacher(x), teacher(x))


def test_eval_mode_uses_neither():
    teacher = EMATeacher(student(), "eval")
    assert not any(module.training for module in teacher.modules())
    x = torch.randn(64, 4)
    before = values(teacher.model)
    assert torch.equal(teacher(x), teacher(x))
    assert all(np.array_equal(before[name], value) for name, value in values(teacher.model).items())


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_its_forward_is_in_inference_mode_and_its_output_is_not(mode):
    """No autograd bookkeeping, not even version counters; and what comes out may enter a loss."""
    teacher, seen = EMATeacher(student(), mode), []
    for module in teacher.model:
        module.register_forward_hook(lambda module, inputs, y: seen.append((torch.is_inference_mode_enabled(), y.is_inference())))
    y = teacher(torch.randn(4, 4))
    assert seen == [(True, True)] * 4 and not y.is_inference() and not torch.is_inference_mode_enabled()
    weight = torch.ones(2, requires_grad=True)
    (y * weight).sum().backward()
    torch.testing.assert_close(weight.grad, y.sum(dim=0))


def test_semi_vits_teacher_labels_in_inference_mode(tiny):
    run, seen = tiny("semi_vit"), []
    run.method.teacher.model.register_forward_hook(lambda module, x, y: seen.append((torch.is_inference_mode_enabled(), y.is_inference())))
    run.steps(2)
    assert seen == [(True, True)] * 2, "one forward a step, of the weak views"


class Owner(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.model = student()
        self.teacher = EMATeacher(self.model, mode)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_mode_is_fixed_through_the_methods_train_and_eval(mode):
    owner = Owner(mode)

    def teachers_modes() -> set[bool]:
        return {module.training for module in owner.teacher.modules()}

    assert teachers_modes() == {mode == "train"}
    assert owner.eval() is owner and teachers_modes() == {False}
    assert owner.train() is owner and owner.training and teachers_modes() == {mode == "train"}
    owner.train(False)
    assert teachers_modes() == {False}
    assert owner.teacher.train() is owner.teacher and owner.teacher.eval() is owner.teacher


def test_unknown_mode_is_named():
    with pytest.raises(ValueError, match="train or eval, got 'batch'"):
        EMATeacher(student(), "batch")


def test_state_goes_through_a_checkpoint():
    owner = Owner("train")
    disturb(owner.teacher, 3)
    other = Owner("train")
    other.load_state_dict(owner.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(owner.teacher.parameters(), other.teacher.parameters(), strict=True))


def test_another_network_is_an_error():
    with pytest.raises(ValueError):
        EMATeacher(student(), "train").update(nn.Linear(4, 3), 0.5)


def test_capped_decay():
    assert [capped_decay(t, 0.999) for t in (1, 2, 3, 4, 10)] == pytest.approx(
        [0, 1 / 2, 2 / 3, 3 / 4, 9 / 10], abs=1e-12
    )
    assert capped_decay(999, 0.999) < 0.999
    assert [capped_decay(t, 0.999) for t in (1000, 1001, 10**9)] == [0.999] * 3
    assert capped_decay(1, 0.0) == capped_decay(50, 0.0) == 0


def test_capped_updates_are_a_true_mean_until_the_cap():
    net = nn.Linear(3, 2)
    teacher = EMATeacher(net, "train")
    seen = []
    for t in range(1, 9):
        disturb(net, t)
        seen.append(net.weight.detach().double().numpy().copy())
        teacher.update(net, capped_decay(t, 0.999))
    np.testing.assert_allclose(teacher.model.weight.double().numpy(), np.mean(seen, axis=0), atol=1e-6)
