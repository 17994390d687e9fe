"""Every loss, mixing rule and average against NumPy in float64, in both precisions: 1e-12 where the library computes in float64 too.

The library computes losses in float32 whatever a network's precision is.  Here its ``.float()`` is ``.double()``, and new tensors
are float64: the same code, term by term, without what rounding could hide.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import test_methods
import torch
from test_methods import OneStep, softmax
from test_semiformer import a_batch

from ssl_bench import losses, mixup
from ssl_bench.ema import EMATeacher, capped_decay, constant_decay
from ssl_bench.nets.mae import Decoder, keep
from ssl_bench.nets.positional import PositionHead
from ssl_bench.voting import RULES, two_stream_labels

flexmatch, dst, self_tuning, uda = test_methods.flexmatch, test_methods.dst, test_methods.self_tuning, test_methods.uda
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"], autouse=True)
def precision(request, monkeypatch):
    torch.set_default_dtype(request.param)
    if request.param == torch.float64:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield request.param
    torch.set_default_dtype(torch.float32)


def draws(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return torch.from_numpy(scale * np.random.default_rng(seed).normal(size=shape)).to(torch.get_default_dtype())


def close(got, want) -> None:
    """To 1e-6 or 1e-12 of what is wanted, and of 1."""
    tolerance = TOLERANCE[torch.get_default_dtype()]
    got = got.detach().numpy() if isinstance(got, torch.Tensor) else got
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def double(y: torch.Tensor) -> np.ndarray:
    return y.detach().numpy().astype(np.float64)


def nll(y: np.ndarray, label: np.ndarray) -> np.ndarray:
    """-log softmax(y)[label] of each row, by the sum of exponentials."""
    return np.array([math.log(sum(math.exp(v - row[k]) for v in row)) for row, k in zip(y, label, strict=True)])


def log_softmax(y: np.ndarray) -> np.ndarray:
    return y - np.log(np.exp(y).sum(axis=-1, keepdims=True))


LABEL = np.array([0, 3, 3, 1, 4, 2, 0, 1])


# losses.py


@pytest.mark.parametrize("trade_off", [0.0, 0.1, 2.5])
def test_two_view_cross_entropy(trade_off):
    y, z, target = draws(8, 5), draws(8, 5, seed=1), torch.from_numpy(LABEL)
    close(losses.two_view_cross_entropy(y, z, target, trade_off), nll(double(y), LABEL).mean() + trade_off * nll(double(z), LABEL).mean())
    close(losses.two_view_cross_entropy(y, None, target, trade_off), nll(double(y), LABEL).mean())


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7, 1.0, 1.5])
def test_masked_cross_entropy_of_confident_labels(threshold):
    weak, strong = draws(8, 5), draws(8, 5, seed=1)
    mask, pseudo = losses.confident_pseudo_labels(weak, threshold)
    sure = softmax(double(weak)).max(axis=1) > threshold
    assert mask.tolist() == sure.tolist() and pseudo.tolist() == double(weak).argmax(axis=1).tolist()
    assert sure.all() if threshold == 0 else not sure.any() if threshold >= 1 else 0 < sure.sum() < 8
    close(losses.masked_cross_entropy(strong, pseudo, mask), (nll(double(strong), pseudo.numpy()) * sure).sum() / 8)
    if threshold >= 1:
        assert losses.masked_cross_entropy(strong, pseudo, mask) == 0


def test_soft_cross_entropy():
    y, q = draws(8, 5), draws(8, 5, seed=1).softmax(dim=1)
    close(losses.soft_cross_entropy(y, q), [-sum(a * b for a, b in zip(*rows, strict=True)) for rows in zip(double(q), log_softmax(double(y)), strict=True)])
    hard = torch.eye(5)[LABEL]
    close(losses.soft_cross_entropy(y, hard), nll(double(y), LABEL))
    assert (losses.soft_cross_entropy(y, torch.zeros(8, 5)) == 0).all()


def test_accuracies_for_display():
    p = draws(8, 5).softmax(dim=1)
    hidden = np.array([0, -1, 3, 1, 4, -1, 2, 2])
    right = double(p).argmax(axis=1) == hidden
    close(losses.hidden_accuracy(p, torch.from_numpy(hidden)), right[hidden >= 0].mean())
    assert math.isnan(losses.hidden_accuracy(p, torch.full((8,), -1)))
    first = torch.tensor([[9.0, 0], [0, 9], [9, 0], [9, 0]])  # class 0 counts like any other
    close(losses.hidden_accuracy(first, torch.tensor([0, 0, 1, 0])), 2 / 4)
    mask = np.array([1, 1, 0, 1, 0, 0, 1, 1])
    got = losses.pseudo_label_metrics(torch.from_numpy(mask).to(p.dtype), p.argmax(dim=1), torch.from_numpy(hidden))
    close(got["kept"], 5 / 8)
    close(got["pseudo_acc"], right[(mask == 1) & (hidden >= 0)].mean())


# Losses of one method


def test_kl_divergence_and_its_limits():
    p, y = draws(8, 5).softmax(dim=1), draws(8, 5, seed=1)
    close(uda.kl_divergence(p, y.log_softmax(dim=1)), (double(p) * (np.log(double(p)) - log_softmax(double(y)))).sum(axis=1))
    sharp = (draws(8, 5) / 1e-4).softmax(dim=1)  # T -> 0: the arg max alone
    close(uda.kl_divergence(sharp, y.log_softmax(dim=1)), nll(double(y), double(draws(8, 5)).argmax(axis=1)))


@pytest.mark.parametrize("side", ["target", "student"])
@pytest.mark.parametrize("divisor", ["batch", "kept"])
def test_uda(tiny, side, divisor):
    logits = [draws(8, 10, seed=i) for i in range(4)]
    step = OneStep(tiny("uda", "--threshold", "0.6", "--T", "0.4", "--temperature-on", side, "--divide-by", divisor, "--trade-off-con", "0.7"), logits)
    weak, strong = map(double, logits[2:])
    p, log_q = softmax(weak / (0.4 if side == "target" else 1)), log_softmax(strong / (1 if side == "target" else 0.4))
    mask = softmax(weak).max(axis=1) > 0.6
    assert 0 < mask.sum() < 8
    kl = ((p * (np.log(p) - log_q)).sum(axis=1) * mask).sum()
    close(step.losses["con_loss"], 0.7 * kl / (8 if divisor == "batch" else mask.sum()))


@pytest.mark.parametrize("name", ["fixmatch", "pseudo_label"])
def test_hard_pseudo_labels(tiny, name):
    logits = [draws(8, 10, seed=i) for i in range(4 if name == "fixmatch" else 3)]
    step = OneStep(tiny(name, "--threshold", "0.6", "--trade-off-self-training", "1.7"), list(logits))
    weak, strong = double(logits[2]), double(logits[-1])
    mask = softmax(weak).max(axis=1) > 0.6
    assert 0 < mask.sum() < 8
    close(step.losses["self_training_loss"], 1.7 * (nll(strong, weak.argmax(axis=1)) * mask).mean())
    supervised = [nll(double(y), step.batch.y_l.numpy()).mean() for y in logits[:2]]
    close(step.losses["cls_loss"], supervised[0] + 0.1 * supervised[1])


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("selected", [[-1] * 9, [0, 0, 1, -1, -1, -1, 2, 0, -1], [3] * 9])
def test_flexible_thresholds(warmup, selected):
    close(flexmatch.flexible(torch.tensor(selected), 4, warmup), test_methods.reference_factors(selected, 4, warmup))


def test_debiasmatch(tiny):
    run = tiny("debiasmatch", "--threshold", "0.9", "--tau", "2", "--momentum", "0.9")
    prior = np.linspace(1, 10, 10) / 55
    run.method.prior.copy_(torch.from_numpy(prior))
    prior = double(run.method.prior)
    logits = [draws(8, 10, seed=i) for i in range(4)]
    step = OneStep(run, list(logits))
    weak, strong = map(double, logits[2:])
    target = softmax(weak - 2 * np.log(prior))
    mask = target.max(axis=1) > 0.9
    assert 0 < mask.sum() < 8
    close(step.losses["self_training_loss"], (nll(strong + 2 * np.log(prior), target.argmax(axis=1)) * mask).mean())
    run.method.after_step(step)
    close(run.method.prior, 0.9 * prior + 0.1 * softmax(weak).mean(axis=0))


@pytest.mark.parametrize("labels", ["true", "predicted"])
def test_dst(tiny, labels):
    run = tiny("dst", "--threshold", "0.5", "--eta", "0.5", "--eta-prime", "3", "--worst-case-labels", labels)
    logits = [draws(8, 30, seed=0), draws(16, 30, seed=1), draws(8, 30, seed=2)]
    step = OneStep(run, list(logits))
    y_l, parts = step.batch.y_l.numpy(), [np.split(double(y), 3, axis=1) for y in logits]
    main, _, adversarial = parts[1]
    pseudo, label = main[8:].argmax(axis=1), y_l if labels == "true" else main[:8].argmax(axis=1)
    agreed = -np.log(1 - softmax(adversarial[8:])[np.arange(8), pseudo] + 1e-6).mean()
    close(step.losses["cls_strong_loss"], 0.1 * nll(parts[0][0], y_l).mean())
    close(step.losses["cls_loss + worst_case_loss"], nll(main[:8], y_l).mean() + 0.5 * (3 * nll(adversarial[:8], label).mean() + agreed))
    mask = softmax(main[8:]).max(axis=1) > 0.5
    assert 0 < mask.sum() < 8
    close(step.losses["self_training_loss"], (nll(parts[2][1], pseudo) * mask).mean())


@pytest.mark.parametrize("T", [0.07, 1.0])
def test_group_contrast(T):
    h, key, memory = (torch.nn.functional.normalize(draws(*shape, seed=i), dim=-1) for i, shape in enumerate([(6, 7), (6, 7), (4, 3, 7)]))
    label = torch.tensor([0, 3, 3, 1, 2, 0])
    got, want = self_tuning.group_contrast(h, key, label, memory, T), test_methods.reference_contrast(*map(double, (h, key)), label.numpy(), double(memory), T)
    if torch.get_default_dtype() == torch.float32:
        assert got.item() == pytest.approx(want, rel=3e-6)  # logits of up to 1 / 0.07 lose a digit
    else:
        close(got, want)


@pytest.mark.parametrize("name", ["mean_teacher", "pi_model"])
@pytest.mark.parametrize("epoch", [0, 3, 20])
def test_consistency(tiny, name, epoch):
    run = tiny(name, "--warm-up-epochs", "10", "--trade-off-con", "0.3", "--mu", "2")
    logits = [draws(8, 10), draws(8, 10, seed=1), draws(16, 10, seed=2), draws(16, 10, seed=3)]
    if name == "mean_teacher":
        run.method.teacher.forward = lambda x, y=logits[3]: y
    step = OneStep(run, list(logits), epoch)
    p, q = (softmax(double(y)) for y in logits[2:])
    mean = np.mean([sum((a - b) ** 2 for a, b in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)])
    ramp = math.exp(-5 * (1 - min(epoch, 10) / 10) ** 2)
    close(step.losses["con_loss"], 0.3 * ramp * mean * (16 if name == "mean_teacher" else 1))


@pytest.mark.parametrize("T", [0.5, 2.5])
def test_noisy_student(tiny, precision, T):
    torch.set_default_dtype(torch.float32)  # its teacher forwards images
    run = tiny("noisy_student", "--T", str(T), "--trade-off-self-training", "0.6")
    torch.set_default_dtype(precision)
    run.method.teacher_logits = draws(len(run.pools.unlabeled), 10, seed=9)
    strong = draws(8, 10, seed=3)
    step = OneStep(run, [draws(8, 10), draws(8, 10), strong])
    p = softmax(double(run.method.teacher_logits[:8]) / T)
    close(step.losses["self_training_loss"], -0.6 * (p * log_softmax(double(strong) / T)).sum(axis=1).mean())


@pytest.mark.parametrize("smooth", [False, True])
def test_semiformer(tiny, smooth):
    run = tiny("semiformer", "--mu", "2", "--threshold", "0.6", "--semi-lambda", "4", "--label-smoothing", "0.2", *(["--unlabel-smooth"] if smooth else []))
    strong, weak = (draws(24, 10), draws(24, 10, seed=1)), (draws(16, 10, seed=2), draws(16, 10, seed=3))
    waiting = iter([strong, weak])
    run.method.model.forward = lambda x: next(waiting)
    terms = {}

    class Loop:
        step = epoch = 0

        def backward(self, loss, term):
            terms[term] = loss

    batch = a_batch(run)
    run.method.train_step(batch, Loop())
    p = softmax(double(weak[0]))
    mask, pseudo = p.max(axis=1) >= 0.6, p.argmax(axis=1)
    assert 0 < mask.sum() < 16

    def smoothed(y: np.ndarray, label: np.ndarray, share: float) -> np.ndarray:
        return (1 - share) * nll(y, label) - share * log_softmax(y).mean(axis=1)

    supervised = np.mean([smoothed(double(y)[:8], batch.y_l.numpy(), 0.2).mean() for y in strong])
    unsupervised = np.mean([(mask * smoothed(double(y)[8:], pseudo, 0.2 if smooth else 0)).mean() for y in strong])
    close(terms["cls_loss + self_training_loss"], supervised + 4 * unsupervised)


def voted(c: float, t: float, k: int, m: int, source: str, tau: float) -> tuple[float, int]:
    """The authors' rules, case by case."""
    only_conv, only_trans, agree, disagree, whose = RULES[source]
    if c >= tau and t >= tau:
        return (agree, k) if k == m else (disagree, m if whose == "surer" and t >= c else k)
    return (only_conv, k) if c >= tau else (only_trans, m) if t >= tau else (0, k)


