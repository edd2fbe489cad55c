"""Where a study's records lie: an SQLite file in its output, or a PostgreSQL database.

With an output on S3 the file is worked on locally and copied there, whole or not at all, whenever a trial begins or
ends: whoever continues the study, on any host, begins with that copy.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lumiray.errors import UserError
from lumiray.storage import NotThere, absolute, is_s3, join, local_path, make_folder, put_file, read_bytes

FILE = "study.db"


@dataclass(frozen=True)
class Place:
    """A study's database.

    Args:
        url: as SQLAlchemy takes it; may hold a password.
        local: the SQLite file, if it is one.
        copy: s3:// address that the file is copied to.
    """

    url: str
    local: str | None = None
    copy: str | None = None

    def publish(self) -> None:
        """Copy the file to where it is kept, if that is elsewhere."""
        if not self.copy or not self.local:
            return
        with tempfile.TemporaryDirectory() as folder:
            snapshot = os.path.join(folder, FILE)
            with closing(sqlite3.connect(self.local)) as source, closing(sqlite3.connect(snapshot)) as target:
                source.backup(target)  # consistent also while a dashboard reads
            put_file(snapshot, self.copy)

    def renew(self) -> None:
        """Take over what a driver elsewhere has copied meanwhile, for those who only look."""
        if not self.copy or not self.local:
            return
        with tempfile.TemporaryDirectory() as folder:
            newest = os.path.join(folder, FILE)
            Path(newest).write_bytes(read_bytes(self.copy))
            with closing(sqlite3.connect(newest)) as source, closing(sqlite3.connect(self.local)) as target:
                source.backup(target)


def place_of(output: str, storage: str | None, new: bool = False) -> Place:
    """The database of the study in an output.

    Args:
        new: the study may begin here.

    Raises:
        UserError: there is none.
    """
    if storage:
        return Place(storage)
    kept = join(absolute(output), FILE)
    if is_s3(output):
        folder = Path(tempfile.gettempdir()) / "lumiray-studies" / hashlib.sha256(kept.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        local = folder / f"{FILE}.{os.getpid()}"
        try:
            local.write_bytes(read_bytes(kept))
        except NotThere:
            if not new:
                raise _no_study(output) from None
            local.unlink(missing_ok=True)
        atexit.register(local.unlink, missing_ok=True)
        return Place(f"sqlite:///{local}", str(local), kept)
    if not new and not os.path.exists(local_path(kept)):
        raise _no_study(output)
    make_folder(output)
    return Place(f"sqlite:///{local_path(kept)}", local_path(kept))


def _no_study(output: str) -> UserError:
    return UserError(
        f"{output}: there is no study ({FILE}). Give the --output of a search, and its --storage if it had one."
    )
