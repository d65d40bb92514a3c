"""Which folders may be written or replaced, and that nothing is lost when a replacement fails or is killed."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from axform.errors import AxformError
from axform.files import beside, read_json, write_folder, write_json, write_text, writing
from axform.locks import locked
from axform.outputs import check_output_folder, mark
from axform.seals import damage, seal


def written(path: Path, text: str = "old", kind: str = "run") -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text(text)
    mark(path, kind)
    return path


def replace(path: Path, text: str = "new") -> None:
    with write_folder(path) as staging:
        (staging / "file").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(path: Path, kind: str = "run", keep: dict[str, Path] | None = None) -> str:
    with pytest.raises(AxformError) as caught:
        check_output_folder(path, kind, True, keep or {})
    return str(caught.value)


def test_only_what_axform_wrote_may_be_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").write_text("precious")
    assert "not a folder that axform wrote" in refusal(tmp_path / "home")
    assert "is an axform bundle, and --overwrite replaces only an axform run" in refusal(
        written(tmp_path / "bundle", kind="bundle")
    )
    check_output_folder(written(tmp_path / "run"), "run", True, {})


def test_neither_the_current_folder_nor_one_above_is_an_output(tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    mark(tmp_path / "a", "run")
    monkeypatch.chdir(inside)
    for path in (Path(), Path(".."), tmp_path / "a", Path("/")):
        assert "is the current folder or one above it" in refusal(path)


@pytest.mark.parametrize("kept", ["out", "out/model", "."])
def test_what_must_survive_is_not_replaced(tmp_path, kept):
    """The model, the data or the run itself, their parents, and folders inside them."""
    out = written(tmp_path / "out")
    message = refusal(out, keep={"the model": tmp_path / kept})
    assert "cannot be replaced, since it overlaps the model" in message
    assert (out / "file").read_text() == "old"


def test_a_path_through_a_folder_that_is_not_there(tmp_path):
    """The system knows no such path, but what is written under it would stand in the place of the folder before it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").write_text("precious")
    path = tmp_path / "home" / "new" / ".."
    assert "not a folder that axform wrote" in refusal(path)
    with pytest.raises(AxformError, match="the folder is not empty"):
        check_output_folder(path, "run", False, {})


def test_a_name_that_is_too_long(tmp_path):
    assert "cannot be written (File name too long)" in refusal(tmp_path / ("x" * 300))


def test_symbolic_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "a: is a symbolic link that leads back to itself" in refusal(tmp_path / "a")


def test_long_names_that_fit_can_be_written(tmp_path):
    path = tmp_path / ("x" * 250)
    with locked(path):
        replace(path)
    assert names(tmp_path) == [path.name]


def test_the_old_folder_is_back_when_a_rename_fails(tmp_path, monkeypatch):
    path, rename = written(tmp_path / "out"), Path.replace

    def refuse(self, target):
        if Path(target) == path and ".tmp-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(AxformError, match="Input/output error"):
        replace(path)
    assert (path / "file").read_text() == "old" and names(tmp_path) == ["out"]


def test_an_error_while_writing_leaves_the_old_folder(tmp_path):
    path = written(tmp_path / "out")
    with pytest.raises(RuntimeError), write_folder(path) as staging:
        (staging / "file").write_text("half")
        raise RuntimeError
    assert (path / "file").read_text() == "old" and names(tmp_path) == ["out"]


def test_the_target_of_a_symbolic_link_is_replaced_not_the_link(tmp_path):
    real, link = written(tmp_path / "disk" / "out"), tmp_path / "link"
    link.symlink_to(real)
    replace(link)
    assert link.is_symlink() and (real / "file").read_text() == "new"
    assert names(real.parent) == ["out"] and names(tmp_path) == ["disk", "link"]


def test_what_killed_processes_left_is_cleaned_up_or_put_back(tmp_path):
    path = tmp_path / "out"
    for suffix in ("tmp-1", "old-1"):
        written(beside(path, suffix))
    beside(path, "tmp-2").write_text("half a file")
    written(tmp_path / ".other.tmp-1")
    with locked(path):
        assert (path / "file").read_text() == "old", "killed between the two renames"
    assert names(tmp_path) == [".other.tmp-1", "out"]
    written(beside(path, "old-2"), "older")
    with locked(path):
        assert (path / "file").read_text() == "old"
    assert names(tmp_path) == [".other.tmp-1", "out"]


