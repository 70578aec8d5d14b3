"""The campaign notices what it looks for, and its page says what was counted."""

import json

import attacks
import campaign
import pytest
from pages import REPOSITORY


@pytest.mark.slow
def test_planted_failures_are_counted():
    said = ("as planted", "no end in 2 s", "ended with -11", "exit 2", "x.json is not whole",
            "ended with 0")  # fmt: skip
    with campaign.workplace() as folder:
        (fine,) = campaign.watch("planted", 0, 0, 1, folder)
        assert fine["failed"] is None
        for case, words in enumerate(said, start=1):
            (found,) = campaign.watch("planted", 0, case, case + 1, folder)
            assert words in found["failed"], found


def test_cases_are_the_same_when_they_are_repeated():
    rngs = [attacks.Random("0/models/7") for _ in range(2)]
    assert len({attacks.damaged(rng, b"some bytes" * 20) for rng in rngs}) == 1


def test_page_says_what_was_counted():
    document = json.loads(campaign.REFERENCE_PATH.read_text())
    page = (REPOSITORY / "docs" / "campaign.md").read_text()
    assert campaign.table(document["rows"]) in page
    n_tried = sum(one["tried"] for one in document["rows"].values())
    assert f"{n_tried:,} attacks" in (REPOSITORY / "README.md").read_text()
    for one in document["rows"].values():
        assert one["failed"] == 0


def test_root_without_setpriv_is_refused(monkeypatch):
    monkeypatch.setattr(campaign.os, "geteuid", lambda: 0)
    monkeypatch.setattr(campaign.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match="there is no setpriv"):
        campaign.as_nobody()
