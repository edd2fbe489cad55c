"""A configuration as YAML: what is written reads back equal, and what is wrong is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lumiray.config import JobConfig, RunConfig
from lumiray.errors import UserError
from lumiray.settings_file import job_from, read_settings, to_yaml
from lumizoo.clip.config import ClipConfig
from tests.settings import CONSTRAINED, NEEDS, all_changed, default_job, leaves, options, value_of

SHARES = ("patch_dropout", "grey_prob")


def read_back(job: JobConfig, folder: Path) -> JobConfig:
    file = folder / "config.yaml"
    file.write_bytes(to_yaml(job).encode())
    return job_from(job.slug, read_settings(str(file)), f"--config {file}")


def test_a_job_in_which_nothing_has_its_default_reads_back_equal(tmp_path: Path) -> None:
    job, usual = all_changed(), default_job()
    assert [name for name in options("clip") if value_of(job, name) == value_of(usual, name)] == []
    assert read_back(job, tmp_path) == job


def test_a_job_of_defaults_reads_back_equal_and_the_file_names_every_option(tmp_path: Path) -> None:
    assert read_back(default_job(), tmp_path) == default_job()
    written = read_settings(str(tmp_path / "config.yaml"))
    named = {
        f"{name}.{inner}" if isinstance(value, dict) else name
        for name, value in written.items()
        for inner in (value if isinstance(value, dict) else [""])
    }
    assert named == set(options("clip")) | {"system"}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of an option's type; texts include what YAML could take for something else."""
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple and get_args(hint)[-1] is not Ellipsis:
        return st.tuples(*map(values_of, get_args(hint)))
    if get_origin(hint) is tuple:
        return st.lists(values_of(get_args(hint)[0]), max_size=3).map(tuple)
    if type(None) in get_args(hint):
        return st.none() | values_of(get_args(hint)[0])
    odd = st.sampled_from(
        ["null", "true", "1e-3", "~", "12:30", "- a", "a: b", "#", "", "'", "0o7", "2001-01-01", "=", "\x85", "\u2028"]
    )
    return {
        bool: st.booleans(),
        int: st.integers(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: odd | st.text(),
    }[hint]


def jobs() -> st.SearchStrategy[JobConfig]:
    def built(kind: type, prefix: str = "") -> st.SearchStrategy[Any]:
        fields: dict[str, st.SearchStrategy[Any]] = {}
        for field in dataclasses.fields(kind):
            if isinstance(field.default_factory, type) and dataclasses.is_dataclass(field.default_factory):
                fields[field.name] = built(field.default_factory)
        for name, hint, default in leaves(kind):
            if "." in name:
                continue
            if name in CONSTRAINED:
                fields[name] = st.sampled_from([default, CONSTRAINED[name]])
            elif name in SHARES:
                fields[name] = st.floats(0, 0.5)
            elif kind is ClipConfig and hint in (int, int | None):
                fields[name] = st.integers(3, 1000) if name not in NEEDS else st.just(0)
            else:
                fields[name] = values_of(hint)
        return st.builds(kind, **fields)

    return st.builds(JobConfig, st.just("clip"), built(RunConfig), built(ClipConfig))


@given(jobs())
@settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=(Phase.generate,))
def test_any_values_read_back_equal(job: JobConfig) -> None:
    import yaml

    assert job_from("clip", yaml.safe_load(to_yaml(job).encode()), "--config x") == job


def test_what_a_file_does_not_name_keeps_its_default() -> None:
    job = job_from("clip", {"workers": 3, "data": {"slice_rows": 8}, "model": "RN50"}, "x")
    assert job.run == dataclasses.replace(
        RunConfig(), workers=3, data=dataclasses.replace(RunConfig().data, slice_rows=8)
    )
    assert job.system == ClipConfig(model="RN50")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"worker": 2}, ["'worker'", "Did you mean 'workers'"]),
        ({"global-batch-size": 2}, ["'global-batch-size'", "'global_batch_size'"]),
        ({"mdoel": "RN50"}, ["'mdoel'", "'model'"]),
        ({"data": {"slice_row": 2}}, ["'data.slice_row'", "'slice_rows'"]),
        ({3: 4}, ["unknown option 3"]),
        ({"data": 5}, ["data must be a mapping, not 5"]),
        ({"data": None}, ["data must be a mapping, not None"]),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_ones(values: dict[Any, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        job_from("clip", values, "--config mine.yaml")
    assert str(refused.value).startswith("--config mine.yaml: ")
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers": "many"}, "workers is 'many'; it must be a whole number"),
        ({"workers": 2.5}, "workers is 2.5; it must be a whole number"),
        ({"workers": True}, "workers is True; it must be a whole number"),
        ({"workers": None}, "workers is None; it must be a whole number"),
        ({"lr": "fast"}, "lr is 'fast'; it must be a number"),
        ({"lr": True}, "lr is True; it must be a number"),
        ({"lr": float("nan")}, "lr is nan; it must be a number"),
        ({"epochs": float("inf")}, "epochs is inf; it must be a number"),
        ({"lr": [1e-3]}, "lr is [0.001]; it must be a number"),
        ({"model": 32}, "model is 32; it must be text"),
        ({"lock_image": "yes please"}, "lock_image is 'yes please'; it must be true or false"),
        ({"lock_image": 1}, "lock_image is 1; it must be true or false"),
        ({"zero": 5}, "zero is 5; it must be one of 0, 1, 2, 3"),
        ({"zero": True}, "zero is True; it must be one of 0, 1, 2, 3"),
        ({"zero": 1.0}, "zero is 1.0; it must be one of 0, 1, 2, 3"),
        ({"precision": "fp8"}, "precision is 'fp8'; it must be one of fp32, bf16, fp16"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas is [0.9]; it must be a list of 2 values"),
        ({"optimizer": {"betas": [0.9, "b"]}}, "optimizer.betas is 'b'; it must be a number"),
        ({"optimizer": {"betas": 0.9}}, "optimizer.betas is 0.9; it must be a list of 2 values"),
        ({"accept_changes": "lr"}, "accept_changes is 'lr'; it must be a list"),
    ],
)
def test_a_value_of_another_kind_names_the_field_and_what_is_allowed(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        job_from("clip", values, "--config mine.yaml")
    assert f"--config mine.yaml: {words}" in str(refused.value)


def test_numbers_as_yaml_writes_them_are_understood() -> None:
    job = job_from("clip", {"lr": "1e-3", "epochs": 2, "zero": None, "optimizer": {"betas": [0, "0.5"]}}, "x")
    assert (job.run.lr, job.run.epochs, job.run.zero, job.run.optimizer.betas) == (1e-3, 2.0, None, (0.0, 0.5))


def test_a_file_of_another_system_is_refused_and_either_spelling_of_the_own_one_is_taken() -> None:
    with pytest.raises(UserError, match="is for the system 'pairlie', and this job trains 'clip'"):
        job_from("clip", {"system": "pairlie"}, "--config x")
    assert job_from("clip", {"system": "clip"}, "--config x") == default_job()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("a: [", "cannot be read"),
        ("- a\n- b", "must be a mapping"),
        ("", "must be a mapping"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError) as refused:
        read_settings(str(file))
    assert str(file) in str(refused.value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
