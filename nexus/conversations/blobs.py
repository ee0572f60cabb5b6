"""The folder of blobs beside the database: each file is named by the SHA-256 of its content.

It knows no table. A file is durable before a row names it; a file that no row names is garbage, which may be deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from nexus.conversations.errors import BlobDamaged, BlobNotFound
from nexus.store.backup import fsync_directory

__all__ = ["BlobFolder"]

_IN_BACKUP = "A backup with files may have it: nexusctl db backups"


class BlobFolder:
    """The blobs of one database, in folders by the first two digits of their hashes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def root(self) -> Path:
        """The folder."""
        return self._folder

    @staticmethod
    def hash_of(data: bytes) -> str:
        """The name of a blob with this content."""
        return hashlib.sha256(data).hexdigest()

    def path(self, hash_: str) -> Path:
        """Where a blob is, if it is there."""
        return self._folder / hash_[:2] / hash_

    def put(self, data: bytes) -> str:
        """Write a blob durably, if it is not there with its content; returns its hash. It blocks.

        Raises:
            OSError: it cannot be written.
        """
        hash_ = self.hash_of(data)
        path = self.path(hash_)
        with contextlib.suppress(OSError):
            if path.stat().st_size == len(data) and path.read_bytes() == data:
                return hash_
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{hash_}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        for folder in (path.parent, self._folder, self._folder.parent):
            fsync_directory(folder)
        return hash_

    def get(self, hash_: str) -> bytes:
        """The content of a blob. It blocks.

        Raises:
            BlobNotFound: its file is not there, or cannot be read.
            BlobDamaged: its file has another content.
        """
        cannot, details = f"cannot read blob {hash_}", {"blob": hash_}
        try:
            data = self.path(hash_).read_bytes()
        except OSError as error:
            raise BlobNotFound(f"{cannot}: {error.strerror}", hint=_IN_BACKUP, details=details) from None
        if self.hash_of(data) != hash_:
            raise BlobDamaged(f"{cannot}: its file has another content", hint=_IN_BACKUP, details=details)
        return data
