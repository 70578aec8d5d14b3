"""Remember which threads, callers and batch size serve a model best on this machine.

They are kept in NAME.tune.json beside the model file, and hold for that very file, machine and
provider: `Classifier` and later benches use them where nothing else is asked for. The search is
throughput's business.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import MIB, read_bytes, write_json
from . import machine

SCHEMA = "convnet-edge/tune/1"
MAX_THREADS = 4096
NEXT_STEP = "remove it, or make it anew with `convnet-edge bench --tune`"


@dataclass(frozen=True)
class Tuning:
    """What was found best. threads: for one image at a time, the session's default from then on.

    throughput_threads, n_callers, batch_size: for most images a second.
    """

    threads: int
    throughput_threads: int
    n_callers: int
    batch_size: int


def path_beside(model_path: Path) -> Path:
    """Return where a model's tuning is kept."""
    return model_path.with_suffix(".tune.json")


def write(model_path: Path, model: bytes, provider: str, tuning: Tuning) -> Path:
    """Keep `tuning` for this file, provider and machine, in place of what was there.

    Raises:
        InputError: the folder of the model cannot be written.
    """
    path = path_beside(model_path)
    key = _key(model, provider)
    write_json(path, {"schema": SCHEMA, **key, **asdict(tuning)})
    return path


def read(model_path: Path, model: bytes, provider: str) -> Tuning | None:
    """Return what is kept for this file, provider and machine, None if nothing is.

    Raises:
        InputError: the tuning beside the model is damaged.
    """
    path = path_beside(model_path)
    if not path.exists():
        return None
    try:
        document = json.loads(read_bytes(path, limit=MIB, next_step=NEXT_STEP))
        return match(document, model, provider)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {error})",
            expected="what `convnet-edge bench --tune` writes",
            next_step=NEXT_STEP,
        ) from error


def match(document: dict[str, Any], model: bytes, provider: str) -> Tuning | None:
    """Return the tuning in `document` if it is for this file, provider and machine.

    Raises:
        ValueError, KeyError, TypeError: it is none of ours.
    """
    stated = {key: document[key] for key in ("schema", *_key(b"", ""))}
    counts = {name: document[name] for name in Tuning.__dataclass_fields__}
    for name, count in counts.items():
        if type(count) is not int or not 1 <= count <= MAX_THREADS:
            raise ValueError(f"{name} is {count!r}")
    if stated != {"schema": SCHEMA, **_key(model, provider)}:
        return None
    return Tuning(**counts)


def _key(model: bytes, provider: str) -> dict[str, str]:
    return {
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "machine_id": machine.passport()["id"],
        "provider": provider,
    }
