"""What every file in methods/ must keep to.  A new method joins by a row in conftest.LIVE and golden/losses.json."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BN_FREE, LIVE, TINY, bn_free, last_stage, only_run
from torch import nn

from ssl_bench import catalog, launch
from ssl_bench.args import TwoViewArgs
from ssl_bench.assessment import evaluate_method
from ssl_bench.datasets.images import Images
from ssl_bench.feed import training_batches
from ssl_bench.placement import compile_networks
from ssl_bench.record import read_jsonl
from ssl_bench.weights import read_tensors

REPOSITORY = Path(__file__).parent.parent
METHODS = catalog.method_names()
TWO_VIEWS = [name for name in METHODS if issubclass(catalog.load_method(name).Args, TwoViewArgs)]
GOLDEN = Path(__file__).parent / "golden" / "losses.json"


def slow_but_for(*names: str, of: list[str] = METHODS) -> list:
    """Every method; in the default run only those `names`, which between them do all that is particular."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in of]


def test_every_method_has_a_live_row_and_a_golden():
    assert set(LIVE) == set(METHODS) == set(json.loads(GOLDEN.read_text()))


@pytest.mark.parametrize("name", METHODS)
def test_name_is_the_file_stem(name):
    assert catalog.load_method(name).name == name


@pytest.mark.parametrize("name", METHODS)
def test_the_script_of_a_method_is_its_command(name, capsys):
    with pytest.raises(SystemExit) as ended:
        sys.modules[catalog.load_method(name).__module__].main(["-d", "Digits", "--seed", "7", "--dry-run"])
    described = json.loads(capsys.readouterr().out)
    assert not ended.value.code and (described["method"], described["seed"]) == (name, 7)


# 1. Exact resume


