import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from convnet_edge.runtime import files
from convnet_edge.runtime.errors import InputError


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "does not exist; expected the name of a file"),
        ("folder", "is not a regular file; expected the name of a file"),
        ("pipe", "is not a regular file; expected the name of a file"),
        ("empty", r"is empty \(0 bytes\); expected a whole file"),
        ("large", "larger than that; expected at most 4.7"),
        ("n" * 300, "cannot be read: File name too long; expected a file that this user may read"),
        ("nul\0byte", "does not exist"),
    ],
)
def test_read_bytes_without_content_says_which_and_what_would_do(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
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


def place(folder, kind):
    """Put there what is no file to write; return its path."""
    path = folder / "out"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif kind.startswith("link"):
        path.symlink_to(folder / "absent" if kind == "link to nothing" else folder)
    elif kind == "below a file":
        path.write_bytes(b"")
        path = path / "below" / "out"
    return path.with_name(path.name * 100) if kind == "long name" else path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("folder", "it is a folder"),
        ("pipe", "it is a device, pipe or socket"),
        ("socket", "it is a device, pipe or socket"),
        ("link to nothing", "it is a link to nothing"),
        ("link to a folder", "it is a folder"),
        ("long name", "File name too long"),
        ("below a file", "Not a directory"),
    ],
)
def test_what_is_no_file_is_never_written_or_replaced(tmp_path, kind, reason):
    path = place(tmp_path, kind)
    before = {one: one.lstat().st_ino for one in tmp_path.rglob("*")}
    for write in (files.require_writable, lambda to: files.write_atomically(to, b"content")):
        with pytest.raises(InputError) as caught:
            write(path)
        assert str(caught.value).startswith(f"{path} cannot be written: {reason}; expected a new ")
    assert {one: one.lstat().st_ino for one in tmp_path.rglob("*")} == before


def test_a_link_stays_a_link_and_its_file_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere/file")
    files.write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").readlink() == Path("elsewhere/file")
    assert [path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()] == [b"new"]


def test_require_writable_leaves_nothing_and_names_the_folder_that_refuses(tmp_path):
    files.require_writable(tmp_path / "a" / "b" / "out")
    assert list(tmp_path.iterdir()) == []
    # whose permission bits say yes to root
    with pytest.raises(
        InputError, match=r"nothing can be written in /(proc)? \(.*\);.* with elsewhere$"
    ):
        files.require_writable(Path("/proc/a/out"), flag="--elsewhere")


HOSTILE = "".join(map(chr, (*range(32), 127, *range(128, 160), 0x2028, 0x202E, 0x2067, 0xDC80)))


def test_what_a_terminal_obeys_is_made_visible_and_json_means_the_same(tmp_path):
    shown = files.visible(f"é–✓ {HOSTILE}")
    assert shown.startswith("é–✓ \\u0000\\u0001")
    assert {letter for letter in shown if not letter.isprintable()} == {"\t"}
    assert json.loads(files.json_text({HOSTILE: [HOSTILE]})) == {HOSTILE: [HOSTILE]}
    assert all(letter.isprintable() or letter == "\n" for letter in files.json_text([HOSTILE]))
    files.write_json(tmp_path / "f.json", HOSTILE)  # half a letter is no UTF-8
    assert json.loads((tmp_path / "f.json").read_text()) == HOSTILE


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


@pytest.mark.parametrize("process_id", ["²", "999999999", "1"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_foreign_leftover_keeps_no_file_from_being_written(
    tmp_path, monkeypatch, kind, process_id
):
    leftover = tmp_path / f".f.{process_id}-aaaaaaaaaaaaaaaa.tmp"
    if kind == "folder":
        leftover.mkdir()
    else:
        leftover.touch()
    real = Path.unlink

    def unlink(path, missing_ok=False):
        if path == leftover:  # as in a sticky folder
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    files.write_atomically(tmp_path / "f", b"whole")
    assert (tmp_path / "f").read_bytes() == b"whole"