@pytest.mark.parametrize("source", ["cnn", "transformer", "fuse", "softmax_fuse", *RULES])
def test_labels_of_two_streams(source):
    y_conv, y_trans = draws(64, 4), draws(64, 4, seed=1)
    weight, label = two_stream_labels(y_conv, y_trans, source, 0.6)
    p, q = softmax(double(y_conv)), softmax(double(y_trans))
    alone = {"cnn": p, "transformer": q, "softmax_fuse": (p + q) / 2, "fuse": softmax((double(y_conv) + double(y_trans)) / 2)}
    if source in alone:
        want = [(float(row.max() >= 0.6), row.argmax()) for row in alone[source]]
    else:
        want = [voted(a.max(), b.max(), a.argmax(), b.argmax(), source, 0.6) for a, b in zip(p, q, strict=True)]
    assert [(w, k) for w, k in zip(weight.tolist(), label.tolist(), strict=True) if w] == [(w, k) for w, k in want if w]
    assert 0 < (weight > 0).sum() < 64


@pytest.mark.parametrize("kind", ["apl", "rpl"])
@pytest.mark.parametrize("pairs", [None, [[0, 5], [3, 3], [4, 1]]])
def test_positions(kind, pairs):
    head, tokens, (rows, columns) = PositionHead(8, (2, 3), kind), draws(2, 6, 8, scale=1), (2, 3)
    weights = [(double(layer.weight) * 30, double(layer.bias) + 0.1) for layer in (head.fc1, head.fc2, head.classifier)]
    with torch.no_grad():
        for layer, (weight, bias) in zip((head.fc1, head.fc2, head.classifier), weights, strict=True):
            layer.weight.copy_(torch.from_numpy(weight)), layer.bias.copy_(torch.from_numpy(bias))

    def logits(x: np.ndarray) -> np.ndarray:
        (w1, b1), (w2, b2), (w3, b3) = weights
        hidden = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in w1 @ x + b1])
        return w3 @ (w2 @ hidden + b2) + b3

    x, terms, right = double(tokens), [], []
    for image in x:
        for i, j in ([(i, i) for i in range(6)] if kind == "apl" else pairs or [(i, j) for i in range(6) for j in range(6)]):
            y = logits(image[i, :4] if kind == "apl" else np.concatenate([image[i, :4], image[j, 4:]]))
            offset = (i // columns - j // columns + rows - 1) * (2 * columns - 1) + i % columns - j % columns + columns - 1
            label = i if kind == "apl" else offset
            terms.append(nll(y[None], np.array([label]))[0])
            right.append(y.argmax() == label)
    loss, accuracy = head(tokens, None if pairs is None or kind == "apl" else torch.tensor(pairs))
    close(loss, np.mean(terms))
    close(accuracy, np.mean(right))


def test_reconstruction(tiny):
    run = tiny("mae", "--mask-ratio", "0.5")
    decoder: Decoder = run.method.decoder
    x, noise = draws(3, 3, 8, 8), draws(3, decoder.patches, seed=1).abs()
    kept = keep(noise, 0.5)
    predicted = draws(3, decoder.patches, decoder.target(x).shape[2], seed=2)
    decoder.predict = lambda tokens, places: predicted
    p, (rows, columns) = decoder.size[0], decoder.grid
    for image, places, guess, got in zip(double(x), kept, double(predicted), decoder(None, x, kept), strict=True):
        errors = []
        for n in sorted(set(range(rows * columns)) - set(places.tolist())):
            i, j = divmod(n, columns)
            patch = image[:, i * p : (i + 1) * p, j * p : (j + 1) * p].transpose(1, 2, 0).ravel()
            errors.append(((guess[n] - (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)) ** 2).mean())
        close(got, np.mean(errors))


# Mixing


def test_smoothed_targets():
    for share in (0.0, 0.1, 0.7):
        close(mixup.smoothed(torch.from_numpy(LABEL), 5, share), (1 - share) * np.eye(5)[LABEL] + share / 5)


@pytest.mark.parametrize("kind", ["mixup", "prob"])
@pytest.mark.parametrize("seed", range(3))
def test_mixed_images_and_targets(kind, seed):
    random = np.random.default_rng(seed)
    draw = mixup.draw_pseudo_mixup if kind == "prob" else lambda n, **settings: mixup.draw_mixup(n, mode="elem", **settings)
    mix = draw(8, mixup=0.8, cutmix=1.0, random=random)
    x, confidence = draws(8, 3, 9, 12, seed=seed), torch.from_numpy(random.uniform(0.2, 1, 8)).to(torch.get_default_dtype())
    got_x, got_q = mixup.mix_batch(x.clone(), torch.from_numpy(LABEL), mix, 5, 0.1, confidence)
    c, target = double(confidence), 0.9 * np.eye(5)[LABEL] + 0.1 / 5
    for i, j in enumerate(mix.partner.tolist()):
        own = c[i] / (c[i] + c[j]) if kind == "prob" else mix.weight[i].item()
        want = own * double(x)[i] + (1 - own) * double(x)[j]
        if mix.cut[i]:
            want, inside = double(x)[i].copy(), np.zeros((9, 12), dtype=bool)
            h, w = int(9 * math.sqrt(1 - own)), int(12 * math.sqrt(1 - own))
            top, left = int(mix.centre[i, 0] * 9) - h // 2, int(mix.centre[i, 1] * 12) - w // 2
            inside[max(top, 0) : max(top + h, 0), max(left, 0) : max(left + w, 0)] = True
            want[:, inside] = double(x)[j][:, inside]
            own = 1 - inside.mean()
        close(got_x[i], want)
        close(got_q[i], own * target[i] + (1 - own) * target[j])
    sure = mixup.surest(confidence, mix)
    close(sure, np.maximum(c, c[mix.partner.numpy()]) if kind == "prob" else c)


# Averages


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_moving_average(decay):
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    teacher, history = EMATeacher(net, "eval"), [{key: double(value) for key, value in net.state_dict().items()}]
    for step in range(9):
        with torch.no_grad():
            for i, tensor in enumerate(net.state_dict().values()):
                tensor.copy_(draws(*tensor.shape, seed=100 * step + i) if tensor.is_floating_point() else torch.tensor(step))
        history.append({key: double(value) for key, value in net.state_dict().items()})
        teacher.update(net, decay)
    for key, value in teacher.model.state_dict().items():
        if value.is_floating_point():
            close(value, decay**9 * history[0][key] + sum((1 - decay) * decay ** (9 - t) * history[t][key] for t in range(1, 10)))
        else:
            assert value == 8


def test_decays():
    for t in (1, 2, 3, 10, 999, 1000, 1001, 10**6):
        assert capped_decay(t, 0.999) == pytest.approx(min(0.999, (t - 1) / t), abs=1e-12)
    for steps, want in ((1, 0), (20, 0), (40, 0.5), (2000, 0.99)):
        assert constant_decay(None, steps) == pytest.approx(want, abs=1e-12)
        assert constant_decay(0.123, steps) == 0.123


# Gradients


def double_losses() -> dict:
    label, mask = torch.from_numpy(LABEL), torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1])
    q = draws(8, 5, seed=4).softmax(dim=1)
    memory = torch.nn.functional.normalize(draws(5, 3, 6, seed=5), dim=2)
    key = torch.nn.functional.normalize(draws(8, 6, seed=6), dim=1)
    return {
        "two_view": (lambda y: losses.two_view_cross_entropy(y, y.flip(0), label, 0.3), (8, 5)),
        "masked": (lambda y: losses.masked_cross_entropy(y, label, mask), (8, 5)),
        "soft": (lambda y: losses.soft_cross_entropy(y, q).sum(), (8, 5)),
        "kl": (lambda y: uda.kl_divergence(q, y.log_softmax(dim=1)).sum(), (8, 5)),
        "agreement": (lambda y: dst.agreement_penalty(y, label), (8, 5)),
        "contrast": (lambda h: self_tuning.group_contrast(h, key, label, memory, 0.2), (8, 6)),
    }


@pytest.mark.parametrize("name", ["two_view", "masked", "soft", "kl", "agreement", "contrast"])
def test_gradients_are_those_of_differences(precision, name):
    if precision == torch.float64:
        loss, shape = double_losses()[name]
        assert torch.autograd.gradcheck(loss, (draws(*shape, seed=7).requires_grad_(),))


@pytest.mark.parametrize("kind", ["apl", "rpl"])
def test_gradients_of_positions_are_those_of_differences(precision, kind):
    if precision == torch.float64:
        head = PositionHead(8, (2, 2), kind)
        assert torch.autograd.gradcheck(lambda tokens: head(tokens)[0], (draws(2, 4, 8).requires_grad_(),))


def test_no_loss_sends_gradient_into_its_target():
    weak = draws(8, 5).requires_grad_()
    assert not any(part.requires_grad for part in losses.confident_pseudo_labels(weak, 0.5))
    assert not any(part.requires_grad for part in two_stream_labels(weak, weak, "fuse", 0.5))
