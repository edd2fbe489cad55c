"""Class names and templates of zero-shot classification: files, open_clip's lists, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumiray.errors import UserError
from lumiray.evaluate.classes import Classes, read_class_names, read_classes, read_templates


def written(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_files_are_read_line_by_line_without_empty_ones(tmp_path: Path) -> None:
    names = written(tmp_path / "names.txt", "\ufeff tabby cat\r\n\r\nchow \nété\n")
    templates = written(tmp_path / "templates.txt", "a photo of a {}.\n{} in a {}\n")
    found = read_classes(names, templates)
    assert found == Classes(("tabby cat", "chow", "été"), ("a photo of a {}.", "{} in a {}"))


def test_the_published_lists_load() -> None:
    imagenet = read_class_names("imagenet")
    assert (len(imagenet), imagenet[0], imagenet[999]) == (1000, "tench", "toilet paper")
    assert len(read_templates("openai")) == 80
    assert len(read_templates("simple")) == 7
    assert "itap of a {}." in read_templates("simple")
    assert all("{}" in one for one in read_templates("openai"))


def test_openai_templates_are_taken_where_none_are_given(tmp_path: Path) -> None:
    found = read_classes(written(tmp_path / "names.txt", "cat\ndog"), None)
    assert found is not None
    assert found.templates == tuple(read_templates("openai"))


def test_without_class_names_there_is_no_classification() -> None:
    assert read_classes(None, None) is None
    with pytest.raises(UserError, match="need class names"):
        read_classes(None, "openai")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names.txt: the file is empty"),
        (" \n\n", "names.txt: the file is empty"),
        ("cat\ndog\ncat\n dog\ncat", "'cat' stands there 3 times"),
        (b"cat\n\xff\xfe", "not text in UTF-8"),
        (None, "No such file"),
    ],
)
def test_class_names_that_cannot_be_used_are_one_clear_mistake(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = tmp_path / "names.txt"
    with pytest.raises(UserError, match=words) as caught:
        read_classes(str(path) if text is None else written(path, text), "simple")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a photo of a {}.\na photo", r"line 2: 'a photo' has no \{\}"),
        ("", "the file is empty"),
        (b"\x80 {}", "not text in UTF-8"),
        (None, "No such file"),
    ],
)
def test_templates_that_cannot_be_used_are_one_clear_mistake(tmp_path: Path, text: str | bytes, words: str) -> None:
    names, path = written(tmp_path / "names.txt", "cat"), tmp_path / "templates.txt"
    with pytest.raises(UserError, match=words) as caught:
        read_classes(names, str(path) if text is None else written(path, text))
    assert str(path) in str(caught.value)


def test_a_folder_in_place_of_a_file_is_a_clear_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        read_class_names(str(tmp_path))
