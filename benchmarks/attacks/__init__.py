"""What `campaign.py` tries: rows of numbered cases, each with its own chance and folder.

A case returns if the program held, and raises where it did not. A row either calls the program's
functions, whose only errors may be its own, or starts its commands.
"""

from . import commands, files, web
from .cases import ATTACKS, Case, ImpossibleError, Random, damaged

__all__ = ["ATTACKS", "Case", "ImpossibleError", "Random", "commands", "damaged", "files", "web"]
