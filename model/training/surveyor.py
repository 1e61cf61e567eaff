"""Finds out what a run is trained on, while it trains: reading a large store takes minutes."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from model.training.progress import TrainingProgress
from model.training.run import Run
from stores.errors import DamagedStoreError
from stores.provenance import Provenance, survey
from stores.union import Store


class Left(Exception):
    """Nobody waits for the result any more."""


class Surveyor:
    """Surveys the store of a run in a thread, unless the run knows already what that holds. Use this as a context
    manager: leaving it ends the thread."""

    def __init__(self, store: Store, run: Run) -> None:
        self._store = store
        self._run = run
        self._left = threading.Event()
        self._found: Future[Provenance] = Future()
        self._thread = threading.Thread(target=self._survey, name="survey", daemon=True)
        self._known = run.record.provenance

    def found(self, wait: bool) -> Provenance | None:
        """What the store holds; `None` if that is not known yet, unless told to `wait` for it. Raises
        `DamagedStoreError`."""
        return self._found.result() if wait or self._found.done() else None

    def note(self, progress: TrainingProgress, wait: bool) -> None:
        """Add to the run what its store holds, as in `found`; a damaged store is a warning. Told to `wait`, all
        processes of the run have to call this, and all wait."""
        try:
            found = self.found(wait)
        except DamagedStoreError as error:
            if wait:
                progress.warn(f"the model will not know its data: {error}")
        else:
            if found is not None and found != self._run.record.provenance:
                self._run.note_provenance(found)
        if wait:
            self._run.peers.share(None)

    def _survey(self) -> None:
        try:
            self._found.set_result(self._known or survey(self._store, self._check))
        except BaseException as error:  # for the thread that asks
            self._found.set_exception(error)

    def _check(self, done: int, total: int) -> None:
        if self._left.is_set():
            raise Left

    def __enter__(self) -> Surveyor:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._thread.join()


class NoSurveyor(Surveyor):
    """Reads and notes nothing: of the processes that train together, only one does."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def note(self, progress: TrainingProgress, wait: bool) -> None:
        """Told to `wait`, return once process 0 has noted it. That may take longer than the devices, or a save
        that all begin together, would wait for it."""
        if wait:
            self._run.peers.share(None)

    def __enter__(self) -> Surveyor:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def surveyor_of(store: Store, run: Run) -> Surveyor:
    """The part that this process of the run has in the survey of its store."""
    return NoSurveyor(run) if run.peers.process else Surveyor(store, run)
