"""The environment is exactly what the lock says, and nothing in it depends on where packages come from."""

from __future__ import annotations

import re
import tomllib
from collections import Counter

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tests.house.sources import ROOT

LINES = (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
PINS = [line for line in LINES if line.strip() and not line.lstrip().startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def versions() -> dict[str, Version]:
    return {canonicalize_name(line.split("==")[0]): Version(line.split("==")[1].split()[0]) for line in PINS}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(one for some in extras.values() for one in some)]
    return [Requirement(text) for text in texts]


def test_every_line_of_the_lock_is_one_exact_version_with_hashes() -> None:
    pattern = re.compile(r"[A-Za-z0-9._-]+==[^\s;]+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+ *")
    assert [line[:80] for line in PINS if not pattern.fullmatch(line)] == []
    assert len(versions()) == len(PINS)


def test_the_lock_names_packages_and_no_place() -> None:
    text = "\n".join(LINES)
    for sign in ("://", "index-url", "find-links", "trusted-host", "-e ", " @ ", "file:"):
        assert sign not in text, sign


def test_every_dependency_is_in_the_lock_with_a_version_that_it_allows() -> None:
    locked = versions()
    missing = [one.name for one in requirements() if canonicalize_name(one.name) not in locked]
    assert missing == [], "make lock"
    outside = [
        f"{one} but {locked[canonicalize_name(one.name)]} in the lock"
        for one in requirements()
        if locked[canonicalize_name(one.name)] not in one.specifier
    ]
    assert outside == []


def test_every_dependency_is_named_once_and_those_of_the_product_have_a_lower_bound() -> None:
    counts = Counter(canonicalize_name(one.name) for one in requirements())
    assert [name for name, times in counts.items() if times > 1] == []
    bare = [text for text in PROJECT["dependencies"] if not re.search(r"(>=|==)", text)]
    assert bare == []


def test_the_distribution_holds_both_packages_and_its_command() -> None:
    assert PROJECT["name"] == "lumiray"
    assert PROJECT["scripts"] == {"lumiray": "lumiray.cli:main"}
    assert PROJECT["license"] == "Apache-2.0"
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
