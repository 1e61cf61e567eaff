"""The checkpoints of a run, written in the background by Orbax, each of them whole or absent.

    RUN/checkpoints/<step>/state     the `TrainState`
                          /record    what it belongs to, a `RunRecord`
                          /metrics   the loss on test or validation, if it was measured at that step
                          /sha256.json   the digests of the files in these (see `model.model_files`)

A checkpoint appears under its name only when all its data and the digests are on disk (Orbax then renames
the folder), and only then may it displace an older one. Nothing is restored from files of another digest.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import args
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN
from orbax.checkpoint.options import AsyncOptions

from model.model_files import check_digests, unreadable, write_digests
from model.orbax_errors import quiet_orbax, reason
from model.run_folder import RunRecord
from model.training.step import TrainState
from stores.errors import OutputError

METRIC = "test_nats_per_measurement"
"""Also of the loss on validation: what older checkpoints are compared by keeps its name."""


class Checkpoints:
    """The checkpoints of one run. Use it as a context manager: leaving it waits for the last save.

    Opening raises `CheckpointError` when such a loss is damaged: the wrong checkpoint would be kept as best.
    """

    def __init__(self, path: Path, keep: int):
        self.path = path
        quiet_orbax()
        # When a save fails, asyncio reports all of its other writes that failed, too.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        policies = [
            LatestN(keep),
            BestN(
                n=1,
                get_metric_fn=_held_out_loss,
                reverse=True,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            best_fn=_held_out_loss,  # without it, Orbax writes no metrics, and forgets which one was best
            best_mode="min",
            cleanup_tmp_directories=True,  # what a killed save left behind
            enable_background_delete=True,
            async_options=AsyncOptions(post_finalization_callback=self._write_digests),
        )
        for metrics in sorted(path.glob("[0-9]*/metrics")):  # Orbax reads them at once
            if metrics.parent.name.isdigit():
                check_digests(metrics.parent, metrics.name)
        handlers = {"state": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
        self._saving: int | None = None  # the step of the last save that was started
        self._manager = self._writing(
            lambda: ocp.CheckpointManager(
                path.absolute(), options=options, item_names=tuple(handlers)
            ),
        )

    def steps(self) -> list[int]:
        """The steps that have a finished checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: TrainState, record: RunRecord, held_out_loss: float | None
    ) -> None:
        """Start a save; returns as soon as the buffers of `state` may be reused.

        First waits for the previous save. Raises `OutputError` when that one failed or this one cannot
        start.
        """
        self.wait()
        items = args.Composite(
            state=args.StandardSave(state), record=args.JsonSave(record.as_dict())
        )
        metrics = None if held_out_loss is None else {METRIC: held_out_loss}
        self._saving = step
        self._writing(lambda: self._manager.save(step, args=items, metrics=metrics))

    def check(self) -> None:
        """Raise `OutputError` if a save has failed in the background."""
        self._writing(self._manager.check_for_errors)

    def wait(self) -> None:
        """Return once the last save is on disk. Raises `OutputError` if it failed."""
        self._writing(self._manager.wait_until_finished)

    def read_record(self, step: int) -> RunRecord:
        """What the checkpoint of a step belongs to. Raises `CheckpointError`."""
        check_digests(self.path / str(step), "record")
        items = args.Composite(record=args.JsonRestore())
        values = self._reading(step, lambda: self._manager.restore(step, args=items)["record"])
        return RunRecord.from_dict(values, self.path / str(step))

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, on the devices in the way the abstract state `like` says. Raises
        `CheckpointError`."""
        check_digests(self.path / str(step), "state")
        items = args.Composite(state=args.StandardRestore(like))
        state: TrainState = self._reading(
            step, lambda: self._manager.restore(step, args=items)["state"]
        )
        return state

    def _write_digests(self) -> None:
        """Called by Orbax when a save has written all items, before it gives the folder its name."""
        write_digests(self.path / f"{self._saving}{ocp.path.step.TMP_DIR_SUFFIX}")

    def _writing(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (
            Exception
        ) as error:  # Orbax and TensorStore pass on what the system said in many classes
            finished = self.steps() if hasattr(self, "_manager") else []
            where = self.path if self._saving is None else self.path / str(self._saving)
            kept = (
                f"the checkpoint of step {finished[-1]} is intact"
                if finished
                else "there is none yet"
            )
            raise OutputError(
                f"{where}: cannot save ({reason(error)}); {kept}: make room and run again"
            ) from error

    def _reading(self, step: int, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # as above
            raise unreadable(self.path / str(step), reason(error)) from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self._writing(self._manager.close)
            return
        with contextlib.suppress(Exception):  # the error on its way says more
            self._manager.close()


def _held_out_loss(metrics: Any) -> float:
    loss: float = metrics[METRIC]
    return loss
