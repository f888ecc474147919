"""Folders moved aside: the old comes back or goes, also after a kill."""

from __future__ import annotations

import os

import pytest

from detox.stage import folders, run_lock
from detox.stage.errors import UserError
from tests.stage.artefacts import publish, read, tree


def begin_anew(folder):
    """Keep an old run aside; what is called `done` makes a run whole, and other names than `log` are not ours."""
    return folders.aside(folder, {"done", "log"}.__contains__, lambda run: (run / "done").exists())


def make(folder, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)


def test_the_old_comes_back_where_its_successor_fails(tmp_path):
    make(tmp_path / "ppo", done="old", notes="mine")
    before = tree(tmp_path)
    with pytest.raises(RuntimeError):
        with begin_anew(tmp_path / "ppo"):
            assert not (tmp_path / "ppo").exists()
            make(tmp_path / "ppo", log="new")
            raise RuntimeError
    assert tree(tmp_path) == before


def test_the_old_comes_back_where_it_is_interrupted_as_it_goes(tmp_path, monkeypatch):
    make(tmp_path / "ppo", done="old")
    rename = os.rename

    def interrupted(old, new):
        monkeypatch.setattr(os, "rename", rename)
        rename(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), begin_anew(tmp_path / "ppo"):
        pass
    assert tree(tmp_path) == {"ppo": None, "ppo/done": b"old"}


def test_the_old_goes_when_its_successor_is_whole_but_not_what_the_user_put_there(tmp_path):
    make(tmp_path / "ppo", done="old", log="old", notes="mine")
    with begin_anew(tmp_path / "ppo"):
        make(tmp_path / "ppo", done="new")
    assert tree(tmp_path) == {"ppo": None, "ppo/done": b"new", "ppo/notes": b"mine"}


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_link_leads_to_the_old_or_to_its_successor(tmp_path, is_whole):
    make(tmp_path / "disk", done="old")
    (tmp_path / "ppo").symlink_to(tmp_path / "disk")
    with begin_anew(tmp_path / "ppo"):
        assert os.listdir(tmp_path / "ppo") == []
        (tmp_path / "ppo" / ("done" if is_whole else "log")).write_text("new")
    assert (tmp_path / "ppo").is_symlink()
    assert os.listdir(tmp_path) in (["ppo", "disk"], ["disk", "ppo"])
    assert tree(tmp_path / "disk") == {"done": b"new" if is_whole else b"old"}


@pytest.mark.parametrize(("made", "left"), [({"log": "new"}, b"old"), ({"log": "new", "done": "new"}, b"new")])
def test_a_kill_between_old_and_new_is_settled_by_the_next_process(tmp_path, made, left):
    make(tmp_path / "ppo", done="old")
    child = os.fork()
    if not child:
        kept = begin_anew(tmp_path / "ppo")
        kept.__enter__()
        make(tmp_path / "ppo", **made)
        os._exit(9)
    os.waitpid(child, 0)
    with run_lock.hold(tmp_path):
        folders.settle(tmp_path / "ppo", {"done", "log"}.__contains__, lambda run: (run / "done").exists())
    assert (tmp_path / "ppo" / "done").read_bytes() == left
    assert [path.name for path in tmp_path.iterdir()] == ["ppo"]


def test_the_lock_of_a_run_sweeps_away_no_only_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    publish(tmp_path / "prepared")
    (tmp_path / "prepared").rename(tmp_path / ".prepared.4000000-0123abcd.old")
    with run_lock.hold(tmp_path):
        read(tmp_path / "prepared")


def test_what_is_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for place, says in (
        ("file/run", None),
        ("file", r"/file is a file, not a folder; choose"),
        ("link", r"/link leads to no folder; choose"),
        ("link/run", r"/link leads to no folder; choose"),
    ):
        with pytest.raises((UserError, NotADirectoryError), match=says):
            folders.make(tmp_path / place)
