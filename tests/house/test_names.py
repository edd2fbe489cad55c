"""The platform names no system, systems name no cluster and not each other, files are named by their duty.

What counts is code: identifiers, imports, and the texts that code uses.  Docstrings and comments may give a
system as an example or a card as a source, for a reader needs them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.house.sources import ROOT, functions, imported, sources

# `open_clip` is a library of the field, as torch is: its file form is exported, its class names and templates
# are read, doctor prints its version.  The platform names it where it means that library.
LIBRARIES = ("open_clip_torch", "open_clip")
# To clip is also a verb: gradients and numbers are clipped.
VERBS = ("clip_norm", "clip-norm", "gradient_clipping", "clip", "clipped", "clipping")

PLATFORM_FOR_SYSTEMS = {  # what a system may import of the platform (models/README.md)
    *("lumiray.system", "lumiray.about", "lumiray.errors", "lumiray.registry"),
    *("lumiray.data.decode", "lumiray.data.picture", "lumiray.data.records"),
}
VAGUE = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "base", "tools"}


def slugs() -> list[str]:
    return sorted(file.parent.name for file in (ROOT / "models" / "lumizoo").glob("*/system.py"))


def documentation(tree: ast.AST) -> set[int]:
    """Ids of the constants that are docstrings (also those below the fields of a class)."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        id(one.value)
        for node in ast.walk(tree)
        if isinstance(node, holders)
        for one in node.body
        if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
    }


def words_of_code(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(text, line) of every identifier, import and text constant of a module's code."""
    prose = documentation(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value, line
        for attribute in ("id", "attr", "name", "arg", "asname", "module"):
            value = getattr(node, attribute, None)
            if isinstance(value, str):
                yield value, line


def names_system(text: str, slug: str) -> bool:
    """Whether a text of code contains the system's name as a word of its own, in any spelling.

    A verb counts as such only where it is written as one: in small letters, standing alone or in a known name.
    """
    if slug.split("_")[0] not in text.lower():
        return False
    for library in LIBRARIES:
        text = text.replace(library, "")
    pieces = re.findall(r"[A-Za-z0-9_-]+", text)
    for piece in pieces:
        if piece in VERBS:
            continue
        words = [one for one in re.split(r"[_-]|(?<=[a-z0-9])(?=[A-Z])", piece) if one]
        wanted = slug.split("_")
        lowered = [one.lower() for one in words]
        if any(lowered[at : at + len(wanted)] == wanted for at in range(len(lowered))):
            return True
    return False


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("clip", False),  # np.clip
        ("clip_norm", False),
        ("set --engine.clip-norm", False),
        ("import open_clip", False),
        ("an open_clip pretrained tag", False),
        ("clip.logit_scale", False),  # not told from the verb by its spelling; see the imports below
        ("CLIP", True),
        ("ClipConfig", True),
        ("make_clip_model", True),
        ("clip_loss", True),
        ("the loss of CLIP", True),
    ],
)
def test_the_rule_below_tells_a_system_from_a_verb_and_a_library(text: str, named: bool) -> None:
    assert names_system(text, "clip") == named


def test_the_platform_names_no_system() -> None:
    found = [
        f"{source.name}:{line} {text[:60]!r} names {slug}"
        for source in sources("platform")
        for text, line in words_of_code(source.tree)
        for slug in slugs()
        if names_system(text, slug)
    ]
    assert found == []


def test_no_text_of_the_platform_is_a_system_s_name() -> None:
    """As in `system("clip")`: which system is trained is said by jobs and configurations alone."""
    names = {spelling for slug in slugs() for spelling in (slug, slug.replace("_", "-"))}
    found = [
        f"{source.name}:{node.lineno} {node.value!r}"
        for source in sources("platform")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    ]
    assert found == []


def test_the_platform_finds_systems_by_name_and_imports_none() -> None:
    found = [
        f"{source.name}:{line} {name}"
        for source in sources("platform")
        for name, line in imported(source.tree)
        if name.split(".")[0] == "lumizoo"
    ]
    assert found == []
    texts = [file for file in (ROOT / "platform").rglob("*") if file.suffix in (".jinja", ".html", ".css", ".yaml")]
    for file in texts:
        assert not any(names_system(file.read_text(), slug) for slug in slugs()), file


def test_systems_know_no_cluster_and_not_each_other() -> None:
    found = []
    for source in sources("models"):
        folder = Path(source.name).parts[2]
        for name, line in imported(source.tree):
            parts = name.lstrip(".").split(".")
            if parts[0] in ("ray", "deepspeed"):
                found.append(f"{source.name}:{line} imports {name}")
            if parts[0] == "lumizoo" and len(parts) > 1 and parts[1] not in ("blocks", folder):
                found.append(f"{source.name}:{line} imports {name} of another system")
            if folder == "blocks" and parts[0] == "lumizoo" and parts[1:2] != ["blocks"]:
                found.append(f"{source.name}:{line} imports {name}: blocks know no system")
    assert found == []


def test_systems_import_of_the_platform_only_the_contract_errors_and_pictures() -> None:
    found = [
        f"{source.name}:{line} {name}"
        for source in sources("models")
        for name, line in imported(source.tree)
        if name.startswith("lumiray.") and not any(f"{name}.".startswith(f"{one}.") for one in PLATFORM_FOR_SYSTEMS)
    ]
    assert found == []


def test_files_and_functions_are_named_by_what_they_do() -> None:
    files = [source.name for source in sources("platform", "models", "jobs") if Path(source.name).stem in VAGUE]
    assert files == []
    named = [
        f"{source.name}:{function.lineno} {function.name}"
        for source in sources("platform", "models", "jobs")
        for function in functions(source.tree)
        if set(function.name.split("_")) & (VAGUE - {"base", "common"})
    ]
    assert named == []
