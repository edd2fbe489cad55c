"""What a trial may take of a cluster, and that asking for more is said at once."""

from __future__ import annotations

import pytest

from lumiray.config import RunConfig
from lumiray.errors import UserError
from lumiray.tune.options import SearchOptions
from lumiray.tune.shares import trial_share

TWO_CORES = {"CPU": 2.0, "object_store_memory": 2e9}
FOUR_GPUS = {"CPU": 64.0, "GPU": 4.0, "object_store_memory": 64e9}


def test_on_cpus_every_trial_has_a_core_and_shares_it_with_its_decoders() -> None:
    share = trial_share(RunConfig(), SearchOptions(), TWO_CORES, [TWO_CORES])
    assert share.at_once == 2
    assert share.resources == {"CPU": 1.0, "GPU": 0.0, "object_store_memory": 1e9}
    assert share.process == {"CPU": 0.4}  # the worker is the trial's process; 0.4 are its decoder's


def test_a_trial_of_several_workers_has_a_process_that_only_waits() -> None:
    share = trial_share(RunConfig(workers=2), SearchOptions(), TWO_CORES, [TWO_CORES])
    assert share.at_once == 1
    assert share.process["CPU"] < 0.01


def test_gpus_are_divided_also_into_fractions() -> None:
    whole = trial_share(RunConfig(), SearchOptions(), FOUR_GPUS, [FOUR_GPUS])
    assert (whole.at_once, whole.resources["CPU"], whole.process) == (4, 16.0, {"GPU": 1.0, "CPU": 1})
    halves = trial_share(RunConfig(), SearchOptions(gpus_per_trial=0.5), FOUR_GPUS, [FOUR_GPUS])
    assert (halves.at_once, halves.resources["CPU"], halves.process) == (8, 8.0, {"GPU": 0.5, "CPU": 1})
    pairs = trial_share(RunConfig(workers=2), SearchOptions(), FOUR_GPUS, [FOUR_GPUS])
    assert (pairs.at_once, pairs.resources["GPU"]) == (2, 2.0)


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        (RunConfig(workers=3), SearchOptions(), "needs 3 cores and the cluster has 2"),
        (RunConfig(), SearchOptions(cpus_per_trial=2.5), "needs 2.5 cores and the cluster has 2"),
        (RunConfig(device="gpu"), SearchOptions(), "needs 1 GPUs and the cluster has 0"),
        (RunConfig(), SearchOptions(gpus_per_trial=1), "trials run on CPUs; the cluster has 0 GPUs"),
    ],
)
def test_more_than_there_is_would_be_a_silent_wait(run: RunConfig, options: SearchOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trial_share(run, options, TWO_CORES, [TWO_CORES])


def test_a_worker_has_to_fit_on_one_node() -> None:
    cluster, node = {"CPU": 8.0}, {"CPU": 2.0}
    with pytest.raises(UserError, match=r"needs 3\.2 CPU on one node"):
        trial_share(RunConfig(), SearchOptions(cpus_per_trial=8), cluster, [node] * 4)
