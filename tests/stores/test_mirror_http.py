"""Pulling from a web server that fails, breaks off or is gone; and a pull that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stores import TokenStore
from stores.errors import NotAStoreError, RemoteError
from stores.pull import pull
from tests.stores.mirrors import ALL, CHUNK, ROOT, content_of, run
from tests.stores.remote_servers import Files


@pytest.fixture
def files(bucket: Path) -> Files:
    """The same folder, to be served over HTTP."""
    return Files(bucket)


@pytest.mark.parametrize("fault", ["500", "drop", "more", "less"])
def test_faults_that_pass_are_not_noticed(
    fault: str, files: Files, store_path: Path, tmp_path: Path
) -> None:
    files.faults = {CHUNK: [fault] * 2, "length/c/0": [fault], "mixed/zarr.json": [fault]}
    with files.serve() as url:
        pull(url, tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(store_path)


@pytest.mark.parametrize("fault", ["500", "drop", "more", "less"])
def test_faults_that_stay_are_one_line_and_the_rerun_completes(
    fault: str, files: Files, store_path: Path, tmp_path: Path
) -> None:
    files.faults = {CHUNK: [fault] * 100}
    with files.serve() as url:
        failed = run("pull", url, tmp_path / "back")
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr.startswith(f"error: {url}/{CHUNK}: ")
        assert len(failed.stderr.splitlines()) == 1
        assert not (tmp_path / "back/zarr.json").exists()
        files.faults = {}
        pull(url, tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(store_path)


@pytest.mark.parametrize("moment", [1, 2, 20, 50, ALL])
def test_a_killed_pull_is_not_a_store_and_the_rerun_completes(
    moment: int, files: Files, store_path: Path, tmp_path: Path
) -> None:
    back = tmp_path / "back"
    with files.serve() as url:
        killed = subprocess.Popen(
            [sys.executable, ROOT / "cli.py", "pull", url, back, "--parallel", "2"]
        )
        files.on_request = lambda count: count == moment and killed.kill()  # type: ignore[func-returns-value]
        assert killed.wait(60) == -signal.SIGKILL
        with pytest.raises(NotAStoreError):
            TokenStore.open(back)
        files.on_request = lambda count: None
        files.asked.clear()
        pull(url, back)
        assert (
            len(files.asked) <= ALL - moment + 4
        )  # two on their way, one waiting, and the manifest
    assert content_of(back) == content_of(store_path)


def test_a_server_that_is_not_there_or_holds_nothing_is_one_line(
    files: Files, tmp_path: Path
) -> None:
    (files.folder / "zarr.json").unlink()
    with files.serve() as url, pytest.raises(NotAStoreError, match=f"^{url}: no finished manifest"):
        pull(url, tmp_path / "back")
    with pytest.raises(RemoteError, match=f"^{url}/zarr.json: the server refuses the connection"):
        pull(url, tmp_path / "back")
    assert not (tmp_path / "back").exists()