@pytest.fixture(scope="module", params=["mid-epoch", pytest.param("epoch edge", marks=pytest.mark.slow)])
def resumed(tmp_path_factory, request) -> dict[str, tuple[Path, Path]]:
    """Method -> (uninterrupted run folder, the one a new process finished from the checkpoint); the parameter says where it was cut."""
    root = tmp_path_factory.mktemp("resume")
    commands, folders = [], {}
    for name in METHODS:
        whole, part = root / name, root / f"{name}-resumed"
        argv = [*TINY, *LIVE[name], "--checkpoint-freq", "4" if request.param == "mid-epoch" else "0"]
        assert launch.run_command(catalog.load_method(name), [*argv, "--log", str(whole)]) == 0
        shutil.copytree(whole, part)
        folder = last_stage(only_run(part))
        for result in {only_run(part) / "result.json", folder / "result.json"}:
            result.unlink()
        (folder / "checkpoints" / "state-00000006.pt").unlink()
        commands.append([name, *argv, "--log", str(part)])
        folders[name] = last_stage(only_run(whole)), folder
    code = (
        "import json, sys, torch; torch.set_num_threads(1)\nfrom ssl_bench import catalog, launch\n"
        "for name, *argv in json.loads(sys.argv[1]):\n    assert launch.run_command(catalog.load_method(name), argv) == 0, argv\n"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("continuing") == len(commands)
    return folders


@pytest.mark.parametrize("name", METHODS)
def test_resume_is_exact(resumed, name):
    whole, part = resumed[name]
    states = [read_tensors(folder / "checkpoints" / "state-00000006.pt") for folder in (whole, part)]
    for key in ("method", "optimizers", "means", "scaler", "evaluations", "step", "images_seen", "split_hash"):
        assert_trees_equal(states[0][key], states[1][key], key)
    for weights in ("latest.pth", "best.pth"):
        assert_trees_equal(*(read_tensors(folder / "checkpoints" / weights) for folder in (whole, part)), weights)
    assert read_jsonl(whole / "metrics.jsonl") == read_jsonl(part / "metrics.jsonl")


@pytest.mark.parametrize("resumed", ["mid-epoch"], indirect=True)
@pytest.mark.parametrize("name", METHODS)
def test_checkpoints_of_different_steps_differ(resumed, name):
    whole, _ = resumed[name]
    early, late = (read_tensors(whole / "checkpoints" / f"state-0000000{step}.pt") for step in (4, 6))
    moved = [key for key in early["method"] if not torch.equal(early["method"][key], late["method"][key])]
    assert any("head" not in key for key in moved) and any("head" in key for key in moved)


def assert_trees_equal(a, b, where: str) -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_trees_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_trees_equal(*pair, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b) or (a.isnan() == b.isnan()).all() and torch.equal(a.nan_to_num(), b.nan_to_num()), where
    else:
        assert a == b, where


# 2. No peeking


def check_no_peeking(tiny, name: str) -> None:
    honest, blind = tiny(name), tiny(name)
    blind.pools = with_other_hidden_labels(blind.pools)
    blind.args = launch.resolve(type(blind.method), [*TINY, *LIVE[name]])[0]
    blind.start(type(blind.method))  # `prepare` too sees nothing else
    honest.steps(5), blind.steps(5)
    assert_trees_equal(honest.weights(), blind.weights(), name)


def with_other_hidden_labels(pools):
    """Wrong labels and none in turn, for the unlabelled images."""
    hidden = pools.unlabeled.targets
    other = np.where(np.arange(len(hidden)) % 2, -1, (hidden + 1) % len(pools.classes))
    return dataclasses.replace(pools, unlabeled=Images(other, pools.unlabeled.pixels))


def check_no_stage_peeks(tmp_path, monkeypatch, name: str, *argv: str) -> None:
    """A whole run from its command line: every stage, what each hands on, and what is saved."""
    make = launch.make_pools
    folders = []
    for change in (lambda pools: pools, with_other_hidden_labels):
        monkeypatch.setattr(launch, "make_pools", lambda *given, change=change, **more: change(make(*given, **more)))
        log = tmp_path / str(len(folders))
        assert launch.run_command(catalog.load_method(name), [*TINY, *LIVE[name], *argv, "--epochs", "1", "--log", str(log)]) == 0
        folders.append(only_run(log))
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.pth")) for folder in folders]
    assert files[0] == files[1] and len(files[0]) >= 2
    for file in files[0]:
        assert_trees_equal(*(read_tensors(folder / file) for folder in folders), str(file))


@pytest.mark.parametrize("name", METHODS)
def test_true_labels_of_unlabelled_images_change_nothing(tiny, name):
    check_no_peeking(tiny, name)


STAGES = {  # of methods that have several
    "noisy_student": ["--generations", "2"], "semi_vit": [*BN_FREE, *"--stages pretrain finetune semi --pretrain-epochs 1 --pretrain-iters-per-epoch 3".split()],
    "semiformer": [], "positional_label": ["--stages", "pretext", "train", "--pretext-epochs", "1"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_no_stage_of_a_run_sees_true_labels_of_unlabelled_images(tmp_path, monkeypatch, name):
    check_no_stage_peeks(tmp_path, monkeypatch, name, *STAGES[name])


# 3. No idle term


class Gradients:
    """Stands in for the trainer's Loop: what each backward adds to the student's gradient."""

    def __init__(self, method: nn.Module) -> None:
        self.method, self.step, self.epoch = method, 5, 0
        self.norms: dict[str, float] = {}
        self.losses: dict[str, float] = {}

    def backward(self, loss: torch.Tensor, term: str) -> None:
        before = self._gradient()
        loss.backward(retain_graph=True)  # the term of --positional shares forwards with the others
        self.norms[term] = (self._gradient() - before).norm().item()
        self.losses[term] = loss.item()

    def _gradient(self) -> torch.Tensor:
        return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in self.method.model.parameters()])


def check_no_idle_term(tiny, name: str) -> None:
    run = tiny(name)
    run.steps(3)  # so that a teacher differs from its student
    run.method.zero_grad()
    loop = Gradients(run.method)
    batch, _ = run.method.before_step(next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 3)), loop)
    run.method.train_step(batch, loop)
    run.method.position_step(loop)
    assert loop.norms and all(norm > 1e-8 for norm in loop.norms.values()), loop.norms
    assert all(loss > 0 for loss in loop.losses.values()), loop.losses
    assert len(" + ".join(loop.norms).split(" + ")) > 1 or not run.method.unlabeled_views
    trained = {id(p) for optimizer in run.trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in run.method.named_parameters():
        assert (id(parameter) in trained) == parameter.requires_grad, key
        assert (parameter.grad is None) == (id(parameter) not in trained), f"gradient of {key}"


@pytest.mark.parametrize("name", METHODS)
def test_each_term_moves_the_student_and_no_teacher(tiny, name):
    check_no_idle_term(tiny, name)


def check_differs_from_erm(tiny, name: str) -> None:
    supervised = {"mae": ["erm", *BN_FREE], "positional_label": ["erm", *BN_FREE], "semiformer": ["semiformer", "--semi-lambda", "0"]}
    ours, erm = tiny(name), tiny(*supervised.get(name, ["erm"]))  # with its network
    ours.steps(5), erm.steps(5)
    theirs = erm.method.model.state_dict()
    mine = {key: value for key, value in ours.method.model.state_dict().items() if key in theirs and value.is_floating_point()}
    gap = max((value - theirs[key]).abs().max().item() for key, value in mine.items())
    assert gap > 1e-6


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"erm"}))
def test_five_steps_differ_from_erm(tiny, name):
    check_differs_from_erm(tiny, name)


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_moves_in_three_steps(tiny, name):
    run = tiny(name, "--lr", "0.05")  # so that no step is lost in rounding
    before = {key: value.detach().clone() for key, value in run.method.named_parameters()}
    run.steps(3)
    still = [key for key, value in run.method.named_parameters() if torch.equal(before[key], value)]
    if name == "mae":
        still.remove("model.backbone.pos_embed")  # fixed
    assert all(name == "noisy_student" and key.startswith("teacher.") for key in still), still  # the one teacher that stays


