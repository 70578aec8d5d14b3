"""Attack everything that takes something from outside, count: `python benchmarks/campaign.py`.

Each row of `attacks.py` is tried with numbered cases, whose chance follows from seed, row and
number alone, until `--hours` are over or all are done; a later start goes on. What counts as
failed: a traceback, another exit code than documented, no end within the limit, over 2 GiB, a file
that is not whole. `--row NAME --case N` repeats one. All is written into a temporary folder, which
goes away; as root, everything but the counting runs as nobody (setpriv), else it refuses. Writes
results/reference/campaign.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests" / "helpers")]

from convnet_edge import __version__  # noqa: E402 - found by the line above
from convnet_edge.runtime.files import write_json  # noqa: E402
from convnet_edge.runtime.measure import machine  # noqa: E402

REFERENCE_PATH = HERE / "results" / "reference" / "campaign.json"
SCHEMA = "convnet-edge/campaign/1"
NOBODY = 65534
READ_ALL = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
MAX_BYTES, MAX_KEPT = 2 << 30, 20
BATCH_S = 20.0  # of one row, before another has its turn


@dataclass
class Counts:
    """Of one row. failures: what failed, by case, the first ones; hangs and crashes as such."""

    target: int
    tried: int = 0
    failed: int = 0
    impossible: str | None = None
    failures: list[dict[str, Any]] = field(default_factory=list)


def as_nobody() -> list[str]:
    """Return what to start a command with so that it is an unprivileged user's.

    Where that user cannot reach this Python, it may read everything, and write nothing more.
    """
    if os.geteuid() != 0:
        return []
    program = shutil.which("setpriv")
    if program is None:
        sys.exit("this is root, and there is no setpriv (Debian: util-linux) to become nobody by")
    drop = [program, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    ask = [sys.executable, "-c", "import sys, subprocess; print(sys.base_prefix); "
           "subprocess.run([sys.executable, '-c', ''], check=True)"]  # fmt: skip
    able = subprocess.run([*drop, *ask], capture_output=True, check=False, text=True)
    same = able.returncode == 0 and able.stdout.strip() == sys.base_prefix
    return drop if same else [*drop, *READ_ALL]


def work(row: str, seed: int, start: int, end: int, folder: Path) -> None:
    """Try cases of a row, and print a line of JSON for each, as it is done."""
    import attacks

    attack = attacks.ATTACKS[row]
    for case in range(start, end):
        found: dict[str, Any] = {"case": case, "failed": None}
        rng = random.Random(f"{seed}/{row}/{case}")  # noqa: S311 - to be repeated
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
            os.chdir(own)
            try:
                attack.run(attacks.Case(case, rng, Path(own), folder / "base"))
            except attacks.ImpossibleError as error:
                found["impossible"] = str(error)
            except Exception:  # noqa: BLE001 - all that may happen is what is looked for
                found["failed"] = traceback.format_exc()[-2000:]
            os.chdir(folder)
        peak = max(
            resource.getrusage(who).ru_maxrss * 1024
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        if peak > MAX_BYTES and not found["failed"]:
            found["failed"] = f"took {peak / 2**30:.1f} GiB"
        print(json.dumps(found), flush=True)
        if peak > MAX_BYTES:
            return  # the peak of those after it would be the same


def watch(row: str, seed: int, start: int, end: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Let a process try cases; yield what became of each. One that ends or hangs ends with that."""
    import attacks

    limit_s = attacks.ATTACKS[row].limit_s
    command = [
        *as_nobody(), sys.executable, str(Path(__file__)), "--work", str(folder), "--row", row,
        "--seed", str(seed), "--case", str(start), "--until", str(end),
    ]  # fmt: skip
    environment = os.environ | {
        "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(folder / "cache"), "MPLCONFIGDIR": str(folder / "home"),
    }  # fmt: skip
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, env=environment, start_new_session=True
        )
    assert process.stdout
    case, patience_s = start, limit_s + 30  # for what is imported
    try:
        while case < end:
            ready, _, _ = select.select([process.stdout], [], [], patience_s)
            line = process.stdout.readline() if ready else b""
            if not line:
                words = (folder / "said.txt").read_text(errors="replace")[-1000:]
                code = process.wait() if ready else None
                if code == 0 and case > start:
                    return  # it ended because of memory
                end_of = f"the process ended with {code}" if ready else f"no end in {limit_s:g} s"
                yield {"case": case, "failed": f"{end_of}: {words}"}
                return
            yield json.loads(line)
            case, patience_s = case + 1, limit_s
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """Yield a folder of the user that the rows run as, which goes away."""
    with tempfile.TemporaryDirectory(prefix="campaign-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        for inner in ("home", "tmp", "cache"):
            (folder / inner).mkdir()
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        yield folder


def prepare(folder: Path) -> None:
    """Make what the rows need, as the user that they run as."""
    for found in watch("prepare", 0, 0, 1, folder):
        if found["failed"]:
            sys.exit(f"could not prepare: {found['failed']}")


def campaign(asked: argparse.Namespace, counts: dict[str, Counts]) -> None:
    """Give each row its turn until the time is over or all is done."""
    ends, rows = time.monotonic() + asked.hours * 3600, asked.row or [*counts]
    with workplace() as folder:
        prepare(folder)
        for row in rows:
            try_again(row, counts[row], asked.seed, folder)
        write(asked, counts)
        while rows and (time.monotonic() < ends or any(not counts[row].tried for row in rows)):
            for row in [*rows]:
                one = counts[row]
                if time.monotonic() > ends and one.tried:
                    continue
                began = time.monotonic()
                for found in watch(row, asked.seed, one.tried, one.target, folder):
                    one.tried += 1
                    if found.get("impossible"):
                        one.impossible = found["impossible"]
                    if found["failed"]:
                        one.failed += 1
                        one.failures = [*one.failures, found][:MAX_KEPT]
                        print(f"{row} {found['case']}: {found['failed'][-600:]}", flush=True)
                    if time.monotonic() - began > BATCH_S or one.impossible:
                        break
                print(f"{row}: {one.tried} of {one.target}, {one.failed} failed", flush=True)
                if one.tried >= one.target or one.impossible:
                    rows.remove(row)
            write(asked, counts)


def try_again(row: str, one: Counts, seed: int, folder: Path) -> None:
    """Try what failed again; what holds now counts as tried alone."""
    for before in [*one.failures]:
        (found,) = watch(row, seed, before["case"], before["case"] + 1, folder)
        if not found["failed"]:
            one.failures.remove(before)
            one.failed -= 1


def read(asked: argparse.Namespace) -> dict[str, Counts]:
    """Return what was counted before with the same seed and version, or nothing yet."""
    import attacks

    kept: dict[str, Any] = {}
    if asked.out.exists():
        document = json.loads(asked.out.read_text())
        if (document["seed"], document["version"]) == (asked.seed, __version__):
            kept = document["rows"]
    new = {name: Counts(one.n) for name, one in attacks.ATTACKS.items() if one.n}
    return new | {name: Counts(**kept[name]) for name in new if name in kept}


def table(rows: dict[str, Any]) -> str:
    """Return the counts as Markdown, with what each row says that it does."""
    import attacks

    lines = ["| row | what | tried | of | failed |", "| --- | --- | --- | --- | --- |"]
    for name, one in rows.items():
        (what, *_) = (attacks.ATTACKS[name].run.__doc__ or "").splitlines()
        tried = one["impossible"] or f"{one['tried']:,}"
        lines.append(f"| {name} | {what} | {tried} | {one['target']:,} | {one['failed']:,} |")
    return "\n".join(lines)


def write(asked: argparse.Namespace, counts: dict[str, Counts]) -> None:
    """Keep the counts."""
    write_json(asked.out, {
        "schema": SCHEMA,
        "command": f"python benchmarks/campaign.py --seed {asked.seed}",
        "repeat": "python benchmarks/campaign.py --row ROW --case CASE",
        "seed": asked.seed,
        "version": __version__,
        "rows": {name: asdict(one) for name, one in counts.items()},
        "machine": machine.passport(),
        "versions": machine.versions(),
    })  # fmt: skip


def main() -> None:
    """Attack, count, and exit with 1 if anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=0.1, help="about so long; each row once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=REFERENCE_PATH)
    parser.add_argument("--anew", action="store_true", help="count from nothing")
    parser.add_argument("--row", action="append", help="this one alone; again for others")
    parser.add_argument("--case", type=int, help="of --row, this one alone")
    parser.add_argument("--table", action="store_true", help="print the counts as Markdown")
    parser.add_argument("--until", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.row[0], asked.seed, asked.case, asked.until, asked.work)
        return
    if asked.table:
        print(table(json.loads(asked.out.read_text())["rows"]))
        return
    if asked.anew:
        asked.out.unlink(missing_ok=True)
    counts = read(asked)
    if asked.case is not None:
        with workplace() as folder:
            prepare(folder)
            (found,) = watch(asked.row[0], asked.seed, asked.case, asked.case + 1, folder)
        sys.exit(found["failed"] or found.get("impossible"))
    campaign(asked, counts)
    sys.exit(any(one.failed for one in counts.values()))


if __name__ == "__main__":
    main()
