"""What systems say about themselves is true, and can be listed without torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumiray.errors import UserError
from lumiray.overview import one_system, settings, systems
from lumiray.registry import about, config_class, kind_of, packages, slugs, system
from tests.house.sources import fresh

OURS = [
    slug for kind in ("system", "fit") for slug, package in packages(kind).items() if package.startswith("lumizoo.")
]
CASES = Path(__file__).parent / "parity" / "cases"


@pytest.mark.parametrize("slug", OURS)
def test_facts_are_complete_and_agree_with_the_code(slug: str) -> None:
    facts = about(slug)
    assert facts is not None
    for text in (facts.name, facts.task, facts.paper, facts.code, facts.code_licence, facts.weights_licence):
        assert text
    assert facts.figures and facts.tensors
    if kind_of(slug) == "system":
        assert dict(facts.stages) == {stage.name: str(stage.record) for stage in system(slug).stages()}
    else:
        assert not facts.stages
    assert list(facts.verified) == sorted(folder.name for folder in (CASES / slug).iterdir())


@pytest.mark.parametrize("slug", [slug for slug in OURS if kind_of(slug) == "system"])
def test_a_system_s_tensors_are_in_its_checkpoints_alone(slug: str) -> None:
    from lumiray.registry import recognised
    from lumiray.train.without_memory import networks_without_memory

    made = system(slug)
    networks = networks_without_memory(made, made.stages()[-1])
    assert recognised(made.published_state(networks.state_dict())) == [slug]


def test_all_systems_are_listed_without_torch() -> None:
    code = "import sys; from lumiray.overview import systems; print(systems()); print('torch' in sys.modules)"
    text = fresh("-c", code)
    assert text.splitlines()[-1] == "False"
    for slug in OURS:
        assert f"\n{slug}: " in f"\n{text}"
    assert "train (rows: pair)" in text


def test_one_is_shown_with_parameters_licences_and_where_defaults_come_from() -> None:
    text = one_system("cidnet")
    assert "1,975,569 in cidnet" in text
    assert "licence: MIT" in text
    assert "--edge-weight 50.0\n        Weight of the squared difference of Laplacians (card cidnet, Losses)." in text
    with pytest.raises(UserError, match="Did you mean 'cidnet'"):
        one_system("cidnt")


def test_one_that_is_fitted_is_shown_too() -> None:
    assert "22,275 for a picture in colour" in one_system("zs_n2n")


@pytest.mark.parametrize("slug", OURS)
def test_every_setting_is_shown_with_its_words(slug: str) -> None:
    for name, default, words in settings(config_class(slug, kind_of(slug))):
        assert default and words, name


def test_a_package_without_facts_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumiray.overview.about", lambda slug: None)
    assert f"{slugs()[0]}: says nothing about itself" in systems()
