"""Files by address: local paths, or an object store such as s3://bucket/folder, by pyarrow."""

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cyclegan_age.config import needs
from cyclegan_age.files import write_atomically


def is_remote(address: str) -> bool:
    """Whether it is an address of an object store, such as s3:// or gs://."""
    return re.match(r"[a-z][a-z0-9+.-]*://", address) is not None


def joined(folder: str, name: str) -> str:
    """The address of a file below a folder; a query, such as ?region=eu-west-1, stays at the end."""
    if not is_remote(folder):
        return os.path.join(folder, name)  # noqa: PTH118 - addresses are not paths
    path, mark, query = folder.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def read(address: str) -> bytes:
    """The content of a file.

    Raises:
        OSError: it does not exist, or cannot be read.
    """
    if not is_remote(address):
        return Path(address).read_bytes()
    store, path = _opened(address)
    with store.open_input_file(path) as f:
        data: bytes = f.read()
    return data


def write(address: str, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        OSError: it cannot be written.
    """
    if not is_remote(address):
        write_atomically(Path(address), data)
        return
    store, path = _opened(address)
    with store.open_output_stream(path) as f:  # in object stores a file appears when it is closed
        f.write(data)


def is_file(address: str) -> bool:
    """Whether there is such a file.

    Raises:
        OSError: the store does not answer.
    """
    if not is_remote(address):
        return Path(address).is_file()
    store, path = _opened(address)
    return bool(store.get_file_info(path).is_file)


def below(address: str) -> Iterator[str]:
    """Names of all files below a folder, relative to it, with `/`; none if it does not exist.

    Raises:
        OSError: the store does not answer.
    """
    if not is_remote(address):
        for where, _, names in os.walk(address):
            prefix = os.path.relpath(where, address).replace(os.sep, "/")
            yield from names if prefix == "." else (f"{prefix}/{name}" for name in names)
        return
    from pyarrow.fs import FileSelector

    store, path = _opened(address)
    path = path.rstrip("/")
    for info in store.get_file_info(FileSelector(path, allow_not_found=True, recursive=True)):
        if info.is_file:
            yield info.path.removeprefix(path).lstrip("/")


def _opened(address: str) -> tuple[Any, str]:
    """The store of an address, and the path in it."""
    parts = urlsplit(address.replace("#", "%23"))
    store, base = _store(f"{parts.scheme}://{parts.netloc}", parts.query)
    return store, f"{base.rstrip('/')}/{parts.path.replace('%23', '#').lstrip('/')}"


@lru_cache(maxsize=16)
def _store(root: str, query: str) -> tuple[Any, str]:
    with needs("pyarrow"):
        from pyarrow.fs import FileSystem
    try:
        return FileSystem.from_uri(f"{root}/?{query}" if query else f"{root}/")  # type: ignore[no-any-return]
    except ValueError as e:
        raise OSError(f"{root}: {e}") from None