# 4. Structure

FLOORS = (
    "whole_zip",
    "atomic messages weights whole_file",
    "array_file contact_sheet defaults distributed drawing energy environment flags foreign host_memory interrupt layouts losses run_row run_state schedules significance split split_list timm_weights trackers voting",
    "args augment curves datasets devices metrics mixup monitors nets parallel pretrained progress run_index word_parser yaml_file",
    "ema models prediction_figures recipe run_details runs shares transformer_args zoo",
    "prefetch record streams summary",
    "comparison evaluate figures pools",
    "duplicates method rank_figure",
    "catalog feed finite placement result",
    "assessment inventory pipeline published study_file trained",
    "evaluate_run exported predict tables trainer",
    "export gallery launch",
    "api plan plot report show",
    "local overview slurm watch",
    "study",
    "cli",
)


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _floor(module: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if module in names.split())


def test_a_file_imports_only_from_lower_floors():
    package = REPOSITORY / "ssl_bench"
    for path in package.rglob("*.py"):
        own = path.relative_to(package).with_suffix("").parts[0]
        if own == "__init__":
            continue
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] != "ssl_bench" or parts[1] in (own, "__version__"):
                continue
            assert _floor(parts[1]) < _floor(own), f"{path.name} imports {name}"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_imports_no_other_method_and_nothing_hidden(name):
    path = REPOSITORY / "methods" / f"{name}.py"
    for module in _imports(path):
        assert not module.startswith(("ssl_bench.methods", "methods")), module
        assert module.split(".")[0] in ("__future__", "dataclasses", "math", "typing", "torch", "ssl_bench"), module
    assert 35 <= len(path.read_text().splitlines()) <= 130


def script_lines(name: str) -> list[str]:
    """A method script without blank lines, imports and the door."""
    text = (REPOSITORY / "methods" / f"{name}.py").read_text().partition("\n\ndef main(")[0]
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith(("from ", "import ", '"""'))]


