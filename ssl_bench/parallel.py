"""One network on many devices: gradients averaged over replicas, or the network itself sharded (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_bench import distributed

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

BUCKET_BYTES = 25 * 2**20  # as DistributedDataParallel: large enough to use the wire well, small enough to begin early


class GradientMean:
    """Replaces gradients by their mean over the processes, in buckets, those of a step's last backward while it still runs.

    A method calls backward as often as it likes, so a gradient is complete only after the last call of a step.  Which one that
    is, the step before tells; should it be wrong, the result is right all the same: what is averaged twice is averaged, and
    what is added to an average is averaged by the second time.  Sharded weights are left to FSDP.  A weight must have a
    gradient on every process or on none.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], bucket_bytes: int = BUCKET_BYTES) -> None:
        self.buckets: list[list[Tensor]] = []
        self._bucket_of: dict[Tensor, int] = {}
        self._missing: list[int] = []
        self._flights: list[tuple[list[Tensor], Tensor, dist.Work]] = []
        self._calls = self._expected = self._launched = 0
        self._last = False
        if distributed.world_size() > 1:
            weights = dict.fromkeys(p for o in optimizers for group in o.param_groups for p in group["params"])  # each once
            self._fill_buckets([weight for weight in weights if weight.requires_grad], bucket_bytes)

    def _fill_buckets(self, weights: list[Tensor], bucket_bytes: int) -> None:
        room, kind = 0, None
        for weight in reversed(weights):  # about the order in which backward finishes them
            if is_sharded(weight):
                continue
            size = weight.numel() * weight.element_size()
            if size > room or weight.dtype != kind:
                self.buckets.append([])
                room, kind = max(bucket_bytes, size), weight.dtype
            room -= size
            self.buckets[-1].append(weight)
            self._bucket_of[weight] = len(self.buckets) - 1
            weight.register_post_accumulate_grad_hook(self._arrived)

    def before_backward(self) -> None:
        """A method is about to call backward."""
        self._calls += 1
        self._land()
        self._last = self._calls == self._expected
        self._missing = [len(bucket) for bucket in self.buckets]

    def _arrived(self, weight: Tensor) -> None:
        if self._last:
            self._missing[self._bucket_of[weight]] -= 1
            # In order of buckets: every process must start the same sum next.
            while self._launched < len(self.buckets) and not self._missing[self._launched]:
                self._launch()

    def _launch(self) -> None:
        gradients = [weight.grad for weight in self.buckets[self._launched] if weight.grad is not None]
        self._launched += 1
        if gradients:
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).div_(distributed.world_size())
            self._flights.append((gradients, flat, distributed.start_sum(flat)))

    def _land(self) -> None:
        for gradients, flat, work in self._flights:
            distributed.finish(work)
            parts = flat.split([gradient.numel() for gradient in gradients])
            torch._foreach_copy_(gradients, [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)])
        self._flights.clear()
        self._launched = 0

    def finish(self) -> None:
        """After the step's last backward: every gradient is the mean."""
        while self._launched < len(self.buckets):
            self._launch()
        self._land()
        self._expected, self._calls, self._last = self._calls, 0, False


@torch.no_grad()
def average_batch_norm(module: nn.Module) -> None:
    """Give every process the mean of BatchNorm's running statistics, which each takes from its own part of a batch."""
    if distributed.world_size() == 1:
        return
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    buffers = [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None and not is_sharded(b)]
    if buffers:
        flat = distributed.mean_(torch.cat(buffers))
        torch._foreach_copy_(buffers, list(flat.split([buffer.numel() for buffer in buffers])))


def shard(network: nn.Module, device: torch.device) -> None:
    """Spread weights, gradients and optimiser state over all processes, block by block, in place (FSDP2, ZeRO-3)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for module in (*reversed(list(repeated_blocks(network))), network):  # inner ones first
        # Also after a forward that no backward follows: a teacher's weights must not stay gathered.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def repeated_blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The members of every list of modules that are all of one kind: the blocks of a transformer, of a CNN's stages."""
    for container in network.modules():
        if isinstance(container, (nn.Sequential, nn.ModuleList)):
            members = list(container)
            alike = len(members) > 1 and len({type(member) for member in members}) == 1
            if alike and not isinstance(members[0], (nn.ModuleList, nn.ModuleDict)) and any(True for _ in container.parameters()):
                yield from members


def is_sharded(value: Any) -> TypeGuard[DTensor]:
    """Whether `value` is a tensor of which this process holds a part."""
    if distributed.world_size() == 1:
        return False
    from torch.distributed.tensor import DTensor  # takes most of a second, which one process does not need

    return isinstance(value, DTensor)


def local(weight: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other tensor itself."""
    return weight.to_local() if is_sharded(weight) else weight


def gathered(tree: Any) -> Any:
    """`tree` of dicts and lists with every sharded tensor whole and on the CPU of the first process; the others, which write
    nothing, get None for it.  Collective; one tensor at a time, since all would not fit on a device."""
    if is_sharded(tree):
        whole = tree.full_tensor()
        return whole.cpu() if distributed.rank() == 0 else None
    if isinstance(tree, dict):
        return type(tree)((key, gathered(value)) for key, value in tree.items())
    return type(tree)(map(gathered, tree)) if isinstance(tree, (list, tuple)) else tree


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """``module.load_state_dict(weights)``, whole tensors going into sharded ones."""
    ours = module.state_dict()
    module.load_state_dict({key: _placed_as(value, ours.get(key)) for key, value in weights.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """``optimizer.load_state_dict(state)``, whole tensors going into sharded ones.

    How an optimiser computes (``fused``, ``foreach``) is this process's own affair: the device may have changed.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = {
        i: {key: _placed_as(value, weights[i]) for key, value in entries.items()} for i, entries in state["state"].items()
    }
    groups = [
        {**theirs, "fused": ours["fused"], "foreach": ours["foreach"]}
        for theirs, ours in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _placed_as(value: Any, reference: Tensor | None) -> Any:
    if not isinstance(value, Tensor) or reference is None or value.shape != reference.shape:
        return value
    if is_sharded(reference):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(reference.device), reference.device_mesh, reference.placements, src_data_rank=None)
    # In the weight's memory order too: fused optimisers walk over both as if it were one, and a checkpoint may have another.
    return torch.empty_like(reference, dtype=value.dtype).copy_(value)
