"""The files of a gzipped tarball, read as untrusted bytes: bounded, and nothing but regular files within it."""

import io
import tarfile
import zlib

from mixer.errors import BundleError

_MOST_FILES = 20_000
_CHUNK = 1 << 20


def unpack(name: str, raw: bytes, limit: int) -> dict[str, bytes]:
    """Every regular file by its path. `limit`: bytes of the tarball when unpacked.

    Raises `BundleError` ("archive") for one that is damaged, larger, or holds a link, a device, the same path twice
    or a path that leads out of it. Nothing is written to disk.
    """
    content = _gunzipped(name, raw, limit)
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            entries, end = 0, 0
            while (entry := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # or it keeps each header
                entries += 1
                if entries > _MOST_FILES:
                    raise BundleError("archive", name, "", f"holds more than {_MOST_FILES} entries")
                if archive.offset < end:
                    raise BundleError("archive", name, "", "is damaged: an entry of negative size")
                end = archive.offset
                if entry.isdir():
                    continue
                path = _path(name, entry.name)
                if not entry.isreg() or entry.issparse():
                    raise BundleError("archive", name, path, "is no regular file; a bundle holds no links")
                if path in files:
                    raise BundleError("archive", name, path, "is in the bundle twice")
                file = archive.extractfile(entry)
                files[path] = file.read() if file is not None else b""
                if len(files[path]) != entry.size:
                    raise BundleError("archive", name, path, "is cut off")
    except (tarfile.TarError, ValueError, OverflowError, EOFError, OSError, KeyError, IndexError) as error:
        raise BundleError("archive", name, "", f"is no tar archive: {error}") from None
    return files


def _gunzipped(name: str, raw: bytes, limit: int) -> bytes:
    parts: list[bytes] = []
    room = limit
    while raw:
        stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        while not stream.eof:
            try:
                part = stream.decompress(raw, min(room + 1, _CHUNK))
            except zlib.error as error:
                raise BundleError("archive", name, "", f"is not gzip: {error}") from None
            raw = stream.unconsumed_tail
            room -= len(part)
            if room < 0:
                raise BundleError(
                    "archive", name, "", f"unpacks to more than {limit} bytes (policy.bundle_size_limit)"
                )
            if not part and not raw and not stream.eof:
                raise BundleError("archive", name, "", "is cut off")
            parts.append(part)
        raw = stream.unused_data
    if not parts:
        raise BundleError("archive", name, "", "is empty")
    return b"".join(parts)


def _path(name: str, path: str) -> str:
    """As in the bundle's signature: without a slash in front."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise BundleError("archive", name, "", "holds a file whose name is not UTF-8") from None
    while path.startswith(("/", "./")):
        path = path.removeprefix("/").removeprefix("./")
    if not path or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise BundleError("archive", name, path, "is a path that leads out of the bundle, or is no plain one")
    return path