def longest_shared_run(a: list[str], b: list[str]) -> list[str]:
    match = difflib.SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    return a[match.a : match.a + match.size]


@pytest.mark.parametrize("a,b", [*itertools.combinations(METHODS, 2)])
def test_no_two_scripts_share_six_lines(a, b):
    shared = longest_shared_run(script_lines(a), script_lines(b))
    assert len(shared) < 6, "\n".join(shared)


def test_the_eleven_scripts_of_tllib_take_1100_lines_at_most():
    eleven = "erm pseudo_label pi_model mean_teacher uda fixmatch flexmatch debiasmatch dst self_tuning noisy_student".split()
    assert sum(len((REPOSITORY / "methods" / f"{name}.py").read_text().splitlines()) for name in eleven) <= 1100


# 5. Every field is read


@pytest.fixture(scope="module")
def read_by_the_library() -> set[str]:
    """What stands behind args., self. or in given.get()."""
    texts = (path.read_text() for path in (REPOSITORY / "ssl_bench").rglob("*.py") if path.name != "args.py")
    return {name for text in texts for name in re.findall(r"(?<=args\.)\w+|(?<=self\.)\w+|(?<=given\.get\(\")\w+", text)}


@pytest.mark.parametrize("name", METHODS)
def test_every_flag_is_read_somewhere(read_by_the_library, name):
    script = (REPOSITORY / "methods" / f"{name}.py").read_text()
    for field in dataclasses.fields(catalog.load_method(name).Args):
        read = field.name.removeprefix("finetune_").removeprefix("warmup_")  # one stage's value of another flag
        assert read in read_by_the_library or re.search(rf"(args|self)\.{read}\b", script), f"--{field.name} is never read"


# 6. Golden numbers


def golden_losses(tiny, name: str, network: str) -> list[dict[str, float]]:
    """Of LIVE's network with ReLU and BatchNorm, 2 steps; of one that is smooth, 6.

    In an activation near zero the rounding of another processor can flip a ReLU, and from there losses differ by 5e-4 to 6e-2: seen
    from the third step on. The smooth ones differ by 1e-5 at most.
    """
    steps, flags = {"resnet": (2, []), "vit": (6, [*bn_free(name), "--lr", "0.003"])}[network]
    return [{key: value for key, value in row.items() if key.endswith("_loss")} for row in tiny(name, *flags).steps(steps)]


@pytest.mark.parametrize("network", ["resnet", "vit"])
@pytest.mark.parametrize("name", METHODS)
def test_golden_losses(tiny, name, network):
    expected = json.loads(GOLDEN.read_text())[name][network]
    for step, (got, want) in enumerate(zip(golden_losses(tiny, name, network), expected, strict=True)):
        assert got == pytest.approx(want, rel=1e-4), f"step {step}"


