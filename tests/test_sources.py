"""Training shards as they are named: one set, or a mixture by weight."""

from __future__ import annotations

import pytest

from lumiray.config import RunConfig, check_run
from lumiray.errors import UserError
from lumiray.sources import NamedShards, counting_source, training_sources

MIX = ("photos=3:s3://bucket/photos/{0..9}.tar::more/", "line-art=0.5:drawings/=old:*.tar")


def test_one_set_of_shards_is_one_source() -> None:
    assert training_sources("a/::b/", ()) == (NamedShards("shards", 1.0, "a/::b/"),)


def test_a_mixture_is_read_by_name_weight_and_patterns_which_may_hold_anything() -> None:
    sources = training_sources(None, MIX)
    assert sources == (
        NamedShards("photos", 3.0, "s3://bucket/photos/{0..9}.tar::more/"),
        NamedShards("line-art", 0.5, "drawings/=old:*.tar"),
    )
    assert training_sources(None, [str(one) for one in sources]) == sources


@pytest.mark.parametrize(
    ("shards", "mix", "message"),
    [
        (None, (), "--shards is missing"),
        ("a/", MIX, "--shards and --mix both name the training shards"),
        (None, ("photos",), "'photos' is not NAME=WEIGHT:SHARDS"),
        (None, ("photos=a/",), "is not NAME=WEIGHT:SHARDS"),
        (None, ("photos=much:a/",), "is not NAME=WEIGHT:SHARDS"),
        (None, ("photos=0:a/",), "with a weight above 0"),
        (None, ("photos=-1:a/",), "with a weight above 0"),
        (None, ("photos=inf:a/",), "with a weight above 0"),
        (None, ("photos=nan:a/",), "with a weight above 0"),
        (None, ("my photos=1:a/",), "is not NAME=WEIGHT:SHARDS"),
        (None, ("a=1:a/", "b=1:b/", "a=2:c/"), "two sources of the name 'a'"),
    ],
)
def test_what_cannot_be_meant_is_refused(shards: str | None, mix: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        training_sources(shards, mix)


def test_epochs_of_a_mixture_need_the_source_that_counts() -> None:
    sources = training_sources(None, MIX)
    assert counting_source(sources, "line-art") == "line-art"
    assert counting_source(sources[:1], None) == "photos"
    with pytest.raises(UserError, match="needs --epochs-of, the one that counts: photos, line-art"):
        counting_source(sources, None)
    with pytest.raises(UserError, match=r"--epochs-of photo: there is no such source. Did you mean .*photos"):
        counting_source(sources, "photo")


def test_options_of_a_run_are_checked_for_it() -> None:
    check_run(RunConfig(mix=MIX, output="o", epochs=1, epochs_of="photos"))
    check_run(RunConfig(mix=MIX, output="o", steps=1))
    with pytest.raises(UserError, match="--epochs-of"):
        check_run(RunConfig(mix=MIX, output="o", epochs=1))
    with pytest.raises(UserError, match="--epochs-of needs --epochs"):
        check_run(RunConfig(mix=MIX, output="o", steps=1, epochs_of="photos"))
    with pytest.raises(UserError, match="there is no such source"):
        check_run(RunConfig(shards="a/", output="o", epochs=1, epochs_of="photos"))
