"""Systems are found by name, in this project and in packages of third parties, without being imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lumizoo
from lumiray import registry
from lumiray.errors import UserError
from lumiray.system import System
from lumizoo.clip.config import ClipConfig

CONFIG = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    width: int = 8

CONFIG = Config
"""
SYSTEM = """
from lumiray.system import System
from their_systems.config import Config

class Theirs(System):
    slug = "their-net"
    config_class = Config
    def stages(self): return ()
    def build(self, stage): raise RuntimeError("no network is built by a name alone")
    def prepare(self, stage, row, draw): return {}

SYSTEM = Theirs
"""


@pytest.fixture
def their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of a third party on the path, with an entry point as pip would have written it."""
    package = tmp_path / "their_systems"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "config.py").write_text(CONFIG)
    (package / "system.py").write_text(SYSTEM)
    metadata = tmp_path / "their_systems-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-systems\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[lumiray.systems]\ntheir_net = their_systems\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.packages.cache_clear()
    yield package
    registry.packages.cache_clear()
    for name in [one for one in sys.modules if one.startswith("their_systems")]:
        del sys.modules[name]


def test_every_folder_with_a_system_is_found_by_its_name() -> None:
    zoo = Path(lumizoo.__file__).parent
    folders = {file.parent.name.replace("_", "-") for file in zoo.glob("*/system.py")}
    assert "clip" in folders
    assert folders <= set(registry.slugs())
    assert registry.slugs() == sorted(registry.slugs())


def test_a_system_takes_fields_or_a_whole_configuration() -> None:
    assert registry.system("clip", model="RN50").config == ClipConfig(model="RN50")
    assert registry.system("CLIP", ClipConfig(model="RN50")).config == ClipConfig(model="RN50")
    assert registry.config_class("clip") is ClipConfig


@pytest.mark.parametrize("ask", [registry.system, registry.config_class, registry.system_class])
def test_an_unknown_system_is_refused_with_those_that_there_are(ask) -> None:
    with pytest.raises(UserError, match=r"There is no system 'clipp'; there are .*clip.* Did you mean 'clip'"):
        ask("clipp")


def test_an_unknown_setting_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(UserError, match=r"clip has no setting 'wights'\. Did you mean 'weights'"):
        lumizoo.load("clip", wights="a.pt")


def test_a_third_party_adds_a_system_by_an_entry_point_in_either_spelling(their_package: Path) -> None:
    assert {"their-net", "clip"} <= set(registry.slugs())
    assert "their_systems" not in sys.modules  # listing imports nothing
    assert registry.config_class("their-net")().width == 8
    assert "their_systems.system" not in sys.modules  # neither do its settings
    found = registry.system("Their_Net", width=3)
    assert isinstance(found, System)
    assert found.config.width == 3


def test_a_package_that_does_not_say_what_it_offers_is_told_so(their_package: Path) -> None:
    (their_package / "config.py").write_text("class Config: pass\n")
    with pytest.raises(TypeError, match=r"their_systems\.config does not say which class it offers: set CONFIG"):
        registry.config_class("their-net")