@pytest.mark.parametrize("name", slow_but_for("erm", "fixmatch", "debiasmatch", "dst", "self_tuning", "semi_vit"))
def test_two_micro_batches_of_four_equal_one_batch_of_eight(tiny, name):
    whole, parts = (tiny(name, *bn_free(name), "--accumulate", n) for n in ("1", "2"))
    whole.steps(3), parts.steps(3)
    for key, value in whole.weights().items():
        torch.testing.assert_close(parts.weights()[key], value, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", slow_but_for("fixmatch"))
def test_bf16_follows_fp32(tiny, name):
    exact = [row["cls_loss"] for row in tiny(name, *bn_free(name)).steps(10)]
    coarse = [row["cls_loss"] for row in tiny(name, *bn_free(name), "--precision", "bf16").steps(10)]
    assert np.mean(coarse) == pytest.approx(np.mean(exact), rel=0.02)
    assert coarse != exact


@pytest.mark.parametrize("name", slow_but_for("erm", "fixmatch", "dst", "self_tuning", "semi_vit", "semiformer"))
def test_one_joint_forward_trains_the_same_weights(tiny, name):
    apart, joint = (tiny(name, *bn_free(name), *concat) for concat in ([], ["--concat"]))
    forwards = []
    joint.method.model.register_forward_hook(lambda *_: forwards.append(torch.is_grad_enabled()))
    for a, b in zip(apart.steps(3), joint.steps(3), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-8, nan_ok=True)
    assert sum(forwards) == (6 if name == "mae" else 3)  # with gradient, one a step; a probe needs the images whole
    for key, value in apart.weights().items():
        torch.testing.assert_close(joint.weights()[key], value, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", slow_but_for("fixmatch", "dst", of=TWO_VIEWS))
def test_a_labelled_strong_view_of_weight_zero_is_not_made_and_changes_nothing(tiny, name):
    """--trade-off-cls-strong 0, the papers' loss: the second forward would only cost time."""
    without, tiny_weight = (tiny(name, *bn_free(name), "--trade-off-cls-strong", weight) for weight in ("0", "1e-30"))
    batch = next(training_batches(without.method, without.pools, without.args, torch.device("cpu"), 0))
    assert batch.x_l[1] is None and batch.x_l[0].shape[0] == 8
    a, b = without.steps(3), tiny_weight.steps(3)
    assert [row["cls_loss"] for row in a] == pytest.approx([row["cls_loss"] for row in b], rel=1e-6)
    joint = tiny(name, *bn_free(name), "--trade-off-cls-strong", "0", "--concat", "--accumulate", "2").steps(3)
    assert [row["cls_loss"] for row in joint] == pytest.approx([row["cls_loss"] for row in a], rel=1e-5)


@pytest.mark.parametrize("name", slow_but_for("mean_teacher", "self_tuning"))
def test_checkpointed_activations_train_the_same_weights(tiny, name):
    kept, again = tiny(name, *bn_free(name)), tiny(name, *bn_free(name), "--grad-checkpointing")
    kept.steps(3), again.steps(3)
    for key, value in kept.weights().items():
        torch.testing.assert_close(again.weights()[key], value, rtol=1e-6, atol=1e-6, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_compiled_equals_eager_in_one_graph_a_forward_and_compiles_no_more_after_three_steps(tiny, name):
    eager, compiled = tiny(name, *bn_free(name)), tiny(name, *bn_free(name), "--compile")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_networks(compiled.method, compiled.args)
    for a, b in zip(eager.steps(3), compiled.steps(3), strict=True):
        assert a == pytest.approx(b, rel=1e-4, nan_ok=True)
    evaluate_method(compiled.method, compiled.pools, compiled.args, torch.device("cpu"))
    assert not torch._dynamo.utils.counters["graph_break"]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled.steps(3)
        evaluate_method(compiled.method, compiled.pools, compiled.args, torch.device("cpu"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


# Waiting for the device


def waits(step) -> int:
    """How often `step` reads a number out of a tensor: on a GPU each would wait for it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    return sum(event.count for event in profile.key_averages() if event.key in ("aten::_local_scalar_dense", "aten::nonzero"))


@pytest.mark.parametrize("name", METHODS)
def test_nothing_in_a_step_waits_for_the_device(tiny, name):
    run = tiny(name, "--color-jitter", "0.4", "--erasing", "0.5", "--cutout", "0.3", "--clip-grad", "1", "--train-resizing", "default")
    batches = training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0)
    run.trainer.update(next(batches))
    batch = next(batches)
    assert waits(lambda: run.trainer.update(batch)) == 0
    assert waits(lambda: torch.ones(1).item()) == 1


# Small label sets


@pytest.mark.parametrize("name", slow_but_for("flexmatch", "self_tuning"))
def test_one_label_per_class_and_a_batch_larger_than_the_labelled_set(tiny, name):
    logged = tiny(name, "--num-samples-per-class", "1", "--batch-size", "16").steps(2)
    assert all(np.isfinite(row["cls_loss"]) for row in logged)