def test_a_second_process_is_told_who_is_at_work(tmp_path):
    script = (
        "import sys; from pathlib import Path; from axform.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    with pytest.raises(AxformError, match=f"is being written by process {process.pid} on "), locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "other"):
        pass
    process.kill()
    process.wait()
    with locked(tmp_path / "run"):  # the operating system released it
        assert names(tmp_path) == [".run.lock"]
    assert names(tmp_path) == []


def test_two_optimize_commands_on_one_folder(tmp_path, finished):
    from axform.toolchain.optimize import optimize
    from axform.toolchain.run_folder import RunFolder

    options = RunFolder(finished[0]).read_record().options
    with locked(tmp_path / "run"), pytest.raises(AxformError, match=f"is being written by process {os.getpid()}"):
        optimize(options, tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", '"\\ud800"', '{"a": NaN}', '{"a": -Infinity}', b"\xff\xfe{}"],
    ids=["empty", "cut", "deep", "long number", "surrogate", "NaN", "infinity", "not UTF-8"],
)
def test_damaged_json_is_one_clear_error(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AxformError, match=r"file.json: damaged \(.*\); start again\.$"):
        read_json(path, "start again")


def test_what_is_written_can_be_read(tmp_path):
    write_json(tmp_path / "a.json", {"loss": 1.5, "name": "é"})
    assert read_json(tmp_path / "a.json", "") == {"loss": 1.5, "name": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert read_json(tmp_path / "a.json", "")["loss"] == 1.5 and names(tmp_path) == ["a.json"]


def test_text_replaces_in_one_step_with_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        Exception("No space left on device (os error 28)"),
        Exception('Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space" }'),
    ],
    ids=["python", "torch", "tokenizers", "safetensors"],
)
def test_every_librarys_word_for_a_full_disk(tmp_path, error):
    with pytest.raises(AxformError, match="no space left while writing"), writing(tmp_path / "x"):
        raise error


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path / "x"):
        raise KeyError("our bug")


def test_a_sealed_folder_knows_what_is_missing(tmp_path):
    folder = tmp_path / "round"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"1234")
    (folder / "plan.json").write_text("{}")
    assert damage(folder) == "seal.json is missing or damaged"
    seal(folder)
    assert damage(folder) is None
    (folder / "model" / "weights").write_bytes(b"1235")
    assert damage(folder) == "model/weights is not as it was written"
    (folder / "model" / "weights").unlink()
    assert damage(folder) == "model/weights is missing"
    (folder / "seal.json").write_text(json.dumps({"plan.json": {"sha256": 1}}))
    assert damage(folder) == "seal.json is missing or damaged"
    assert damage(tmp_path / "none") == "is missing"


@pytest.mark.skipif(os.name != "posix", reason="plays Windows")
def test_what_windows_refuses_is_not_asked_of_it(tmp_path, monkeypatch):
    """A locked file is not written or removed, no folder takes the place of another, what is flushed may be written to."""
    import fcntl

    from axform import files, locks

    monkeypatch.setattr(files, "_POSIX", False)
    monkeypatch.setattr(locks, "_POSIX", False)
    held: set[Path] = set()
    acquire, release = locks.FileLock.acquire, locks.FileLock.release
    replace, unlink, open_path, fsync = Path.replace, Path.unlink, Path.open, os.fsync

    def acquired(self, *arguments, **options):
        outcome = acquire(self, *arguments, **options)
        held.add(Path(self.lock_file))
        return outcome

    def released(self, *arguments, **options):
        held.discard(Path(self.lock_file))
        release(self, *arguments, **options)

    def unless_held(method):
        def guarded(self, *arguments, **options):
            if self in held:
                raise PermissionError(errno.EACCES, "in use")
            return method(self, *arguments, **options)

        return guarded

    def replaced(self, target):
        if Path(target).is_dir():
            raise PermissionError(errno.EACCES, "is a folder")
        return replace(self, target)

    def flushed(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "may not be written to")
        fsync(descriptor)

    monkeypatch.setattr(locks.FileLock, "acquire", acquired)
    monkeypatch.setattr(locks.FileLock, "release", released)
    monkeypatch.setattr(Path, "unlink", unless_held(unlink))
    monkeypatch.setattr(Path, "open", unless_held(open_path))
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(os, "fsync", flushed)
    for text in ("first", "second"):
        with locked(tmp_path / "out"), write_folder(tmp_path / "out") as folder:
            assert held
            (folder / "file").write_text(text)
    assert (tmp_path / "out" / "file").read_text() == "second"
    assert names(tmp_path) == ["out"]
