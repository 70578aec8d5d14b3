"""Run the command line: `python -m convnet_edge`."""

from .cli import main

main()
