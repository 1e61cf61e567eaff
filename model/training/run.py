"""Opening the folder of a run (see `model.run_folder`): what it belongs to, and whether it is finished."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from model.config import SHAPE, Config, ModelConfig, TrainConfig
from model.run_folder import (
    CHECKPOINTS_FOLDER,
    RECORD_FILE,
    RESULT_FILE,
    Base,
    RunRecord,
    RunResult,
)
from model.training.peers import Peers
from stores.errors import CheckpointError, ConfigError, OutputError
from stores.files import write_json
from stores.folder_lock import claim_folder
from stores.provenance import Provenance
from stores.union import Store


@dataclass
class Run:
    """A locked run folder that belongs to this store and configuration."""

    path: Path
    record: RunRecord
    """What every checkpoint of the run is marked with, too."""
    peers: Peers = field(default_factory=Peers)
    """The processes that train it."""

    def result(self) -> RunResult | None:
        """What the run reached, or `None` when it is not finished. Raises `CheckpointError`."""
        return RunResult.read_if_whole(self.path / RESULT_FILE)

    def share(self, find: Callable[[], RunResult | None]) -> RunResult | None:
        """What process 0 finds, in all processes."""
        if self.peers.processes == 1:
            return find()
        found = find() if self.peers.process == 0 else None
        values = self.peers.share(found.as_dict() if found else None)
        return None if values is None else RunResult.from_dict(values, self.path)

    def note_provenance(self, provenance: Provenance) -> None:
        """Add what the store holds to the record, in run.json and in the checkpoints that follow."""
        self.record = replace(self.record, provenance=provenance)
        write_json(self.path / RECORD_FILE, self.record.as_dict())

    def finish(self, result: RunResult) -> None:
        """Write the result; from here on the run counts as finished."""
        write_json(self.path / RESULT_FILE, result.as_dict())


@contextmanager
def open_run(
    path: Path,
    config: Config,
    store: Store,
    peers: Peers | None = None,
    base: Base | None = None,
) -> Iterator[Run]:
    """Create or reopen a run folder and hold its lock; where several processes train, process 0 does this.
    `base` is the model that the run begins with, unless it has checkpoints already.

    Raises `OutputError` when `path` holds something else, `ConfigError` when another process is
    training there, `CheckpointError` when it belongs to another store, shape or configuration. In the other
    processes, `ConfigError` for options other than those of process 0, and `OutputError` when they do
    not see the folder.
    """
    peers = peers or Peers()
    record = RunRecord(store.digest, config, code_version(), base=base)
    note = path / RECORD_FILE
    if peers.process:
        _check_same(record, RunRecord.from_dict(peers.share(None), path), peers)
        if not note.exists():
            raise OutputError(
                f"{path}: process {peers.process} does not see what process 0 has written there: choose a "
                "folder that all processes share"
            )
        yield Run(path, record, peers)
        return
    with claim_folder(
        path,
        marker=note.name,
        lock=".lock",
        foreign="holds something other than a run: choose an empty or new folder",
        busy="another process is training in this folder",
    ):
        saved = _last_checkpoint_record(path)
        before = RunRecord.read_if_whole(note) or saved
        if before is not None:
            check_record(path, before, record)
            record = replace(
                record, provenance=before.provenance, base=saved.base if saved else base
            )
        else:
            (path / RESULT_FILE).unlink(missing_ok=True)  # of what, nobody knows
        write_json(note, record.as_dict())
        peers.share(record.as_dict())
        yield Run(path, record, peers)


def _last_checkpoint_record(path: Path) -> RunRecord | None:
    """The copy of the record in the run's last checkpoint; `None` without a checkpoint."""
    folders = (path / CHECKPOINTS_FOLDER).glob("*")
    steps = [int(folder.name) for folder in folders if folder.name.isdigit()]
    if not steps:
        return None
    return RunRecord.read(path / CHECKPOINTS_FOLDER / str(max(steps)) / "record" / "metadata")


def _check_same(own: RunRecord, first: RunRecord, peers: Peers) -> None:
    """Raise `ConfigError` naming what this process was given and process 0 was not."""
    flat = [
        {"store": r.store_digest, "code": r.code_version, "preset": r.config.preset}
        | asdict(r.config.model)
        | asdict(r.config.train)
        for r in (own, first)
    ]
    for name, value in flat[0].items():
        if flat[1][name] != value:
            raise ConfigError(
                f"process {peers.process} of {peers.processes} has {name}={value}, process 0 has "
                f"{flat[1][name]}: use the same options, store and version in all"
            )


def check_record(where: Path, before: RunRecord, now: RunRecord) -> None:
    """Raise `CheckpointError` when a run or checkpoint was made from another store, with another
    shape, or with another configuration (but for fields that do not alter what is learned)."""
    if before.store_digest != now.store_digest:
        raise CheckpointError(
            f"{where}: trained on the store {before.store_digest}, not on {now.store_digest}: name the same "
            "store, or the same stores in the same order, or another --out (--init-from keeps the weights)"
        )
    old, new = ({**asdict(r.config.model), **asdict(r.config.train)} for r in (before, now))
    if any(old[name] != new[name] for name in SHAPE):
        was, wanted = (" ".join(f"{name}={c[name]}" for name in SHAPE) for c in (old, new))
        raise CheckpointError(
            f"{where}: has the shape {was}, not {wanted}: use the same one, or another --out"
        )
    for name in fixed_fields():
        if old[name] != new[name]:
            raise CheckpointError(
                f"{where}: was started with {name}={old[name]}, not {new[name]}: use the same options, "
                "or another --out"
            )


def fixed_fields() -> list[str]:
    """Names of the fields that have to stay the same throughout a run."""
    both = (*fields(ModelConfig), *fields(TrainConfig))
    return [f.name for f in both if not f.metadata.get("free")]


@functools.cache
def code_version() -> str:
    """Version of the package and, in a checkout of the project, its Git commit (`+`: with changes).

    A repository that merely surrounds an installed package says nothing about this code.
    """
    version = importlib.metadata.version("pinglm")
    root = Path(__file__).resolve().parents[2]
    try:
        repository = Path(_git(root, "rev-parse", "--show-toplevel")).resolve()
        if repository != root or not (root / "pyproject.toml").is_file():
            return version
        return f"{version} ({_git(root, 'describe', '--always', '--dirty=+', '--abbrev=12')})"
    except (OSError, subprocess.SubprocessError):
        return version


def _git(folder: Path, *arguments: str) -> str:
    """What a git command prints. Raises `OSError` without git, `SubprocessError` when it fails."""
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
