"""Places to write to: one command at a time has them, and neither a failure nor a kill loses what was there before."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slot_rl.places import claimed, fresh_folder

DONE, EARLIER = "done.json", "earlier.txt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with results of before."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / EARLIER).write_text("kept")
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def holding(place: Path) -> "subprocess.Popen[str]":
    """Starts a process that claims a place, and waits until it has it."""
    code = (
        "import sys, time, pathlib\nfrom slot_rl.places import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1])):\n    print('claimed', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "claimed\n"
    return process


def test_a_second_command_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    place = tmp_path / "new" / "out"
    with holding(place) as process:
        try:
            with pytest.raises(ValueError, match=rf"alone, got one that process {process.pid} on .+ is writing to"):
                with claimed(place):
                    raise AssertionError("claimed twice")
        finally:
            process.kill()
    # A claim ends with its process, even with one that could clear nothing.
    with claimed(place):
        pass
    assert names(tmp_path / "new") == set()
    with claimed(tmp_path / "a/b/c"):
        pass
    assert names(tmp_path) == {"new"}


def test_a_second_thread_is_refused_and_a_later_one_is_not(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with claimed(tmp_path / "out"):
                pass
        except ValueError as error:
            refused.append(str(error))

    for within in (True, False):
        thread = threading.Thread(target=other)
        if within:
            with claimed(tmp_path / "out"):
                thread.start()
                thread.join()
        else:
            thread.start()
            thread.join()
    assert len(refused) == 1 and f"process {os.getpid()}" in refused[0]


def test_one_place_has_one_claim_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with claimed(Path("out")):
        for other in (tmp_path / "out", Path("nowhere/../out")):
            with pytest.raises(ValueError, match="for this command alone"), claimed(other):
                pass
        with claimed(tmp_path / "out2"):
            pass


def test_unfinished_files_of_killed_commands_are_cleared(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\nfrom slot_rl.io import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])):\n    os.kill(os.getpid(), 9)\n"
    )
    folder = tmp_path / "[out]"
    (folder / "checkpoint").mkdir(parents=True)
    others = (folder / "mine.tmp", folder / ".mine.of-today.tmp", tmp_path / ".other.0123456789abcdef.tmp")
    for other in others:
        other.write_text("not ours")
    for place in (folder / "checkpoint" / "weights", folder / "summary", folder):
        assert subprocess.run([sys.executable, "-c", code, str(place)], check=False).returncode == -signal.SIGKILL
    assert [len(names(each)) for each in (folder / "checkpoint", folder, tmp_path)] == [1, 4, 3]
    with claimed(folder):
        pass
    assert names(folder) == {"checkpoint", "mine.tmp", ".mine.of-today.tmp"} and not names(folder / "checkpoint")
    assert names(tmp_path) == {"[out]", others[2].name}


@pytest.mark.parametrize(("done", "left"), [(True, {DONE}), (False, {EARLIER})])
def test_a_kill_between_two_folders_keeps_the_better_one(folder: Path, done: bool, left: set[str]) -> None:
    code = (
        "import os, sys, pathlib\nfrom slot_rl.places import fresh_folder\nfolder = pathlib.Path(sys.argv[1])\n"
        f"with fresh_folder(folder, {DONE!r}):\n    {f'(folder / {DONE!r}).touch()' if done else 'pass'}\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == -signal.SIGKILL
    assert names(folder) == ({DONE} if done else set())
    with claimed(folder, DONE):
        assert names(folder) == left
    assert names(folder.parent) == {"out"}


def fails(folder: Path, done: bool, begins: bool, error: BaseException) -> None:
    with fresh_folder(folder, DONE) as begun:
        (folder / "new").touch()
        if begins:
            begun()
        if done:
            (folder / DONE).touch()
        raise error


def test_an_error_brings_the_earlier_folder_back(folder: Path) -> None:
    for error in (ValueError("bad"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fails(folder, False, False, error)
        assert names(folder.parent) == {"out"} and names(folder) == {EARLIER}


def test_an_error_after_the_start_keeps_both(folder: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=r"bad; this is in .*out\.failed, and .*out is as it was before"):
            fails(folder, False, True, ValueError("bad"))
    assert names(folder) == {EARLIER} and names(folder.parent / "out.failed") == {"new"}


def test_an_error_once_it_is_done_keeps_the_new_folder(folder: Path) -> None:
    with pytest.raises(ValueError, match="^bad$"):
        fails(folder, True, True, ValueError("bad"))
    assert names(folder.parent) == {"out"} and names(folder) == {"new", DONE}


@pytest.mark.parametrize(("begins", "left"), [(False, set()), (True, {"out"})])
def test_a_new_folder_stays_once_it_has_begun(tmp_path: Path, begins: bool, left: set[str]) -> None:
    with pytest.raises(ValueError, match="^bad$"):
        fails(tmp_path / "out", False, begins, ValueError("bad"))
    assert names(tmp_path) == left


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_vanishes_is_noticed(folder: Path, replaced: bool) -> None:
    with pytest.raises(ValueError, match=f"got {'another' if replaced else 'no'} folder: it was removed or replaced"):
        with fresh_folder(folder):
            folder.rmdir()
            # Kept, so that the new folder cannot get the number of the old one.
            (folder.parent / "taken").mkdir()
            if replaced:
                folder.mkdir()
