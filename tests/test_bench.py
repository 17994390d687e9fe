"""Benchmarks run, measure in turn, and the page says what the records say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bench
import numpy as np
import pytest
import torch
from benchmarks import harness, loops, page, scaling
from benchmarks.harness import Options

from ssl_bench import catalog

REPOSITORY = Path(__file__).parent.parent


def test_the_page_is_what_the_records_give():
    text = page.PAGE.read_text()
    assert page.refreshed(text, bench.RESULTS) == text, "run: python tools/bench.py page"
    assert [what for what in bench.BENCHMARKS if f"<!-- bench: {what} -->" not in text] == []


def test_rounds_alternate_and_ratios_are_per_round():
    calls = []
    values = {"a": iter([9.0, 1.0, 4.0, 2.0]), "b": iter([9.0, 2.0, 2.0, 8.0])}

    def measure(name):
        return lambda: calls.append(name) or next(values[name])

    sides = ("A", measure("a")), ("B", measure("b"))
    row = harness.compare("x", *sides, rounds=3, ratio="b/a", unit="s", goal=">= 1", work=(6, "images"))
    assert calls == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert row["rounds"] == [[1, 2], [4, 2], [2, 8]], "the warm-up round is left out"
    assert row["ratio"] == {"median": 2.0, "q1": 1.25, "q3": 3.0, "min": 0.5, "n": 3}
    assert row["met"] and row["rate"] == 3.0
    assert harness.compare("x", ("A", lambda: 3.0), ("B", lambda: 2.0), rounds=1, ratio="a/b", goal="<= 1.05")["met"] is False


def test_seconds_are_of_one_call():
    ticks = []
    assert 0 <= harness.seconds(lambda: ticks.append(0), calls=5)() < 1
    assert len(ticks) == 5


def test_a_record_names_device_versions_threads_and_command(tmp_path):
    with harness.threads(1):
        rows = [harness.figure("x", [1.0, 3.0], unit="%", of="a step"), harness.skipped("y", "no GPU")]
    record = harness.report("step", rows, Options(command="python tools/bench.py step"))
    path = harness.write(record, tmp_path)
    assert path.parent == tmp_path and path.name.startswith("step-") and json.loads(path.read_text()) == record
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0] or record["versions"]["torch"] == torch.__version__
    assert record["machine"]["cores"] >= 1 and record["rows"][0]["threads"] == 1 and record["command"]
    printed = harness.table(record)
    assert "2 [1.5, 2.5] %" in printed and "not measured: no GPU" in printed
    assert "bench.py step" in page.block("step", tmp_path)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with harness.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


# Rows that start processes which import torch cost seconds: they run in the slow test.
QUICK = {
    "step": ["erm step", "mu 7, fp32", "same losses", "share,"], "startup": ["help"], "streams": ["step, tiny", "step, channels last"],
    "positional": [" time", "same loss", "erm step"],
}  # fmt: skip


@pytest.mark.parametrize(("what", "only"), [
    pytest.param(what, only, marks=pytest.mark.slow if what == "loader" else ()) for what in bench.BENCHMARKS for only in QUICK.get(what, [""])
])  # fmt: skip
def test_every_benchmark_runs_in_tiny_mode_and_leaves_no_file(what, only, capsys):
    before = sorted(bench.RESULTS.glob("*"))
    assert bench.main([what, "--tiny", "--device", "cpu", "--only", only]) == 0
    printed = capsys.readouterr().out
    assert "| case" in printed and "torch" in printed and (not only or only in printed)
    assert sorted(bench.RESULTS.glob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("what", ["step", "startup", "streams", "positional"])
def test_benchmarks_with_processes_of_their_own(what):
    before = sorted(bench.RESULTS.glob("*"))
    assert bench.main([what, "--tiny", "--device", "cpu"]) == 0
    assert sorted(bench.RESULTS.glob("*")) == before


def test_suite_and_published_loop_give_the_same_losses():
    from benchmarks import step

    s = step.setup("fixmatch", [*step.TINY, "--threshold", "0"], torch.device("cpu"))
    for loss, update in step.relative_differences(s, 3):
        assert loss < 1e-5 and update < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_mixing_and_the_loop_over_images_give_the_same(seed):
    from benchmarks import mixing

    x, label, confidence = mixing.examples(24, 9, torch.device("cpu"))
    before, mix = x.clone(), mixing.draw(24, np.random.default_rng(seed))
    assert 0 < mix.cut.sum() < 24
    ours, theirs = (mixed(x, label, mix, 10, 0.1, confidence) for mixed in (mixing.mix_batch, mixing.loop_over_images))
    assert torch.equal(x, before), "the images are left as they are"
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_step_is_timed_with_the_methods_own_mixing():
    from benchmarks import mixing

    s = loops.setup("semi_vit", [*mixing.TINY, "--pseudo-mixup", "none"], torch.device("cpu"))
    assert mixing.share_of_a_step("x", s, Options(tiny=True), 1, "<= 0.5")["met"]
    assert s.args.stages == ("semi",) and s.images == 2 + 4


def test_rows_of_a_gpu_run_on_any_device():
    from benchmarks import networks

    rows = networks.rows_of_semi_vit(Options(tiny=True), torch.device("cpu"))
    assert [row.get("skipped") for row in rows] == [None] * len(rows)
    assert [row["unit"] for row in rows] == ["ms", "images/s", "MiB", *["%"] * 4, "ms", "ms"]
    assert rows[1]["values"]["median"] == pytest.approx(6e3 / rows[0]["values"]["median"], rel=1e-3)
    assert sum(row["values"]["median"] for row in rows[3:7]) == pytest.approx(100, abs=0.1)
    assert [row["goal"] for row in rows[7:]] == ["<= 0.02", "<= 0.01"]


def test_a_case_that_fails_leaves_a_row():
    from benchmarks import networks

    def fails():
        raise ValueError("--layer-decay: a WRN does not\nsay what its layers are")

    assert networks._guarded("x", lambda case, s: [], fails) == [harness.skipped("x", "--layer-decay: a WRN does not say what its layers are")]


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "dst" else pytest.mark.slow) for name in catalog.method_names()])
def test_every_method_of_the_gpu_benchmark_has_an_optimizer(name):
    """Where a network and a method do not fit, the run on a GPU, which nobody watches, would end there."""
    from benchmarks import networks

    network = next(network for network in networks.NETWORKS if networks.trains(name, network))
    flags = [*networks.NETWORKS[network], *networks.MORE.get((name, network), []), "--batch-size", "2"]
    assert loops.setup(name, flags, torch.device("cpu")).build().optimizers()


def test_bare_and_suite_loops_move_the_same_network():
    """From one seed they start equal, and both move every weight."""
    from benchmarks import step

    s = loops.setup("fixmatch", step.TINY, torch.device("cpu"))
    assert torch.equal(step._flat(s.build().model), step._flat(s.build().model))
    for loop in (loops.suite_loop, loops.bare_loop, loops.published_loop):
        loop(s)()


def test_every_network_of_the_gpu_benchmark_has_its_methods():
    from benchmarks import networks

    names = [*catalog.method_names(), *networks.POSITIONAL]
    trained = {network: [name for name in names if networks.trains(name, network)] for network in networks.NETWORKS}
    with_patches = {"mae", "positional_label", *networks.POSITIONAL}
    for network, found in trained.items():
        one = "Semiformer" in network
        assert set(found) == ({"semiformer"} if one else {*names} - {"semiformer"} - (set() if "ViT" in network else with_patches))


class Remembering(loops.Setup):
    """Keeps what it built."""

    def build(self):
        object.__setattr__(self, "built", super().build())
        return self.built


@pytest.mark.parametrize("smooth", ["0", "0.1"])
def test_bare_and_suite_loops_of_semiformer_make_the_same_updates(smooth):
    """From images of one colour and one class, whose views are all the same, whichever are drawn."""
    from benchmarks import streams

    flags = "--threshold 0 --drop-path 0 --auto-augment= --erasing 0 --lr-warmup-epochs 0 --wd 0.5 --min-lr 0".split()
    s = loops.setup("semiformer", [*streams.TINY, *flags, "--label-smoothing", smooth], torch.device("cpu"))
    for images in (s.pools.labeled, s.pools.unlabeled):
        images.pixels.fill_(200)
        images.targets.fill(3)
    after = []
    for loop in (loops.suite_loop, loops.bare_loop):
        own = Remembering(s.method, s.args, s.pools, s.device)
        update = loop(own)
        before = {name: value.clone() for name, value in own.built.model.state_dict().items()}
        for _ in range(2):
            update()
        after.append(own.built.model.state_dict())
        assert all((value != before[name]).any() for name, value in after[-1].items() if name.endswith("cls_head.weight"))
    for name, value in after[0].items():
        torch.testing.assert_close(after[1][name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak is of the whole life of the process")
def test_the_memory_of_relative_labels_is_above_what_was_there():
    """All logits of 38416 pairs and their gradients the naive way; a part of them the other."""
    logits = 38416 * 729 * 4 / 2**20
    # Each in a process of its own: in this one, memory that other tests have freed but not given back serves as a buffer unseen.
    fast, naive = (
        float(subprocess.run(
            [sys.executable, "-m", "benchmarks.positional", kind, "cpu", "fp32", "14", "8", "1", "1"],
            capture_output=True, encoding="utf-8", check=True, cwd=REPOSITORY / "tools",
        ).stdout)
        for kind in ("fast", "naive")
    )  # fmt: skip
    assert 2 * logits < naive < 5 * logits and fast < 0.8 * naive


def test_the_door_needs_no_path_edit():
    for word, code in (("--help", 0), ("nothing", 2)):
        command = [sys.executable, "tools/bench.py", word]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
        assert done.returncode == code and "augment" in done.stdout + done.stderr


def test_the_scaling_model_counts_real_networks_and_follows_its_formulas():
    for network, arch in zip(scaling.NETWORKS, ("resnet50", "vit_base_patch16_224", "vit_huge_patch14_224"), strict=True):
        weights, flops = scaling.count(arch)
        assert network.weights == pytest.approx(weights, rel=1e-3) and network.flops == pytest.approx(flops, rel=1e-3)
    resnet, _, huge = scaling.NETWORKS
    assert scaling.sent(resnet, 1) == 0 and scaling.sent(resnet, 8) == pytest.approx(2 * 7 / 8 * 4 * resnet.weights)
    assert scaling.sent(huge, 64) == pytest.approx(7 * 63 / 64 * 4 * huge.weights)
    assert scaling.operations(resnet) == pytest.approx((224 + 3 * 256) * resnet.flops)
    alone, node, many = (scaling.step(resnet, gpus, scaling.Hardware())["total"] for gpus in (1, 8, 64))
    assert alone < node < many


def test_some_rows_of_a_record_can_be_measured_again(tmp_path):
    with harness.threads(1):
        first = harness.report("step", [harness.figure(case, [1.0], unit="s") for case in "ab"], Options(command="all"))
        again = harness.report("step", [harness.figure(case, [2.0], unit="s") for case in "bc"], Options(command="some"))
    path = harness.write(first, tmp_path)
    rows = harness.updated(again, tmp_path)["rows"]
    assert [(row["case"], row["values"]["median"]) for row in rows] == [("a", 1.0), ("b", 2.0), ("c", 2.0)]
    assert "measured" not in rows[0] and rows[1]["measured"].endswith(", some")
    path.write_text(json.dumps({**first, "versions": {"torch": "0"}}))
    with pytest.raises(ValueError, match="another machine or with other versions"):
        harness.updated(again, tmp_path)
