"""What limits a contrastive job on many GPUs: a model of one step in a few formulas, none of them fitted.

Numbers of the job and slopes of the platform are measured (scale_slopes.py); what a cluster has, and what it costs, are
inputs with the values of a common node of eight H100 as defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CONTRAST_FLOPS = 16  # per pair of rows and feature: two products forward, again in each tile backward, four gradients
FEATURE_BYTES, GRADIENT_BYTES = 4, 2  # features are gathered in fp32, gradients reduced in bf16
BACKWARD_SHARE = 2 / 3  # of a step's arithmetic: what the reduction of gradients can hide behind
SAFE = 1.0  # share of a resource from which it holds up training


@dataclass(frozen=True)
class Work:
    """What a job asks for.

    Args:
        flops: arithmetic of one sample in all passes.
        parameters: that are trained.
        features: width of the shared space.
        checkpoint_bytes: of one checkpoint over all workers.
        stored_bytes: of one sample in its shard.
        decoded_bytes: of one sample as it travels to the worker.
        slice_rows: neighbours that one range read brings; of sets so large no two slices lie side by side.
    """

    flops: float
    parameters: float
    features: int
    checkpoint_bytes: float
    stored_bytes: float
    decoded_bytes: float
    slice_rows: int


@dataclass(frozen=True)
class Slopes:
    """What one more of something costs the platform, as measured.

    Args:
        decode_s: of one core for one sample, reading included.
        store_bytes_per_s: through the object store from one process to another, one stream.
        start_s, start_bytes: of the driver for one shard, listing left out.
        plan_s: of one core from a position to the rows of a global batch.
        write_bytes_per_s: checksum and file of a checkpoint, one process.
    """

    decode_s: float
    store_bytes_per_s: float
    start_s: float
    start_bytes: float
    plan_s: float
    write_bytes_per_s: float


@dataclass(frozen=True)
class Cluster:
    """What a cluster has, what it costs, and how it is used."""

    gpus_per_node: int = 8
    cores_per_node: int = 192
    peak_flops: float = 989e12
    """Of one GPU in bf16."""
    utilisation: float = 0.4
    """Share of the peak that the networks reach alone."""
    link_bytes_per_s: float = 50e9
    """Of one GPU to other nodes."""
    inside_bytes_per_s: float = 450e9
    """Of one GPU to others of its node."""
    latency_s: float = 20e-6
    """Of one hop of a collective."""
    s3_bytes_per_s: float = 10e9
    """Of one node."""
    s3_reads_per_s: float = 5500.0
    """Of one prefix."""
    s3_list_s: float = 0.1
    """Of one request of a listing, which names a thousand shards."""
    prefixes: int = 1
    """Over which the shards are spread."""
    host_bytes_per_s: float = 20e9
    """Of one GPU to its host's memory."""
    days_between_failures: float = 50.0
    """Of one node."""
    restart_s: float = 120.0
    """From a failure to the next finished step."""
    checkpoint_s: float = 300.0
    """Between two checkpoints."""
    price: float = 4.0
    """Of one GPU for an hour."""


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of so many GPUs.

    Args:
        step_s: of one step as the GPUs alone would take.
        waiting: share of it in which GPUs wait for each other.
        shares: of what there is of each resource, at the rate of the GPUs alone: above 1 it is the limit.
        samples_per_s: with the limit, over all GPUs, failures counted.
        lost: share of time that failures and checkpoints take.
        start_s, start_bytes: what the driver pays for the shards, once.
        cost: of a billion samples.
    """

    gpus: int
    step_s: float
    waiting: float
    shares: dict[str, float]
    samples_per_s: float
    lost: float
    start_s: float
    start_bytes: float
    cost: float

    @property
    def limit(self) -> str:
        """What holds training up: the scarcest resource, or the GPUs."""
        name, share = max(self.shares.items(), key=lambda one: one[1])
        return name if share > SAFE else "GPUs"


def outlook(work: Work, slopes: Slopes, cluster: Cluster, gpus: int, batch: int, shards: int) -> Outlook:
    """One line of the table.

    Args:
        batch: the global batch; `gpus` divides it.
        shards: of the training set.
    """
    nodes = math.ceil(gpus / cluster.gpus_per_node)
    on_node = min(gpus, cluster.gpus_per_node)
    arithmetic, exchange = _arithmetic_s(work, cluster, gpus, batch), _exchange_s(work, cluster, gpus, batch)
    step = arithmetic + exchange
    rate = batch / step
    per_node = rate / nodes
    shares = {
        "decoding cores": per_node * slopes.decode_s / (cluster.cores_per_node * on_node / cluster.gpus_per_node),
        "object store": per_node * work.decoded_bytes / (on_node * slopes.store_bytes_per_s),
        "bytes from S3": per_node * work.stored_bytes / cluster.s3_bytes_per_s,
        "requests to S3": rate / work.slice_rows / (cluster.s3_reads_per_s * cluster.prefixes),
        "plan": slopes.plan_s / step,
        "checkpoint writing": _writing_s(work, slopes, cluster, gpus, on_node) / cluster.checkpoint_s,
    }
    lost = _lost(work, cluster, gpus, nodes)
    found = rate / max(SAFE, *shares.values()) * max(0.0, 1 - lost)
    cost = cluster.price * gpus / 3600 * 1e9 / found if found else math.inf
    start_s, start_bytes = shards * (slopes.start_s + cluster.s3_list_s / 1000), shards * slopes.start_bytes
    return Outlook(gpus, step, exchange / step, shares, found, lost, start_s, start_bytes, cost)


def _arithmetic_s(work: Work, cluster: Cluster, gpus: int, batch: int) -> float:
    """Both towers over a GPU's rows, and the contrast of these with all rows."""
    own = batch / gpus
    contrast = CONTRAST_FLOPS * own * batch * work.features
    return (own * work.flops + contrast) / (cluster.peak_flops * cluster.utilisation)


def _exchange_s(work: Work, cluster: Cluster, gpus: int, batch: int) -> float:
    """What GPUs wait for each other: features both ways, and gradients as far as backward does not hide them."""
    if gpus == 1:
        return 0.0
    link = cluster.link_bytes_per_s if gpus > cluster.gpus_per_node else cluster.inside_bytes_per_s
    own = batch / gpus
    hops = cluster.latency_s * math.ceil(math.log2(gpus))
    features = 2 * 2 * ((batch - own) * work.features * FEATURE_BYTES / link + hops)  # two towers, there and back
    gradients = 2 * (gpus - 1) / gpus * work.parameters * GRADIENT_BYTES / link + 2 * hops
    hidden = BACKWARD_SHARE * own * work.flops / (cluster.peak_flops * cluster.utilisation)
    return features + max(0.0, gradients - hidden)


def _writing_s(work: Work, slopes: Slopes, cluster: Cluster, gpus: int, on_node: int) -> float:
    """From the copy in a host's memory to the last byte in storage; every GPU's process writes its part."""
    return work.checkpoint_bytes / gpus / min(slopes.write_bytes_per_s, cluster.s3_bytes_per_s / on_node)


def _lost(work: Work, cluster: Cluster, gpus: int, nodes: int) -> float:
    """Share of time: copies out of GPUs, and after failures the restart and half of what lies between checkpoints."""
    copies = work.checkpoint_bytes / gpus / cluster.host_bytes_per_s / cluster.checkpoint_s
    failures = nodes / (cluster.days_between_failures * 86_400)
    return copies + failures * (cluster.restart_s + cluster.checkpoint_s / 2)
