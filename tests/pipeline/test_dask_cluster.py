"""A Dask cluster that fails, on real schedulers and workers: what is said, and that the same command continues."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.local_dask import LocalDask
from pipeline import dask_cluster
from pipeline.dask_cluster import DaskExecutor, dask_executor
from pipeline.folder import WORK, open_folder
from pipeline.ingest import stage as ingest_stage
from pipeline.inputs import find_inputs
from pipeline.prepare import PrepareOptions, prepare
from pipeline.split.stage import SplitOptions
from pipeline.units import Progress, Unit, open_executor, run_units
from stores.errors import ConfigError, OutputError
from tests.pipeline.ingest.results import lines, ping
from tests.pipeline.tables import measurement_table, write_parquet

ROOT = Path(__file__).parents[2]
OPTIONS = PrepareOptions(split=SplitOptions(rows_per_shard=100))
pytestmark = pytest.mark.timeout(
    600
)  # starting processes takes long on a machine that does much else


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDask]:
    """A scheduler. Each test starts the workers that it needs."""
    with LocalDask(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six files of 200 results each."""
    folder = tmp_path_factory.mktemp("results")
    for file in range(6):
        first = 200 * file
        (folder / f"{file}.ndjson").write_bytes(lines([ping(first + i) for i in range(200)]))
    return folder


@pytest.fixture(scope="module")
def whole(results: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the store that one thread makes."""
    out = tmp_path_factory.mktemp("whole")
    with open_folder(out) as folder, open_executor(1) as executor:
        files = find_inputs([str(results)])
        return prepare(files, folder, OPTIONS, executor, lambda *_: None).store.digest


def prepare_on(dask: LocalDask, results: Path, out: Path, progress: Progress) -> str:
    """The digest of the store that the cluster makes."""
    files = find_inputs([str(results)])
    inputs = [(file.path, file.size) for file in files]
    with (
        open_folder(out) as folder,
        dask_executor(dask.address, folder.path / WORK, inputs) as executor,
    ):
        return prepare(files, folder, OPTIONS, executor, progress).store.digest


def test_a_worker_that_is_killed_in_each_stage_changes_nothing(
    dask: LocalDask, results: Path, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_stage, "BATCH_FILES", 1)
    workers = dask.add_workers(4)
    left = ["ingest: parse", "split: shards", "tokenize: plan"]

    def kill_once(stage: str, done: int, total: int) -> None:
        if stage in left and done:
            assert total > 4  # some of which were with that worker
            left.remove(stage)
            dask.kill(workers.pop())

    assert prepare_on(dask, results, tmp_path / "out", kill_once) == whole
    assert left == []
    assert len(dask.workers) == 1
    dask.kill_workers()


def test_a_scheduler_that_is_started_again_is_one_line_and_the_same_command_continues(
    results: Path, whole: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with LocalDask(tmp_path) as dask:
        dask.add_workers(1)
        options = ["--rows-per-shard", "100", "--scheduler", dask.address, "--json"]
        command = [sys.executable, "cli.py", "prepare", "--input", results, "--out", out, *options]
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: any((out / WORK / "split").glob("units/shard-train-*.json")), process)
        dask.restart_scheduler()
        error = process.communicate()[1]
        assert process.returncode == 1
        assert error.count("\n") == 1
        assert "the connection to the Dask scheduler was lost" in error
        assert "run the same command again to continue" in error

        dask.kill_workers()
        dask.add_workers(1)
        again = subprocess.run(
            list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert json.loads(again.stdout)["store"]["digest"] == whole


def wait_for(event: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait; fail if the process ends before the event."""
    while not event():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def test_work_that_no_worker_is_left_for_ends_in_one_line(
    dask: LocalDask, results: Path, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "PATIENCE", 0.5)
    monkeypatch.setattr(dask_cluster, "LOOK_SECONDS", 0.1)
    (worker,) = dask.add_workers(1)

    def kill(stage: str, done: int, total: int) -> None:
        if (
            stage == "split: shards" and done and dask.workers
        ):  # it may report what was done by then
            dask.kill(worker)

    with pytest.raises(
        OutputError, match=r"for 0.5 s it has had no worker: start workers, and run"
    ):
        prepare_on(dask, results, tmp_path / "out", kill)
    dask.add_workers(1)
    assert prepare_on(dask, results, tmp_path / "out", lambda *_: None) == whole
    dask.kill_workers()


def test_a_unit_that_kills_its_workers_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")  # of three
    with LocalDask(tmp_path) as dask:
        dask.add_workers(1)
        with (
            pytest.raises(OutputError, match=r"split: a worker process died .* more memory each"),
            dask_executor(dask.address, tmp_path / "shared") as executor,
        ):
            run_units(
                "split",
                [Unit("a", signal.raise_signal, (signal.SIGKILL,))],
                tmp_path,
                executor,
                lambda *_: None,
            )


def test_a_cluster_that_no_worker_joins_is_named(
    dask: LocalDask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(dask_cluster, "PATIENCE", 0.2)
    expected = f"--scheduler {dask.address}: no worker has come in 0.2 s"
    with pytest.raises(ConfigError, match=expected), dask_executor(dask.address, tmp_path):
        pass
    assert capsys.readouterr().err == f"waiting for a worker of {dask.address}\n"
    assert list(tmp_path.iterdir()) == []


def hidden(folder: Path) -> list[str]:
    """The words to put before a command so that it sees `folder` empty."""
    script = f'mount -t tmpfs none {folder} && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]


@pytest.mark.parametrize("unseen", ["out", "results"])
def test_a_worker_with_files_of_its_own_is_named_before_any_work(
    unseen: str, dask: LocalDask, tmp_path: Path
) -> None:
    table = write_parquet(measurement_table(50), tmp_path / "results" / "a.parquet")
    (tmp_path / "out").mkdir()
    prefix = hidden(tmp_path / unseen)
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    dask.add_workers(1)
    dask.add_workers(1, *prefix)
    place = table if unseen == "results" else tmp_path / "out" / WORK
    with pytest.raises(ConfigError, match=rf"its worker tcp://\S+ on \S+ does not see .*{place}: "):
        prepare_on(dask, table.parent, tmp_path / "out", lambda *_: None)
    assert not list((tmp_path / "out" / WORK).glob("split*"))  # not even begun
    dask.kill_workers()


def test_a_worker_that_comes_later_does_no_unit_where_it_sees_other_files(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.touch()
    assert dask_cluster._run_where_shared(probe, int, ("7",), {}) == 7
    probe.unlink()
    with pytest.raises(ConfigError, match=rf"a Dask worker on \S+ does not see {tmp_path}: "):
        dask_cluster._run_where_shared(probe, int, ("7",), {})


def test_another_file_of_the_same_name_is_told_from_the_input(tmp_path: Path) -> None:
    for name in ("probe", "input"):
        (tmp_path / name).touch()
    found = dask_cluster._trouble(tmp_path / "probe", [(str(tmp_path / "input"), 3)])
    assert found is not None
    assert "of 0 bytes, not 3" in found


def test_a_scheduler_that_is_gone_takes_no_further_units(tmp_path: Path) -> None:
    class Gone:
        status = "closed"

        def get_executor(self, pure: bool) -> None:
            pass

    with pytest.raises(OutputError, match="the connection to the Dask scheduler was lost"):
        DaskExecutor(Gone(), "tcp://node0:8786", tmp_path).submit(int)
