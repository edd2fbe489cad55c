"""What can go wrong with files and buckets, as sentences that name the thing, the place and the mend.

The store's own words are never passed on: they may quote keys, and they speak of XML.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lumiray.errors import UserError

_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError")
# what asking again does not mend; throttling, broken connections and server errors are not among these
_LASTING = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.EREMCHG)
_PASSING_CODES = ("IncompleteBody", "RequestTimeout", "BadDigest")


class NotThere(UserError, FileNotFoundError):
    """A file or folder that does not exist."""


class NoBucket(NotThere):
    """A bucket that does not exist."""


class NoAccess(UserError, PermissionError):
    """A file, folder or bucket that these credentials may not read or write."""


class Unreachable(UserError, ConnectionError):
    """A store that did not answer, also after several attempts."""


class TooShort(UserError):
    """A file that ends before the bytes that were asked for."""


@contextmanager
def clear_errors(url: str, verb: str) -> Iterator[None]:
    """Turn what file systems and S3 raise inside into the errors above.

    Args:
        verb: what was done, as in "Cannot {verb} {url}".
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        clear = _clear(error, url, f"Cannot {verb} {without_secrets(url)}")
        if clear is None:
            raise
        raise clear from None


def _clear(error: Exception, url: str, failed: str) -> UserError | None:
    """None for what is neither the user's nor the store's doing."""
    if isinstance(error, FileNotFoundError):
        if code_of(error) == "NoSuchBucket":
            return no_bucket(url, failed)
        return NotThere(f"{failed}: it is not there. Check the address.")
    if isinstance(error, PermissionError):
        mend = (
            "Check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE or the instance's role) and the bucket's policy."
            if url.startswith("s3://")
            else "Check the rights of the file and of its folder."
        )
        return NoAccess(f"{failed}: no permission. {mend}")
    if isinstance(error, (IsADirectoryError, NotADirectoryError, FileExistsError)):
        return UserError(f"{failed}: a folder where a file should be, or the other way round.")
    if url.startswith("s3://"):
        return _clear_s3(error, failed)
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{failed}: the disk is full. Make room, or choose another place.")
    if number == errno.EROFS:
        return NoAccess(f"{failed}: it lies on a disk that cannot be written. Choose another place.")
    return None


def _clear_s3(error: Exception, failed: str) -> UserError | None:
    if type(error).__name__ in _NO_CREDENTIALS:
        return NoAccess(
            f"{failed}: no S3 credentials found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
            "or give the machine a role."
        )
    name = code_of(error) or type(error).__name__
    if is_passing(error):
        return Unreachable(
            f"{failed}: {endpoint()} does not answer as it should ({name}), also after several attempts. "
            "Check the network, AWS_ENDPOINT_URL and AWS_REGION."
        )
    if isinstance(error, OSError):
        return UserError(f"{failed}: {endpoint()} refuses the request ({name}). Check AWS_REGION and the address.")
    return None


def is_passing(error: Exception) -> bool:
    """True for throttling, broken connections and server errors; False for what asking again cannot mend."""
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return False
    if type(error).__name__ in _NO_CREDENTIALS:
        return False
    if isinstance(error, OSError) and error.errno in _LASTING:
        return code_of(error) in _PASSING_CODES
    library = type(error).__module__.split(".")[0]
    return isinstance(error, OSError) or library in ("botocore", "aiobotocore", "aiohttp", "urllib3")


def code_of(error: BaseException) -> str:
    """The S3 error code behind an exception, or an empty string."""
    response: Any = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def no_bucket(url: str, failed: str) -> NoBucket:
    """The error for a bucket that is not there."""
    bucket = url.removeprefix("s3://").split("/")[0]
    return NoBucket(
        f"{failed}: there is no bucket {bucket!r} at {endpoint()}. "
        "Check its name, and AWS_ENDPOINT_URL if it lies on a server of your own."
    )


def endpoint() -> str:
    """Where S3 requests go, for messages."""
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return without_secrets(address) if address else "Amazon S3"


def without_secrets(url: str) -> str:
    """An address without user, password and query, as it may stand in a message or a log."""
    if "://" not in url:
        return url
    scheme, rest = url.split("://", 1)
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
