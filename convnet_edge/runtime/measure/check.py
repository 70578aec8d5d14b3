"""A check's outcome, apart from the rest of a result: opening a model does not wait for that."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Check:
    """One check's outcome."""

    name: Annotated[str, "of the check"]
    passed: Annotated[bool, "whether it held"]
    detail: Annotated[str, "in words"]
    value: Annotated[float | None, "measured; null where neither fits, or not finite"] = None
    limit: Annotated[float | None, "allowed"] = None
    skipped: Annotated[bool, "could not be run here; neither passes nor fails"] = False

    def line(self) -> str:
        """Return the check as people read it: `[✓] name: detail`."""
        mark = "-" if self.skipped else "✓" if self.passed else "x"
        return f"[{mark}] {self.name}: {self.detail}"
