"""Check a bundle's bytes, then run it: the file that Python starts inside of NAME.pyz.

The archive's trailing comment is the SHA-256 of all bytes before it: proof that the copy is whole,
not of who made it. Standard library and old syntax only, so that an old Python can say that it is.
"""

import hashlib
import os
import sys

PREFIX = b"sha256:"
COMMENT_BYTES = len(PREFIX) + 64


def seal(data):  # type: (bytes) -> bytes
    """Return `data`, an archive whose comment is COMMENT_BYTES long, with the comment filled in."""
    body = data[:-COMMENT_BYTES]
    return body + PREFIX + hashlib.sha256(body).hexdigest().encode()


def is_whole(data):  # type: (bytes) -> bool
    """Return whether the archive's bytes are those that were sealed."""
    return len(data) > COMMENT_BYTES and seal(data) == data


def begin():  # type: () -> int
    """Check the archive that holds this file and run its command line; return the exit code."""
    archive = os.path.dirname(os.path.abspath(__file__))
    name = os.path.basename(archive)
    with open(archive, "rb") as file:
        whole = is_whole(file.read())
    if not whole:
        return _fail(name, 1, "FAIL: the file was altered or is incomplete", "the bytes that were "
                     "bundled", "copy it again, or bundle it anew")  # fmt: skip
    if sys.version_info < (3, 10):
        return _fail(name, 2, "Python %d.%d" % sys.version_info[:2], "Python 3.10 or newer",
                     "start it with a newer python3")  # fmt: skip
    try:
        from convnet_edge.runtime.__main__ import main
    except ImportError as error:
        if error.name is None or error.name.startswith("convnet_edge"):
            raise
        return _fail(name, 2, "%s cannot be imported: %s" % (error.name, error), "numpy and "
                     "onnxruntime", "python3 -m pip install numpy onnxruntime pillow")  # fmt: skip
    return main(archive)


def _fail(name, code, found, expected, next_step):  # type: (str, int, str, str, str) -> int
    sys.stderr.write("%s: %s; expected %s; next: %s\n" % (name, found, expected, next_step))
    return code


if __name__ == "__main__":
    sys.exit(begin())
