"""What only a CUDA device can show; skipped without one."""

from __future__ import annotations

import pytest
import torch
from conftest import BN_FREE, LIVE, TINY, bn_free, last_stage_of

from ssl_bench import catalog, launch
from ssl_bench.feed import training_batches
from ssl_bench.nets import positional
from ssl_bench.placement import compile_networks
from ssl_bench.pools import make_pools
from ssl_bench.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# A method, with flags: the last of its stages, a stage before it that makes other steps, and what else changes a step.
METHODS = [pytest.param(name, [], id=name) for name in catalog.method_names()]
METHODS += [
    pytest.param("semi_vit", ["--stages", "finetune", "--finetune-ema-decay", "0.9"], id="semi_vit, fine-tuning"),
    pytest.param("semiformer", ["--stages", "warmup"], id="semiformer, warm-up"),
    pytest.param("semiformer", ["--remove-fcu"], id="semiformer, no units"),
    pytest.param("fixmatch", [*BN_FREE, "--positional", "apl"], id="fixmatch, positional apl"),
    pytest.param("fixmatch", [*BN_FREE, "--positional", "rpl", "--pairs-per-image", "8"], id="fixmatch, positional rpl"),
]


def trainer_on_gpu(name: str, digits, *argv: str):
    """(trainer, its batches), the tiny run of conftest on the GPU."""
    device = torch.device("cuda")
    method = catalog.load_method(name)
    args, _ = launch.resolve(method, [*TINY, *LIVE[name], "--device", "cuda", *argv])
    pools = make_pools(digits, args.num_samples_per_class, args.seed)
    built, args = last_stage_of(method, args, pools, device)
    trainer = Trainer(built, args, device)
    compile_networks(built, args)
    return trainer, training_batches(built, pools, args, device, 0)


def losses(trainer, batches, steps: int) -> list[dict[str, float]]:
    rows = []
    for _ in range(steps):
        trainer.update(next(batches))
        rows.append(trainer.means.pop())
    return rows


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("name", "stage"), METHODS)
def test_nothing_in_a_step_waits_for_the_device(digits, name, stage, precision):
    flags = ["--color-jitter", "0.4", "--erasing", "0.5", "--cutout", "0.3"]
    trainer, batches = trainer_on_gpu(name, digits, *stage, "--precision", precision, *flags)
    no_step_waits(trainer, batches)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_relative_positions_in_parts_wait_for_the_device(digits, precision, monkeypatch):
    """All pairs, of which a part at a time is held, and computed again in the backward pass."""
    monkeypatch.setattr(positional, "AT_ONCE", 2**12)
    no_step_waits(*trainer_on_gpu("fixmatch", digits, *BN_FREE, "--positional", "rpl", "--precision", precision))


def no_step_waits(trainer, batches) -> None:
    losses(trainer, batches, 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.update(next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.step == 6


@pytest.mark.parametrize("flags", [["--compile"], ["--cuda-graphs"], ["--cuda-graphs", "--accumulate", "2"], ["--concat", "--cuda-graphs"]])
@pytest.mark.parametrize(("name", "stage"), METHODS)
def test_compiled_and_replayed_equal_eager(digits, name, stage, flags):
    eager, other = (losses(*trainer_on_gpu(name, digits, *bn_free(name), *stage, *more), 6) for more in ([], flags))
    for a, b in zip(eager, other, strict=True):
        assert a == pytest.approx(b, rel=1e-3, nan_ok=True)


@pytest.mark.parametrize(("name", "stage"), METHODS)
def test_the_gpu_follows_the_cpu(digits, tiny, name, stage):
    """Batches are drawn on the host: the same images on any device."""
    ours, theirs = losses(*trainer_on_gpu(name, digits, *bn_free(name), *stage), 3), tiny(name, *bn_free(name), *stage).steps(3)
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-3, nan_ok=True)
