"""What a run notes of its data: in its record, in its checkpoints, and in what is made of them."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from model.inference.ping_model import PingModel, load_weights
from model.model_files import write_digests
from model.run_folder import Base, RunRecord
from model.training.checkpoint import Checkpoints
from model.training.loop import train
from model.training.meeting import gather, visit
from model.training.peers import Peers, Place
from model.training.progress import TrainingProgress
from model.training.run import Run, open_run
from model.training.surveyor import Surveyor, surveyor_of
from stores.errors import CheckpointError
from stores.progress import Progress
from stores.provenance import Provenance, in_turn, survey
from stores.reader import TokenStore
from tests.helpers import build_store
from tests.model.conftest import small_config


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(small_config(), store, out)
    return out


@pytest.fixture(scope="module")
def found(store: Path) -> Provenance:
    return survey(TokenStore.open(store))


def forget(run: Path, to: Path, *, checkpoints: bool, record: bool) -> Path:
    """A copy as if the run had not noted its data, or only after its checkpoints."""
    copied = shutil.copytree(run, to)
    for file in copied.glob("checkpoints/*/record/metadata") if checkpoints else ():
        values = json.loads(file.read_text())
        del values["provenance"]
        file.write_text(json.dumps(values))
        write_digests(file.parents[1])
    if record:
        values = json.loads((copied / "run.json").read_text())
        del values["provenance"]
        (copied / "run.json").write_text(json.dumps(values))
    return copied


def test_a_run_and_its_last_checkpoint_know_their_data(run: Path, found: Provenance) -> None:
    assert RunRecord.read(run / "run.json").provenance == found
    with Checkpoints(run / "checkpoints", 10) as checkpoints:
        assert checkpoints.read_record(20).provenance == found
    assert load_weights(run).provenance == found


def test_a_checkpoint_from_before_it_was_known_takes_it_from_the_run(
    run: Path, found: Provenance, tmp_path: Path
) -> None:
    early = forget(run, tmp_path / "early", checkpoints=True, record=False)
    assert load_weights(early).provenance == found
    (early / "run.json").write_text('{"store_digest": 5}')
    assert load_weights(early).provenance is None


def test_an_old_run_loads_and_learns_it_when_it_goes_on(
    run: Path, found: Provenance, store: Path, tmp_path: Path
) -> None:
    old = forget(run, tmp_path / "old", checkpoints=True, record=True)
    assert load_weights(old).provenance is None
    assert PingModel.load(old).provenance is None
    train(small_config(steps=25), store, old)
    assert RunRecord.read(old / "run.json").provenance == found


def test_an_export_gives_an_old_run_its_data_from_its_store_and_no_other(
    run: Path, found: Provenance, store: Path, tmp_path: Path
) -> None:
    old = forget(run, tmp_path / "old", checkpoints=True, record=True)
    out = tmp_path / "model"
    export = ["export", "--model", str(old), "--out", str(out)]
    without = CliRunner().invoke(app, export)
    assert without.exit_code == 0, without.output
    assert "unknown: name the store with --store" in without.stdout
    done = CliRunner().invoke(app, [*export, "--store", str(store)])
    assert done.exit_code == 0, done.output
    assert "real, 6,000 rows" in done.stdout
    assert load_weights(out).provenance == found
    again = CliRunner().invoke(app, ["export", "--model", str(out), "--out", str(tmp_path / "2")])
    assert again.exit_code == 0, again.output
    assert load_weights(tmp_path / "2").provenance == found
    other = build_store(tmp_path / "other.zarr", train=300, test=100, seed=9)
    refused = CliRunner().invoke(app, [*export, "--store", str(other)])
    assert isinstance(refused.exception, CheckpointError)
    assert "but the model was trained on" in str(refused.exception)


def new_run(path: Path, store: TokenStore, peers: Peers, known: Provenance | None = None) -> Run:
    path.mkdir(exist_ok=True)
    return Run(path, RunRecord(store.digest, small_config(), "0.1.0", known), peers)


def test_only_the_end_of_a_run_waits_for_the_survey(
    store: Path, found: Provenance, tmp_path: Path
) -> None:
    """An earlier save notes what is known by then."""
    opened = TokenStore.open(store)
    with Surveyor(opened, new_run(tmp_path, opened, Peers())) as surveyor:
        assert surveyor.found(wait=False) in (None, found)
        assert surveyor.found(wait=True) == found
        assert surveyor.found(wait=False) == found
    with Surveyor(opened, new_run(tmp_path, opened, Peers(), found)) as surveyor:
        assert surveyor.found(wait=True) is found


def test_of_several_processes_only_the_first_surveys_and_the_last_note_is_waited_for_by_all(
    store: Path, found: Provenance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    happened: list[str] = []
    may_end = threading.Event()

    def slow_survey(of: TokenStore, progress: Progress) -> Provenance:
        happened.append("survey")
        assert may_end.wait(60)
        return survey(of, progress)

    monkeypatch.setattr("model.training.surveyor.survey", slow_survey)

    def member() -> None:
        peers, _ = visit(Place("127.0.0.1", port, 2, 1), 60)
        opened = TokenStore.open(store)
        with surveyor_of(opened, new_run(tmp_path / "1", opened, peers)) as surveyor:
            surveyor.note(TrainingProgress(), wait=False)
            happened.append("not waited")
            surveyor.note(TrainingProgress(), wait=True)
            happened.append("waited")
        peers.leave()

    thread = threading.Thread(target=member)
    thread.start()
    hub, _ = gather(Place("127.0.0.1", port, 2, 0), 60)
    opened = TokenStore.open(store)
    run = new_run(tmp_path / "0", opened, hub)
    with surveyor_of(opened, run) as surveyor:
        surveyor.note(TrainingProgress(), wait=False)
        deadline = time.monotonic() + 60
        while len(happened) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        thread.join(0.5)
        assert sorted(happened) == ["not waited", "survey"]
        assert run.record.provenance is None
        may_end.set()
        surveyor.note(TrainingProgress(), wait=True)
    hub.leave()
    thread.join()
    assert sorted(happened) == ["not waited", "survey", "waited"]
    assert RunRecord.read(tmp_path / "0" / "run.json").provenance == found
    assert not list((tmp_path / "1").iterdir())


def test_a_run_that_began_with_another_model_knows_the_data_of_both(
    run: Path, found: Provenance, tmp_path: Path
) -> None:
    other = build_store(tmp_path / "other.zarr", train=300, test=100, seed=9)
    fine_tune = ["train", "--store", str(other), "--out", str(tmp_path / "tuned"), "--steps", "20"]
    options = ["--init-from", str(run), "--set", "eval_batches=10", "--batch-size", "2", "--json"]
    done = CliRunner().invoke(app, [*fine_tune, *options])
    assert done.exit_code == 0, done.output
    tuned = load_weights(tmp_path / "tuned")
    own = survey(TokenStore.open(other))
    assert tuned.provenance == in_turn(found, own)
    assert tuned.origin["base"] == found.store_digest
    options[1] = str(forget(run, tmp_path / "old", checkpoints=True, record=True))
    again = CliRunner().invoke(
        app, [*fine_tune[:-1], "25", *options]
    )  # goes on from its own weights
    assert again.exit_code == 0, again.output
    assert load_weights(tmp_path / "tuned").provenance == in_turn(found, own)
    out = tmp_path / "model"
    export = [
        "export",
        "--model",
        str(tmp_path / "tuned"),
        "--store",
        str(other),
        "--out",
        str(out),
    ]
    assert CliRunner().invoke(app, export).exit_code == 0
    assert load_weights(out).provenance == in_turn(found, own)
    assert found.store_digest in (out / "README.md").read_text()


def test_a_run_that_began_with_a_model_of_unknown_data_does_not_know_its_own(
    run: Path, store: Path, tmp_path: Path
) -> None:
    arrays = load_weights(forget(run, tmp_path / "old", checkpoints=True, record=True)).arrays
    train(small_config(), store, tmp_path / "tuned", start=arrays)
    assert load_weights(tmp_path / "tuned").provenance is None
    export = ["export", "--model", str(tmp_path / "tuned"), "--out", str(tmp_path / "model")]
    done = CliRunner().invoke(app, export)
    assert done.exit_code == 0, done.output
    assert "unknown, of this run or of the model it began with" in done.stdout
    refused = CliRunner().invoke(app, [*export, "--store", str(store)])
    assert isinstance(refused.exception, CheckpointError)
    assert "is not all that the model was trained on" in str(refused.exception)


def test_a_run_killed_before_its_first_checkpoint_notes_what_it_really_begins_with(
    store: Path, found: Provenance, tmp_path: Path
) -> None:
    opened, base = TokenStore.open(store), Base("0" * 64, found)
    with open_run(tmp_path / "run", small_config(), opened, base=base) as first:
        assert first.record.base == base
    with open_run(tmp_path / "run", small_config(), opened) as second:
        assert second.record.base is None
