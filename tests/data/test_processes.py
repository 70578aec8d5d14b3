"""Processes that answer: begun before their task is known, and ended whatever becomes of it."""

import os

import pytest
import tiny
from PIL import Image

from convnet_edge.data import processes, reader
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.pictures.preprocess import Preprocessing

MODULE = "convnet_edge.data.worker"
HOW = Preprocessing(size=(28, 28), channels=1)


def is_running(process):
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    return process.poll() is None


def test_those_that_nobody_took_end_with_the_block():
    def fail():
        with processes.begun(MODULE, 2) as started:
            kept.extend(started)
            assert all(map(is_running, started))
            raise InputError("no model", expected="one", next_step="name it")

    kept = []
    with pytest.raises(InputError, match="no model"):
        fail()
    assert not any(map(is_running, kept))
    assert all(process.stdin.closed and process.stdout.closed for process in kept)


def test_run_takes_what_was_begun_and_ends_it(tmp_path):
    Image.fromarray(tiny.images(1)[0]).save(tmp_path / "a.png")
    job, paths = reader._Reading(HOW), [str(tmp_path / "a.png")]
    with processes.begun(MODULE, 2) as started:
        kept = [*started]
        found = [one for each in processes.run(job, paths, 2, started) for one in each]
        assert started == []
    assert [one.error for one in found] == [None]
    assert not any(map(is_running, kept))  # the second had nothing to do


def test_module_that_cannot_be_imported_says_so(tmp_path):
    job = reader._Reading(HOW)
    job.module = "convnet_edge.no_such_module"
    with pytest.raises(InputError, match=r"cannot be started: .*no_such_module"):
        list(processes.run(job, [str(tmp_path / "a.png")], 1))
