"""One head for the tests of this folder, and one run on it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from head import Head
from story import Told, tell


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    # sockets of Ray have paths of at most 107 letters, so no folder of pytest's
    with tempfile.TemporaryDirectory(prefix="lr", ignore_cleanup_errors=True) as folder:
        one = Head(Path(folder))
        one.start()
        try:
            yield one
        finally:
            one.end()


@pytest.fixture(scope="session")
def told(head: Head, emoji_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    return tell(head, emoji_shards, tmp_path_factory.mktemp("submitted") / "run")
