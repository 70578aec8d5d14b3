import errno
import json
import subprocess
import sys

import pytest

from convnet_edge.runtime import files
from convnet_edge.runtime.errors import InputError


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "does not exist"),
        ("folder", "not a regular file"),
        ("empty", "0 bytes"),
        ("large", "larger"),
        ("nul\0byte", "(cannot be read|does not exist|null)"),
    ],
)
def test_read_bytes_without_content_says_which(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(b"123456")
    with pytest.raises(InputError, match=reason) as caught:
        files.read_bytes(tmp_path / name, limit=5, next_step="do this")
    assert caught.value.next_step == "do this"
    assert files.read_bytes(tmp_path / "large", limit=6, next_step="-") == b"123456"


def test_write_atomically_keeps_old_content_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="No space left") as caught:
        files.write_atomically(path, b"new content")
    assert "space" in caught.value.next_step
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path):
    path, other = tmp_path / "a[1]", tmp_path / "a[1].json"
    for each in (path, other):
        code = (
            "import os, pathlib, sys; from convnet_edge.runtime import files\n"
            "files.os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
            "files.write_atomically(pathlib.Path(sys.argv[1]), b'half')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, each], env={"PYTHONPATH": ":".join(sys.path)}
        )
        assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    files.write_atomically(path, b"whole")
    assert len(list(tmp_path.iterdir())) == 2, "another name's file is left alone"
    files.write_atomically(other, b"whole")
    assert {p.name for p in tmp_path.iterdir()} == {path.name, other.name}


def test_of_two_writers_of_one_name_the_last_wins_and_neither_tears_it(tmp_path, monkeypatch):
    path, real = tmp_path / "f", files.os.fsync

    def another_writes(descriptor):
        monkeypatch.setattr(files.os, "fsync", real)
        files.write_atomically(path, b"theirs")
        assert path.read_bytes() == b"theirs"

    monkeypatch.setattr(files.os, "fsync", another_writes)
    files.write_atomically(path, b"ours")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"ours")]


def test_write_json_round_trips_and_refuses_nan(tmp_path):
    files.write_json(tmp_path / "a" / "f.json", {"é": [1, 2.5, None]})
    assert json.loads((tmp_path / "a" / "f.json").read_text()) == {"é": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "g.json", {"x": float("nan")})
    assert not (tmp_path / "g.json").exists()
