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


def unpack(data: bytes, draft: str) -> None:
    """Unpack regular files below the draft directory; the `data` filter refuses anything that points outside."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        archive.extractall(draft, filter="data")


def main() -> None:
    """Receive, verify, unpack, rename."""
    place, digest = sys.argv[1:3]
    data = sys.stdin.buffer.read()
    if hashlib.sha256(data).hexdigest() != digest:
        sys.exit("the bundle arrived damaged: its SHA-256 differs")
    draft = f"{place}.{os.getpid()}"
    try:
        os.makedirs(draft)
        unpack(data, draft)
        if os.path.isdir(place):
            shutil.rmtree(draft)  # another controller was faster, with the same content
        else:
            os.rename(draft, place)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        sys.exit(f"{error.filename or place}: {error.strerror}")


main()
