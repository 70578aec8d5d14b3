"""Time a model over ssh and by hand, in turn: `python benchmarks/over_ssh.py`.

An OpenSSH server of this machine, for 127.0.0.1 alone and with keys made for it, stands for a
board. Each of `--rounds` rounds runs `convnet-edge bench --on board` and the same bundle by hand,
the order alternating; what is compared is p50 of one image. Writes
results/reference/over-ssh.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure import machine
from convnet_edge.sealing.default_model import shipped_model

REPOSITORY = Path(__file__).resolve().parent.parent
REFERENCE_PATH = REPOSITORY / "benchmarks" / "results" / "reference" / "over-ssh.json"
OPTIONS = ["--quick", "--json"]
PATIENCE_S = 10


@contextlib.contextmanager
def ssh_boards(folder: Path, boards: Mapping[str, Mapping[str, str]]) -> Iterator[Path]:
    """Serve each board's environment on a port of 127.0.0.1; yield a folder with an `ssh` for them.

    folder: for keys and the boards' caches. The `ssh` is the system's, with a config of its own, in
    which `stranger` is the first board under a host key that nobody has accepted.
    """
    server = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    keygen, client = shutil.which("ssh-keygen"), shutil.which("ssh")
    if server is None or keygen is None or client is None:
        raise FileNotFoundError("needs OpenSSH's client and server (Debian: openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        path = str(folder / name)
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    host_key, entries = (folder / "host.pub").read_text(), list[str]()
    (folder / "bin").mkdir()
    with contextlib.ExitStack() as running:
        for name, environment in boards.items():
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            stated = {"XDG_CACHE_HOME": str(folder / f"{name}-cache"), **environment}
            # behind the shell, which may set a PATH of its own
            words = shlex.join(f"{key}={value}" for key, value in stated.items())
            (folder / f"{name}.sshd").write_text(
                f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nStrictModes no\n"
                f"AuthorizedKeysFile {folder}/user.pub\nPermitRootLogin yes\nUsePAM no\n"
                f"PidFile {folder}/{name}.pid\n"
                f'ForceCommand env {words} sh -c "$SSH_ORIGINAL_COMMAND"\n'
            )
            command = [server, "-D", "-f", str(folder / f"{name}.sshd")]
            process = running.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            running.callback(process.terminate)
            _wait_for(port)
            known = f"[127.0.0.1]:{port} {host_key}"
            (folder / f"{name}.known").write_text(known)
            for alias in (name, "stranger"):
                accepted = folder / f"{alias}.known"  # the stranger's does not exist
                entries.append(
                    f"Host {alias}\n  HostName 127.0.0.1\n  Port {port}\n  IdentitiesOnly yes\n"
                    f"  IdentityFile {folder}/user\n  UserKnownHostsFile {accepted}\n"
                    "  GlobalKnownHostsFile /dev/null\n"
                )
        (folder / "ssh_config").write_text("".join(entries))
        wrapper = folder / "bin" / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {client} -F "{folder}/ssh_config" "$@"\n')
        wrapper.chmod(0o755)
        yield folder / "bin"


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def this_python() -> dict[str, str]:
    """Return the environment of a board whose python3 is this one."""
    return {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}


def by_hand(archive: Path, model: Path) -> dict[str, Any]:
    """Return the result of the bundle that is started here."""
    command = [sys.executable, str(archive), "bench", "--model", model.name, *OPTIONS]
    done = subprocess.run(command, capture_output=True, check=True, cwd=archive.parent)
    return dict(json.loads(done.stdout))


def over_ssh(folder: Path, programs: Path, model: Path) -> dict[str, Any]:
    """Return the result of `bench --on board`."""
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    command = [sys.executable, str(REPOSITORY / "cli.py"), "bench", str(model), "--on", "board"]
    done = subprocess.run(
        [*command, *OPTIONS], stdout=subprocess.PIPE, check=True, env=environment, cwd=folder
    )
    (board,) = json.loads(done.stdout)["boards"]
    return dict(json.loads((folder / board["results"][0]).read_text()))


def p50_ms(result: dict[str, Any]) -> float:
    """Return the median time of one image."""
    row = next(row for row in result["latency"] if row["batch_size"] == 1)
    return float(next(one["value"] for one in row["percentiles_ms"] if one["p"] == 0.5))


def main() -> None:
    """Measure in turn, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", type=Path, default=shipped_model())
    asked = parser.parse_args()
    model, rounds = asked.model.resolve(), list[dict[str, float]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = folder / "x.pyz"
        bundle = ["bundle", str(model), "--with-test-set", "--out", str(archive)]
        subprocess.run([sys.executable, str(REPOSITORY / "cli.py"), *bundle], check=True)
        with ssh_boards(folder, {"board": this_python()}) as programs:
            for number in range(asked.rounds):
                found = dict[str, float]()
                for way in ("hand", "ssh") if number % 2 == 0 else ("ssh", "hand"):
                    result = (
                        by_hand(archive, model)
                        if way == "hand"
                        else over_ssh(folder, programs, model)
                    )
                    found[f"{way}_p50_ms"] = p50_ms(result)
                rounds.append(found)
                print(found, flush=True)
    ratios = [one["ssh_p50_ms"] / one["hand_p50_ms"] for one in rounds]
    by_hand_ms = [one["hand_p50_ms"] for one in rounds]
    middle = statistics.median(by_hand_ms)
    document = {
        "schema": "convnet-edge/over-ssh/1",
        "command": f"python benchmarks/over_ssh.py --rounds {asked.rounds}",
        "model": model.name,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "spread_by_hand": [min(by_hand_ms) / middle, max(by_hand_ms) / middle],
        "rounds": rounds,
        "machine": machine.passport(),
        "versions": machine.versions(),
    }
    write_json(REFERENCE_PATH, document)
    print(f"over ssh / by hand: {document['ratio']:.3f}")


if __name__ == "__main__":
    main()
