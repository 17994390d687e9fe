"""--positional on every method, whose script knows nothing of it: the term, its gradient, pairs, saving and refusals."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
from conftest import BN_FREE, LIVE, TINY, bn_free

from ssl_bench import catalog, launch
from ssl_bench.feed import training_batches
from ssl_bench.streams import PAIRS, generator_of

METHODS = [name for name in catalog.method_names() if not catalog.load_method(name).pretrains]
OTHERS = [name for name in METHODS if catalog.load_method(name).Args.positional == "none"]


@pytest.mark.parametrize(("name", "kind"), [(name, "apl") for name in OTHERS] + [
    (name, "rpl") if name in ("fixmatch", "semiformer") else pytest.param(name, "rpl", marks=pytest.mark.slow) for name in OTHERS])  # fmt: skip
def test_every_method_learns_positions_beside_its_own_terms(tiny, name, kind):
    plain, beside = tiny(name, *bn_free(name)), tiny(name, *bn_free(name), "--positional", kind)
    first, own = beside.steps(1)[0], plain.steps(1)[0]
    classes = 16 if kind == "apl" else 49
    assert first["position_loss"] == pytest.approx(0.5 * math.log(classes), rel=0.05)
    assert {key: first[key] for key in own} == pytest.approx(own, rel=1e-4, nan_ok=True)  # of the weights before the step
    backbones = [{key: value for key, value in run.weights().items() if key.startswith("model.backbone")} for run in (plain, beside)]
    assert all(not torch.equal(backbones[0][key], backbones[1][key]) for key in backbones[0] if "blocks" in key and "mlp" in key)
    beside.steps(2)
    moved = {key: value for key, value in beside.weights().items() if key.startswith("positional.")}
    assert {*moved} == {f"positional.{layer}.{part}" for layer in ("fc1", "fc2", "classifier") for part in ("weight", "bias")}


@pytest.mark.parametrize("name", ["fixmatch", "dst", "mean_teacher", "semi_vit", "self_tuning"])
def test_a_weight_of_zero_changes_nothing_but_the_order_of_sums(tiny, name):
    plain, beside = tiny(name, *bn_free(name)), tiny(name, *bn_free(name), "--positional", "apl", "--positional-weight", "0")
    plain.steps(2), beside.steps(2)
    ours = beside.weights()
    for key, value in plain.weights().items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_the_term_is_the_mean_over_the_images_of_all_forwards_with_gradient(tiny):
    check_the_term_is_the_mean_over_images(tiny)


def check_the_term_is_the_mean_over_images(tiny) -> None:
    run = tiny("fixmatch", *BN_FREE, "--positional", "apl", "--mu", "3")
    batch = next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0))
    images = torch.cat([*batch.x_l, batch.x_u[1]])  # labelled weak and strong, unlabelled strong; never the weak one
    with torch.no_grad():
        _, tokens = run.method.model(images, tokens=True)
        wanted, accuracy = run.method.positional(tokens)
    logged = run.steps(1)[0]
    assert logged["position_loss"] == pytest.approx(0.5 * wanted.item(), rel=1e-5)
    assert logged["position_acc"] == pytest.approx(accuracy.item(), abs=1e-6)
    assert not run.method.tokens


@pytest.mark.parametrize("flags", [["--accumulate", "2"], ["--concat"]])
@pytest.mark.parametrize("kind", [["apl"], ["rpl"], ["rpl", "--pairs-per-image", "20"]])
def test_parts_and_joint_forwards_train_the_same_weights(tiny, flags, kind):
    whole, other = (tiny("fixmatch", *BN_FREE, "--positional", *kind, *more) for more in ([], flags))
    whole.steps(3), other.steps(3)
    for key, value in whole.weights().items():
        torch.testing.assert_close(other.weights()[key], value, rtol=1e-5, atol=1e-5, msg=key)


def test_pairs_are_drawn_anew_each_step(tiny):
    run = tiny("erm", *BN_FREE, "--positional", "rpl", "--pairs-per-image", "12")
    asked = []
    run.method.positional.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[1]))
    run.steps(2)
    assert [len(pairs) for pairs in asked] == [12, 12] and not torch.equal(*asked)
    again = torch.randint(16, (12, 2), generator=generator_of(run.args.seed, PAIRS, 1))
    assert torch.equal(asked[1], again)


def test_what_is_saved_and_evaluated_is_the_network_alone(tiny):
    run = tiny("mean_teacher", *BN_FREE, "--positional", "apl")
    assert not any("positional" in key for key in run.method.evaluated().state_dict())
    assert not any("positional" in name for name, _ in run.method.teacher.named_parameters())
    run.method.eval()
    assert run.method.predict(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_a_teacher_gets_no_gradient_and_its_forward_no_term(tiny):
    run = tiny("mean_teacher", *BN_FREE, "--positional", "apl")
    calls = []
    run.method.model.register_forward_hook(lambda *_: calls.append("student"))
    run.method.positional.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    run.steps(1)
    assert calls == ["student"] * 3 + [24]
    assert all(value.grad is None for value in run.method.teacher.parameters())


def test_runs_without_it_keep_their_names():
    from ssl_bench.record import identity

    args = launch.resolve(catalog.load_method("erm"), TINY)[0]
    assert not {"positional", "positional_weight", "pairs_per_image", "pos_embed", "conditional_positions"} & {*identity(args)}
    changed = dataclasses.replace(args, positional="apl")
    assert "positional" in {*identity(changed)}


@pytest.mark.parametrize(("name", "flags", "text"), [
    ("fixmatch", ["--positional", "apl"], "--positional: --arch test_resnet has 1 tokens for 8 px, no grid of several"),
    ("fixmatch", ["--positional", "apl", "--arch", "wrn_10_1"], "--arch wrn_10_1 has no patch tokens to place: use a ViT"),
    ("mae", [*BN_FREE, "--positional", "apl"], "--positional: mae sees some of an image's patches"),
    ("erm", [*BN_FREE, "--positional", "apl", "--pairs-per-image", "9"], "--pairs-per-image is of --positional rpl"),
    ("erm", [*BN_FREE, "--pairs-per-image", "9"], "--pairs-per-image is of --positional rpl, not of none"),
    ("erm", ["--no-pos-embed"], "--no-pos-embed: --arch test_resnet has no position embedding to leave out"),
    ("erm", [*BN_FREE, "--conditional-positions"], "--conditional-positions: --arch test_vit has no blocks of a Swin"),
])  # fmt: skip
def test_what_cannot_be_is_one_line(capsys, name, flags, text):
    flags = [*(["--optimizer", "sgd"] if name == "mae" else []), *flags]
    assert launch.run_command(catalog.load_method(name), [*TINY, *flags]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert text in error[-1] and error[-1].startswith(f"{name}: error: ")


def test_without_positions_a_run_trains_and_is_evaluated_from_its_checkpoint(tmp_path, capsys):
    erm = catalog.load_method("erm")
    flags = [*TINY, *BN_FREE, "--no-pos-embed", "--positional", "rpl", "--log", str(tmp_path)]
    assert launch.run_command(erm, flags) == 0
    headline = capsys.readouterr().out.split("last_acc1 = ")[1].split()[0]
    assert launch.run_command(erm, [*flags, "--phase", "test", "--resume", "latest"]) == 0
    assert f"Acc@1 {float(headline):.1f}" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--no-pos-embed"], ["--arch", "swin_tiny_patch4_window7_224", "--image-size", "32", "--model-kwargs", "window_size=4",
    "patch_size=2", "embed_dim=8", "depths=(1,1)", "num_heads=(2,2)", "--conditional-positions", "--no-pos-embed"]])  # fmt: skip
def test_weights_made_without_positions_are_a_backbone_for_the_same_flags(tmp_path, capsys, flags):
    erm = catalog.load_method("erm")
    flags = [*TINY, *BN_FREE, *flags, "--epochs", "1"]
    assert launch.run_command(erm, [*flags, "--log", str(tmp_path / "a")]) == 0
    (weights,) = (tmp_path / "a").rglob("latest.pth")
    assert launch.run_command(erm, [*flags, "--pretrained-backbone", str(weights), "--log", str(tmp_path / "b")]) == 0
    (found,) = re.findall(r"(\d+) of (\d+) backbone tensors loaded", capsys.readouterr().out)
    assert found[0] == found[1]


def test_positions_of_a_file_are_left_aside_by_a_network_without(tmp_path, capsys):
    erm = catalog.load_method("erm")
    flags = [*TINY, *BN_FREE, "--epochs", "1"]
    assert launch.run_command(erm, [*flags, "--log", str(tmp_path / "a")]) == 0
    (weights,) = (tmp_path / "a").rglob("latest.pth")
    assert launch.run_command(erm, [*flags, "--no-pos-embed", "--pretrained-backbone", str(weights), "--log", str(tmp_path / "b")]) == 0
    assert "left aside" in capsys.readouterr().out


def test_a_convolutional_stream_alone_has_no_tokens(capsys):
    flags = [*TINY, *LIVE["semiformer"], "--streams", "conv", "--positional", "apl"]
    assert launch.run_command(catalog.load_method("semiformer"), flags) == 1
    assert "has no patch tokens to place: use --streams both or trans" in capsys.readouterr().err


def test_a_semiformer_refuses_layer_decay(capsys):
    assert launch.run_command(catalog.load_method("semiformer"), [*TINY, *LIVE["semiformer"], "--layer-decay", "0.5"]) == 1
    assert "--layer-decay: a WRN or a Semiformer does not say" in capsys.readouterr().err


def test_a_method_that_goes_round_forwards_is_told_so(tiny, monkeypatch):
    run = tiny("erm", *BN_FREE, "--positional", "apl")
    monkeypatch.setattr(type(run.method), "forwards", lambda self, *images: iter([None if x is None else self.model(x) for x in images]))
    with pytest.raises(ValueError, match="erm asks its network itself, and not through Method.forwards"):
        run.steps(1)
