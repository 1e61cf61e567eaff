"""Finds out what a run is trained on, while it trains: reading a large store takes minutes."""

from __future__ import annotations

from typing import Self

from model.training.background import Background
from model.training.progress import TrainingProgress
from model.training.run import Run
from stores.errors import DamagedStoreError
from stores.provenance import Provenance, survey
from stores.union import Store


class Surveyor(Background[Provenance]):
    """Surveys the store of a run in a thread, unless the run knows already what that holds. Use this as a context
    manager: leaving it ends the thread."""

    def __init__(self, store: Store, run: Run) -> None:
        super().__init__("survey")
        self._store = store
        self._run = run
        self._known = run.record.provenance

    def found(self, wait: bool) -> Provenance | None:
        """What the store holds; `None` if that is not known yet, unless told to `wait` for it. Raises
        `DamagedStoreError`."""
        return self._result.result() if wait or self._result.done() else None

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

    def _find(self) -> Provenance:
        return self._known or survey(self._store, self._go_on)


class NoSurveyor(Surveyor):
    """Reads and notes nothing: of the processes that train together, only one does."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def note(self, progress: TrainingProgress, wait: bool) -> None:
        """Told to `wait`, return once process 0 has noted it. That may take longer than the devices, or a save
        that all begin together, would wait for it."""
        if wait:
            self._run.peers.share(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def surveyor_of(store: Store, run: Run) -> Surveyor:
    """The part that this process of the run has in the survey of its store."""
    return NoSurveyor(run) if run.peers.process else Surveyor(store, run)
