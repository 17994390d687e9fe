"""Many devices on paper: operations and bytes of one FixMatch step, and the time that the slowest of them needs.

A model, not a measurement: network sizes are counted (timm, on the meta device), the hardware is assumed and stands below.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """One GPU of a node of eight, as an H100 SXM is published; the shares that software reaches are assumptions."""

    flops: float = 989e12  # bf16, dense, a second
    memory: float = 3.35e12  # bytes a second
    node: float = 300e9  # bytes a second and GPU between GPUs of one node (450 GB/s published, a way)
    wire: float = 40e9  # bytes a second and GPU between nodes (400 Gb/s published)
    host: float = 40e9  # bytes a second from the host
    per_node: int = 8


@dataclass(frozen=True)
class Network:
    """What one step of it moves.  weights: number; flops: of one forward of one image at 224 px; reached: share of the peak."""

    name: str
    weights: float
    flops: float
    reached: float  # an assumption: batch norm and small maps keep a ResNet-50 at the memory's speed, a ViT multiplies matrices
    labeled: int  # images a GPU and step, 7 unlabelled ones with each
    sharded: bool = False

    @property
    def unlabeled(self) -> int:
        return 7 * self.labeled


# Counted by `count` (tests/test_bench.py counts again); labelled images such that a step fits 80 GB.
NETWORKS = (
    Network("ResNet-50", 23.51e6, 8.17e9, 0.08, 32),
    Network("ViT-B/16", 85.80e6, 35.13e9, 0.35, 32),
    Network("ViT-H/14, --shard --grad-checkpointing", 630.76e6, 334.6e9, 0.45, 8, sharded=True),
)
GPUS = (1, 8, 16, 64)


def count(arch: str) -> tuple[int, int]:
    """(weights, flops of one forward of one image at 224 px) of a timm backbone, without computing anything."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network, x = timm.create_model(arch, num_classes=0).eval(), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        network(x)
    return sum(weight.numel() for weight in network.parameters()), counter.get_total_flops()


def operations(network: Network) -> float:
    """Of one step on one GPU: a forward of the weak views, forward and backward (two forwards) of labelled and strong views;
    with checkpointing a second forward of those."""
    trained = network.labeled + network.unlabeled
    return network.flops * (network.unlabeled + trained * (4 if network.sharded else 3))


def sent(network: Network, gpus: int) -> float:
    """Bytes one GPU sends a step.  Replicated: a ring all-reduce of fp32 gradients.  Sharded: weights gathered for each of three
    forwards and two backwards, gradients scattered for each backward, all fp32."""
    share = (gpus - 1) / gpus * 4 * network.weights
    return share * (3 + 2 + 2 if network.sharded else 2)


def step(network: Network, gpus: int, hardware: Hardware) -> dict[str, float]:
    """Seconds of one step: computing, sending, what of the sending no computing hides, updating, copying in; and the total.

    Replicated gradients travel during the last backward (of the strong views), but for the last bucket of 25 MiB; a sharded
    network's weights travel during the whole step.
    """
    compute = operations(network) / (hardware.flops * network.reached)
    speed = hardware.node if gpus <= hardware.per_node else hardware.wire
    wire = sent(network, gpus) / speed
    if network.sharded:
        exposed = max(0.0, wire - compute)
    else:
        hidden = 2 * network.flops * network.unlabeled / (hardware.flops * network.reached)
        last = min(1.0, 25 * 2**20 / (4 * network.weights))
        exposed = max(wire - hidden, wire * last)
    owned = network.weights / (gpus if network.sharded else 1)
    update = owned * (20 + 12) / hardware.memory  # SGD: read weight, gradient, momentum, write two; the moving average: 12 bytes
    copied = 3 * 224**2 * 2 * (network.labeled + network.unlabeled)  # two uint8 views, made ahead on another stream
    return {
        "compute": compute, "wire": wire, "exposed": exposed, "update": update, "input": copied / hardware.host,
        "total": compute + exposed + update,
    }  # fmt: skip


def table(hardware: Hardware | None = None) -> str:
    """The model as a markdown table."""
    from tabulate import tabulate

    hardware = hardware or Hardware()
    rows = []
    for network in NETWORKS:
        for gpus in GPUS[1:] if network.sharded else GPUS:
            t = step(network, gpus, hardware)
            images = (network.labeled + network.unlabeled) / t["total"]
            limit = "the wire" if t["exposed"] > 0.5 * t["compute"] else "arithmetic"
            rows.append([
                network.name, gpus, f"{network.labeled} + {network.unlabeled}", f"{operations(network) / 1e12:.1f}", f"{sent(network, gpus) / 1e6:,.0f}",
                *(f"{1e3 * t[key]:.1f}" for key in ("compute", "wire", "exposed", "update", "input", "total")),
                f"{t['compute'] / t['total']:.0%}", f"{images:,.0f}", limit,
            ])  # fmt: skip
    head = ["network", "GPUs", "images a GPU, l + u", "TFLOP", "MB sent", "compute, ms", "wire, ms", "of it exposed", "update, ms", "input, ms",
            "step, ms", "efficiency", "images/s a GPU", "limit"]  # fmt: skip
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)
