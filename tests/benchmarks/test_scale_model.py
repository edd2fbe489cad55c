"""The model of a step on many GPUs: what it says where one thing alone decides."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from scale_model import Cluster, Outlook, Slopes, Work, outlook

WORK = Work(
    flops=50e9, parameters=1e8, features=512, checkpoint_bytes=2e9, stored_bytes=5e4, decoded_bytes=1.5e5, slice_rows=16
)
FREE = Slopes(decode_s=0, store_bytes_per_s=1e15, start_s=1e-5, start_bytes=1000, plan_s=0, write_bytes_per_s=1e15)
PLENTY = Cluster(
    link_bytes_per_s=1e18,
    inside_bytes_per_s=1e18,
    latency_s=0,
    s3_bytes_per_s=1e15,
    s3_reads_per_s=1e12,
    host_bytes_per_s=1e18,
    days_between_failures=1e12,
)


def found(gpus: int = 64, batch: int = 4096, slopes: Slopes = FREE, cluster: Cluster = PLENTY) -> Outlook:
    return outlook(WORK, slopes, cluster, gpus, batch, shards=1_000_000)


def test_where_nothing_is_scarce_arithmetic_decides_and_more_gpus_are_as_much_faster() -> None:
    one, many = found(gpus=1), found(gpus=64)
    flops = WORK.flops + 16 * 4096 * 512
    assert one.samples_per_s == pytest.approx(PLENTY.peak_flops * PLENTY.utilisation / flops)
    assert many.samples_per_s == pytest.approx(64 * one.samples_per_s) and many.limit == "GPUs"
    assert many.cost == pytest.approx(one.cost)  # of a billion samples
    assert one.cost == pytest.approx(1e9 / one.samples_per_s / 3600 * PLENTY.price)


@pytest.mark.parametrize(
    ("resource", "slopes", "cluster"),
    [
        ("decoding cores", replace(FREE, decode_s=0.02), PLENTY),
        ("object store", replace(FREE, store_bytes_per_s=1e8), PLENTY),
        ("bytes from S3", FREE, replace(PLENTY, s3_bytes_per_s=1e9)),
        ("requests to S3", FREE, replace(PLENTY, s3_reads_per_s=5500)),
        ("plan", replace(FREE, plan_s=0.05), PLENTY),
        ("checkpoint writing", replace(FREE, write_bytes_per_s=1e4), PLENTY),
    ],
)
def test_the_scarcest_resource_is_named_and_slows_training_by_its_share(
    resource: str, slopes: Slopes, cluster: Cluster
) -> None:
    free, scarce = found(), found(slopes=slopes, cluster=cluster)
    assert scarce.limit == resource and scarce.shares[resource] > 1
    assert scarce.samples_per_s == pytest.approx(free.samples_per_s / scarce.shares[resource])


def test_requests_are_fewer_with_longer_slices_and_more_prefixes() -> None:
    few = replace(PLENTY, s3_reads_per_s=5500)
    one = found(cluster=few).shares["requests to S3"]
    assert found(cluster=replace(few, prefixes=4)).shares["requests to S3"] == one / 4
    longer = outlook(replace(WORK, slice_rows=64), FREE, few, 64, 4096, 1)
    assert longer.shares["requests to S3"] == one / 4


def test_waiting_for_each_other_grows_where_a_fixed_batch_is_spread_over_more_gpus() -> None:
    cluster = replace(PLENTY, link_bytes_per_s=50e9, inside_bytes_per_s=450e9, latency_s=20e-6)
    waiting = [found(gpus, 32_768, cluster=cluster).waiting for gpus in (1, 8, 64, 512)]
    assert waiting[0] == 0 and waiting == sorted(waiting)
    bytes_of_features = 4 * (4096 - 64) * 512 * 4  # two towers, there and back
    one = found(cluster=replace(PLENTY, link_bytes_per_s=1e9))
    assert one.waiting * one.step_s >= bytes_of_features / 1e9


def test_failures_cost_the_restart_and_half_of_what_lies_between_checkpoints() -> None:
    cluster = replace(PLENTY, days_between_failures=10, restart_s=100, checkpoint_s=200)
    assert found(gpus=800, batch=8000, cluster=cluster).lost == pytest.approx(100 / (10 * 86_400) * 200)


def test_the_driver_pays_for_every_shard_once_and_for_every_request_of_a_listing() -> None:
    one = found(cluster=replace(PLENTY, s3_list_s=0.1))
    assert one.start_s == pytest.approx(1_000_000 * (1e-5 + 1e-4)) and one.start_bytes == 1e9
