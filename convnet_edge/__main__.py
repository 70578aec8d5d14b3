"""Start the command line: `convnet-edge`, `python -m convnet_edge` and cli.py.

Imports next to nothing before it listens: Ctrl-C is the user's from the first moment on.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = "convnet-edge: interrupted; expected the whole command; next: run it again\n"
came = list[bool]()  # one for each Ctrl-C


def main() -> None:
    """Run the command line; Ctrl-C ends it with one line, whatever is being imported."""
    try:
        import signal

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
        from .commands.app import main as run

        run()
    except (KeyboardInterrupt, ValueError, TypeError, RuntimeError, SystemError) as error:
        # code in C may take it for an error of its own, as matplotlib's does
        if not (came or isinstance(error, KeyboardInterrupt)):
            raise
        sys.stderr.write(INTERRUPTED)
        sys.exit(130)
    finally:  # what was asked for is done or given up: nothing is left to interrupt
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; out of an import, where torch and others drop it, end at once."""
    came.append(True)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            shown = "\x1b[?25h" * sys.stderr.isatty()  # the cursor, which a moving bar hides
            os.write(2, (shown + INTERRUPTED).encode())
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
