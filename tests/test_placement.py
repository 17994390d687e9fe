"""Networks on a device: memory order, refusals, and what to do when memory runs out."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from conftest import BN_FREE, LIVE, TINY, only_run, resolved

from ssl_bench import catalog, launch
from ssl_bench.placement import remedy
from ssl_bench.record import run_path


def test_convolutions_are_channels_last_unless_told_otherwise(tiny):
    def last(run) -> bool:
        return run.method.model.backbone.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)

    assert last(tiny("erm")) and not last(tiny("erm", "--no-channels-last"))


def test_the_order_in_memory_changes_rounding_only(tiny):
    rows = [tiny("fixmatch", *more).steps(3) for more in ([], ["--no-channels-last"])]
    for a, b in zip(*rows, strict=True):
        assert a == pytest.approx(b, rel=1e-4, nan_ok=True)


def test_momentum_of_a_checkpoint_in_another_memory_order_is_put_in_the_weights_order(tiny):
    """Fused optimisers read weight and momentum side by side in memory."""
    before, after = tiny("erm", "--no-channels-last"), tiny("erm")
    before.steps(2)
    after.trainer.load_state_dict(before.trainer.state_dict(before.pools.split_hash), after.pools.split_hash)
    a, b = before.steps(2), after.steps(2)
    assert a[-1] == pytest.approx(b[-1], rel=1e-4)
    for weight, state in after.trainer.optimizers[0].state.items():
        assert state["momentum_buffer"].stride() == weight.stride()
    theirs = before.weights()
    for key, value in after.weights().items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize(
    "argv,line",
    [
        (["--concat"], "--concat would mix the BatchNorm statistics .* use a network with LayerNorm"),
        (["--concat", "--arch", "test_vit", "--model-kwargs", "patch_size=2"], "--concat .*bottleneck.1 of test_vit.*--bottleneck-dim 0"),
        (["--cuda-graphs"], "--cuda-graphs needs a CUDA device, this is cpu"),
    ],
)
def test_flags_that_the_network_or_device_cannot_follow_are_refused(tmp_path, capfd, argv, line):
    code = launch.run_command(catalog.load_method("erm"), [*TINY, "--log", str(tmp_path), *argv])
    assert code == 1 and not list(tmp_path.rglob("result.json"))
    assert re.search(line, capfd.readouterr().err)


def test_out_of_memory_says_which_flag_to_set_to_what_and_which_keep_the_run():
    args = resolved("fixmatch", "--batch-size", "32", "--mu", "7")
    text = remedy(args, processes=1)
    assert text.startswith("32 labelled and 224 unlabelled images at a time; the run continues from its last checkpoint with ")
    same, other = text.split("; ")[1:]
    assert "--accumulate 2 (16 and 112 at a time)" in same and "--grad-checkpointing" in same
    assert "--batch-size 16 or --precision bf16" in other
    halved = resolved("fixmatch", "--batch-size", "32", "--mu", "7", "--accumulate", "2")
    assert "--accumulate 4 (4 and 28 at a time)" in remedy(halved, processes=2)
    smallest = remedy(resolved("erm", "--batch-size", "4", "--accumulate", "2", "--precision", "bf16", "--grad-checkpointing"), processes=1)
    assert "--accumulate" not in smallest and "--grad" not in smallest and "--batch-size 2 begins another run" in smallest


def test_what_saves_memory_keeps_the_run_and_runs_of_the_first_release_keep_their_names():
    base = run_path("fixmatch", resolved("fixmatch"))
    for flags in (["--accumulate", "2"], ["--grad-checkpointing"], ["--eval-batch-size", "8"], ["--concat"], ["--shard"]):
        assert run_path("fixmatch", resolved("fixmatch", *flags)) == base
    assert run_path("fixmatch", resolved("fixmatch", "--cuda-graphs")) == run_path("fixmatch", resolved("fixmatch", "--compile")) != base
    assert base.name == "0-c081e9e0c934"


@pytest.mark.slow
def test_peak_memory_is_this_process_own_not_that_of_its_parent():
    bloat = torch.ones(400 * 2**18)  # 400 MiB
    code = "import torch; from ssl_bench.placement import peak_memory; print(peak_memory(torch.device('cpu')) / 2**20)"
    child = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    held = torch.ones(300 * 2**18)
    again = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert bloat.numel() and held.numel() and abs(again - child) < 60


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), *(pytest.param(error, marks=pytest.mark.slow) for error in (RuntimeError("... can't allocate memory"), MemoryError()))])
def test_a_run_that_runs_out_of_memory_keeps_its_checkpoints_and_says_what_to_do(tmp_path, monkeypatch, capfd, error):
    method = catalog.load_method("fixmatch")
    original = method.train_step

    def fails_late(self, batch, loop):
        if loop.step == 4:
            raise error
        return original(self, batch, loop)

    argv = [*TINY, *BN_FREE, *LIVE["fixmatch"], "--checkpoint-freq", "2", "--log", str(tmp_path)]
    monkeypatch.setattr(method, "train_step", fails_late)
    assert launch.run_command(method, argv) == 1
    message = capfd.readouterr().err
    assert message.count("\n") == 1 and "out of memory on cpu: 8 labelled and 8 unlabelled images at a time" in message and "--accumulate 2" in message
    assert (only_run(tmp_path) / "checkpoints" / "state-00000004.pt").is_file()
    monkeypatch.setattr(method, "train_step", original)
    assert launch.run_command(method, [*argv, "--accumulate", "2", "--grad-checkpointing"]) == 0  # as the message said
    assert "continuing" in capfd.readouterr().out


def test_other_errors_of_torch_are_not_taken_for_memory(monkeypatch, tmp_path):
    method = catalog.load_method("erm")
    monkeypatch.setattr(method, "train_step", lambda *_: (_ for _ in ()).throw(RuntimeError("mat1 and mat2 shapes")))
    with pytest.raises(RuntimeError, match="mat1"):
        launch.run_command(method, [*TINY, "--log", str(tmp_path)])
