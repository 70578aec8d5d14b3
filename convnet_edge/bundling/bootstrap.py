"""Check a bundle's bytes, then run it: the file that Python starts inside of NAME.pyz.

The archive's comment is the SHA-256 of all bytes before it (runtime/archive.py writes it): proof
that the copy is whole, not of who made it. Standard library and the syntax of any Python 3 alone,
so that an old one can say which is needed. No flipped bit of these lines may end in exit 0: hence
a text to exit with instead of a number, and != at the end.
"""

import os
import signal
import sys

PREFIX = b"sha256:"
COMMENT_BYTES = len(PREFIX) + 64


def begin(archive: str) -> int:
    """Check the bytes of `archive` and run its command line; return the exit code."""
    name = os.path.basename(archive)

    def interrupted(*_):
        # type: (object) -> None
        os._exit(_fail(name, "interrupted; expected the whole command; next: run it again", 130))

    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # numpy's C code makes an ImportError of the exception
        signal.signal(signal.SIGINT, interrupted)
    try:
        import hashlib

        with open(archive, "rb") as file:
            data = file.read()
        digest = hashlib.sha256(data[:-COMMENT_BYTES]).hexdigest()
        if data[-COMMENT_BYTES:] != PREFIX + digest.encode():
            sys.exit("%s: FAIL: the file was altered or is incomplete; expected the bytes that "
                     "were bundled; next: copy it again, or bundle it anew" % name)  # fmt: skip
        if sys.version_info < (3, 10):
            return _fail(name, "Python %d.%d; expected Python 3.10 or newer; next: start it "
                         "with a newer python3" % sys.version_info[:2], 2)  # fmt: skip
        from convnet_edge.runtime.__main__ import main
    except ImportError as error:
        if error.name is None or error.name.startswith("convnet_edge"):
            raise
        return _fail(name, "%s; expected numpy and onnxruntime; next: python3 -m pip install "
                     "numpy onnxruntime pillow" % error, 2)  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, usual)
    return main(archive)


def _fail(name: str, what: str, code: int) -> int:
    sys.stderr.write("%s: %s\n" % (name, what))
    sys.stderr.flush()
    return code


if __name__ != "convnet_edge.bundling.bootstrap":
    sys.exit(begin(os.path.dirname(os.path.abspath(__file__))))
