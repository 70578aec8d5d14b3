import errno
import json

import pytest

from convnet_edge.runtime import files
from convnet_edge.runtime.errors import InputError


def test_read_bytes_larger_than_limit_is_refused(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert files.read_bytes(path, limit=5, next_step="-") == b"12345"
    with pytest.raises(InputError, match="larger"):
        files.read_bytes(path, limit=4, next_step="-")


@pytest.mark.parametrize("name", ["absent", "folder", "empty", "nul\0byte"])
def test_read_bytes_without_content_says_which(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    reason = {
        "absent": "does not exist",
        "folder": "not a regular file",
        "empty": "0 bytes",
        "nul\0byte": "(cannot be read|does not exist)",
    }
    with pytest.raises(InputError, match=reason[name]) as caught:
        files.read_bytes(tmp_path / name, limit=5, next_step="do this")
    assert caught.value.next_step == "do this"


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


def test_write_atomically_under_a_file_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        files.write_atomically(tmp_path / "file" / "child", b"x")


def test_write_json_round_trips_and_refuses_nan(tmp_path):
    files.write_json(tmp_path / "a" / "f.json", {"é": [1, 2.5, None]})
    assert json.loads((tmp_path / "a" / "f.json").read_text()) == {"é": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "g.json", {"x": float("nan")})
    assert not (tmp_path / "g.json").exists()
