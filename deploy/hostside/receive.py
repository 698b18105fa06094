"""Runs on a host: takes a bundle from standard input and puts it in place, all of it or nothing.

Arguments: the directory to make, the SHA-256 of the stream. The bundle (a gzip'ed tar) is unpacked beside its place and
renamed once it is complete and verified, so that a broken push leaves nothing that looks like code.
"""

import hashlib
import io
import os
import shutil
import sys
import tarfile
import zlib


def unpack(data: bytes, draft: str) -> None:
    """Write the bundle's files below the draft directory; raises TarError for anything but a plain file in there.

    By hand: tarfile's own filters are missing from Python 3.11.2, which Debian 12 and Raspberry Pi OS 12 have.
    """
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for entry in archive:
            path = os.path.normpath(os.path.join(draft, entry.name))
            content = archive.extractfile(entry) if entry.isreg() else None
            if content is None or not path.startswith(draft + os.sep):
                raise tarfile.TarError(f"the bundle holds something else than plain files: {entry.name!a}")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                shutil.copyfileobj(content, file)


def settle(draft: str, place: str) -> None:
    """Rename the draft into place, unless another controller was faster: its content is the same."""
    try:
        os.rename(draft, place)
    except OSError:
        if not os.path.isdir(place):
            raise


def main() -> None:
    """Receive, verify, unpack, rename."""
    place, digest = os.path.abspath(sys.argv[1]), sys.argv[2]
    data = sys.stdin.buffer.read()
    if hashlib.sha256(data).hexdigest() != digest:
        sys.exit("the bundle arrived damaged: its SHA-256 differs")
    draft = f"{place}.{os.getpid()}"
    try:
        os.makedirs(draft)
        unpack(data, draft)
        settle(draft, place)
    except OSError as error:
        sys.exit(f"{error.filename or place}: {error.strerror or error}")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        sys.exit(str(error))
    finally:
        shutil.rmtree(draft, ignore_errors=True)


main()
