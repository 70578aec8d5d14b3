"""The options of commands that other machines can do."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes
from ..runtime.options import Options, declared, option, require

MAX_HOSTS_BYTES = MIB
OTHERS = "Other machines"


@dataclass(frozen=True, kw_only=True)
class FleetOptions(Options):
    """Which machines."""

    on: tuple[str, ...] | None = option(
        None,
        "There, by ssh, not here; again for each machine. It needs python3 with onnxruntime, and "
        "to let you in without a password.",
        repeated=True,
        metavar="HOST",
        panel=OTHERS,
    )
    hosts: Path | None = option(
        None, "A file of such machines, one a line.", metavar="FILE", panel=OTHERS
    )

    @property
    def elsewhere(self) -> bool:
        """Whether other machines are named."""
        return bool(self.on or self.hosts)

    def machines(self) -> list[str]:
        """Return each machine once, in order.

        Raises:
            InputError: there is none, or one is no name.
        """
        named = list(self.on or ())
        if self.hosts is not None:
            data = read_bytes(self.hosts, limit=MAX_HOSTS_BYTES, next_step="change --hosts")
            lines = data.decode(errors="replace").splitlines()
            named += filter(None, (line.partition("#")[0].strip() for line in lines))
        for host in dict.fromkeys(named):
            if not re.fullmatch(r"[^\s-]\S*", host):
                raise InputError(
                    f"the machine {host!r}",
                    expected="a name, an alias of ~/.ssh/config, or user@name",
                    next_step="change --on or --hosts",
                )
        if not named:
            raise InputError(
                f"{self.hosts} names no machine",
                expected="one a line",
                next_step="change --hosts",
            )
        return list(dict.fromkeys(named))

    def require_here(self, *names: str) -> None:
        """Refuse other machines with an option of these `names` that is not as by default.

        Raises:
            InputError: so it is.
        """
        for one in declared(type(self)):
            given = one.name in names and getattr(self, one.name) != one.default
            found = f"{one.flag} and other machines"
            require(not given or not self.elsewhere, found, "one of them", one.flag, verb="drop")
