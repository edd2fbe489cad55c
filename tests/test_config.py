"""Values that cannot work and options that disagree are refused before anything starts, each by its name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from lumiray.command import read_options
from lumiray.config import RunConfig, check_run
from lumiray.errors import UserError, check_number
from lumiray.train.score_pairs import ScoreOptions, job_of
from lumizoo.clip.captions import caption_sources
from lumizoo.clip.config import ClipConfig

GOOD = RunConfig(shards="shards/", output="runs/a", steps=5)


def given(**values: Any) -> RunConfig:
    """The good run with other values; those of groups as `data__slice_rows`."""
    run = GOOD
    for name, value in values.items():
        group, _, inner = name.partition("__")
        new = dataclasses.replace(getattr(run, group), **{inner: value}) if inner else value
        run = dataclasses.replace(run, **{group: new})
    return run


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"steps": None, "epochs": 0.5},
        {"zero": 3, "engine__compile": False, "engine__offload_parameters": "cpu", "engine__offload_optimizer": "cpu"},
        {"zero": 3, "engine__offload_parameters": "nvme", "engine__nvme_path": "scratch"},
        {"zero": 1, "engine__offload_optimizer": "cpu"},
        {"zero": 2, "engine__compile": True},
        {"engine__deepspeed": "mine.json"},
        {"optimizer__schedule": "constant-cooldown", "optimizer__cooldown": 2},
        {"warmup": 0, "lr": 0.0, "retries": 0, "data__bad_rows_limit": 1.0, "optimizer__betas": (0.0, 0.999)},
        {"data__slice_rows": 1, "data__group_rows": 1},
        {"data__read": "shard", "data__group_rows": 100},
        {"data__filter": "width >= 256 and similarity is not None"},
        {"data__cache": "/mnt/nvme/cache", "data__cache_gb": 0.5},
    ],
)
def test_what_can_work_passes(values: dict[str, Any]) -> None:
    check_run(given(**values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"shards": None}, "--shards is missing"),
        ({"shards": ""}, "--shards is missing"),
        ({"output": None}, "--output is missing"),
        ({"epochs": 1.0}, "Give --steps or --epochs, one of the two"),
        ({"steps": None, "epochs": 0.0}, "--epochs is 0.0; it must be above 0."),
        ({"steps": None, "epochs": -1.0}, "--epochs is -1.0"),
        ({"steps": None, "epochs": math.nan}, "--epochs is nan"),
        ({"zero": 0, "engine__deepspeed": "mine.json"}, "--zero and --engine.deepspeed"),
        ({"data__group_rows": 100}, "--data.group-rows 100 is not a multiple of --data.slice-rows 16"),
        ({"data__read": "shard", "data__slice_rows": 8}, "--data.slice-rows does nothing with --data.read shard"),
        ({"data__read": "shard", "data__bucket_window": 8}, "--data.bucket-window needs the index"),
        ({"optimizer__cooldown": 2}, "--optimizer.cooldown needs --optimizer.schedule constant-cooldown"),
        ({"optimizer__cooldown": 2, "optimizer__schedule": "cosine"}, "--optimizer.cooldown needs"),
        ({"engine__offload_parameters": "cpu", "zero": 2}, "--engine.offload-parameters needs --zero 3"),
        ({"engine__offload_parameters": "cpu"}, "--engine.offload-parameters needs --zero 3"),
        ({"engine__offload_optimizer": "cpu", "zero": 0}, "--engine.offload-optimizer needs --zero 1 or more"),
        ({"engine__offload_optimizer": "cpu"}, "--engine.offload-optimizer needs --zero 1 or more"),
        ({"engine__offload_optimizer": "nvme", "zero": 1}, "nvme offload needs --engine.nvme-path"),
        ({"engine__offload_parameters": "nvme", "zero": 3}, "nvme offload needs --engine.nvme-path"),
        ({"engine__compile": True, "zero": 3}, "--engine.compile works with --zero 0 to 2"),
        ({"optimizer__betas": (0.9, 1.0)}, "--optimizer.betas is (0.9, 1.0)"),
        ({"optimizer__betas": (-0.1, 0.9)}, "--optimizer.betas is (-0.1, 0.9)"),
        ({"data__bad_rows_limit": 1.5}, "--data.bad-rows-limit is 1.5; it must be between 0 and 1."),
        ({"data__filter": "width = 3"}, "--data.filter 'width = 3' cannot be read: "),
        ({"data__filter": ""}, "--data.filter '' cannot be read: "),
        ({"data__cache": "s3://bucket/cache"}, "--data.cache is 's3://bucket/cache'; it must be a folder on a local"),
        ({"data__cache": ""}, "--data.cache is ''; it must be a folder on a local disk"),
        ({"data__cache": "cache", "data__cache_gb": 0.0}, "--data.cache-gb is 0.0; it must be a number of GB above 0."),
        ({"data__cache": "cache", "data__cache_gb": math.nan}, "--data.cache-gb is nan"),
        ({"data__cache": "cache", "data__cache_gb": math.inf}, "--data.cache-gb is inf"),
        ({"data__cache_gb": 5.0}, "--data.cache-gb needs --data.cache"),
        ({"seed": -1}, "--seed is -1"),
        ({"seed": 2**63}, "--seed is 9223372036854775808"),
    ],
)
def test_what_cannot_work_or_disagrees_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        check_run(given(**values))
    assert words in str(refused.value)
    assert refused.value.exit_code == 2


AT_LEAST_1 = """workers global_batch_size micro_batch_size steps data__slice_rows data__group_rows checkpoint__every
    checkpoint__keep log__every"""
AT_LEAST_0 = """lr warmup retries data__decoders data__bucket_window data__bad_rows_limit evaluate__every
    evaluate__batch_size
    engine__clip_norm optimizer__weight_decay optimizer__eps optimizer__cooldown optimizer__cooldown_power
    optimizer__cooldown_end"""


@pytest.mark.parametrize(
    ("name", "value"), [(name, 0) for name in AT_LEAST_1.split()] + [(name, -1) for name in AT_LEAST_0.split()]
)
def test_a_number_that_is_too_small_is_refused_as_it_stands_on_the_command_line(name: str, value: int) -> None:
    option = "--" + name.replace("__", ".").replace("_", "-")
    with pytest.raises(UserError) as refused:
        check_run(given(**{name: value}))
    assert str(refused.value).startswith(f"{option} is {value}; it must be")


def test_a_number_that_is_none_at_all_is_refused_and_one_not_given_is_not() -> None:
    with pytest.raises(UserError, match="--lr is nan; it must be at least 0"):
        check_number("lr", math.nan, 0)
    check_number("lr", None, 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loss_tile": -2}, "--loss-tile is -2; it must be at least -1"),
        ({"image_size": 0}, "--image-size is 0"),
        ({"context_length": 2}, "--context-length is 2"),
        ({"patch_dropout": 1.0}, "--patch-dropout is 1.0; it must be between 0 and 0.99"),
        ({"grey_prob": 1.1}, "--grey-prob is 1.1; it must be between 0 and 1"),
        ({"color_jitter_prob": -0.1}, "--color-jitter-prob is -0.1"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.6)}, "--color-jitter is 0.6; it must be between 0 and 0.5"),
        ({"color_jitter": (-1.0, 0.0, 0.0, 0.0)}, "--color-jitter is -1.0; it must be at least 0"),
        ({"crop_scale": (0.9, 0.5)}, "--crop-scale is (0.9, 0.5); it must be two rising numbers above 0 and up to 1"),
        ({"crop_scale": (0.5, 1.5)}, "--crop-scale is (0.5, 1.5)"),
        ({"crop_scale": (0.0, 1.0)}, "--crop-scale is (0.0, 1.0)"),
        ({"crop_ratio": (2.0, 1.0)}, "--crop-ratio is (2.0, 1.0); it must be two rising numbers above 0."),
        ({"unlock_image_groups": 1}, "--unlock-image-groups needs --lock-image true"),
        ({"unlock_text_layers": 1}, "--unlock-text-layers needs --lock-text true"),
        ({"lock_text": True, "unlock_text_layers": -1}, "--unlock-text-layers is -1"),
    ],
)
def test_settings_of_clip_that_no_training_could_use_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        ClipConfig(**values)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("text", "'text' is neither txt nor json:FIELD"),
        ("json", "'json' is neither txt nor json:FIELD"),
        ("txt:a", "'txt:a' is neither txt nor json:FIELD"),
        ("txt=0.5", "the probabilities add up to 0.5, not 1"),
        ("txt=0.5,json:a", "the probabilities add up to 1.5, not 1"),
        ("txt=half,json:a=0.5", "'half' is not a probability"),
        ("txt=-0.5,json:a=1.5", "'-0.5' is not a probability"),
        ("txt=nan,json:a=1", "'nan' is not a probability"),
    ],
)
def test_a_caption_that_is_no_distribution_over_places_is_refused(caption: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        caption_sources(caption)
    assert words in str(refused.value)


def test_captions_from_several_places_are_taken_by_their_shares() -> None:
    found = caption_sources("txt=0.25, json:alt=0.75")
    assert [(one.part, one.field, one.share) for one in found] == [("txt", None, 0.25), ("json", "alt", 0.75)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "Say what to evaluate: --run OUTPUT, or --model NAME --weights"),
        ("--model RN50", "--model RN50 needs --weights"),
        ("--run runs/a --model RN50", "--run and --model with --weights both say what to evaluate"),
        ("--run runs/a --weights a.pt", "--run and --model with --weights both say what to evaluate"),
        ("--model RN50 --weights a.pt --checkpoint runs/a/checkpoints/step-1", "--checkpoint is one of a run"),
        ("--run runs/a --workers 0", "--workers is 0; it must be at least 1"),
        ("--run runs/a --batch-size 0", "--batch-size is 0; it must be at least 1"),
        ("--run runs/nowhere", "--config runs/nowhere/config.yaml: cannot be read"),
    ],
)
def test_an_evaluation_of_nothing_or_of_two_things_is_refused(line: str, words: str) -> None:
    options = read_options(ScoreOptions, ["--val-shards", "a", *line.split()], "Figures.")
    with pytest.raises(UserError) as refused:
        job_of("clip", options)
    assert words in str(refused.value)
