"""`platform/` is a source root and never a package: `import platform` is Python's own module, everywhere."""

from __future__ import annotations

from tests.house.sources import ROOT, fresh


def test_the_source_roots_are_not_packages() -> None:
    assert (ROOT / "platform" / "lumiray" / "__init__.py").exists()
    for folder in ("platform", "models", "jobs"):
        assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/__init__.py would make {folder} a package"


def test_python_s_own_platform_is_found_with_the_root_first_on_the_path() -> None:
    """Ray puts the root of an uploaded working directory there; torch, ray and pip import `platform`."""
    found = fresh(
        "-c", "import sys, platform; print(sys.path[1]); print(platform.__file__); platform.system()", path="."
    )
    first, file = found.splitlines()
    assert first.rstrip("/.") == str(ROOT)
    assert not file.startswith(str(ROOT / "platform"))
    assert file.endswith("platform.py")
