"""Run the command line: `python -m convnet_edge`."""

from .commands.app import main

main()
