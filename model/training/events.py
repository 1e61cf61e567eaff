"""TensorBoard event files, with the numbers of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _without_torch() -> Iterator[None]:
    """tensorboardX imports PyTorch where it is installed: for nothing, and for three seconds."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


with _without_torch():
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.api_pb2 import DataType, Experiment, HParamInfo, MetricInfo, MetricName
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionStartInfo
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata


_KINDS = {
    bool: ("bool_value", DataType.DATA_TYPE_BOOL),
    str: ("string_value", DataType.DATA_TYPE_STRING),
}


class Events:
    """A TensorBoard event file, written in the calling thread.

    tensorboardX's `SummaryWriter` writes in a thread of its own, fed by a bounded queue: when the disk is
    full, that thread dies and the training loop waits for it forever.
    """

    def __init__(self, folder: Path, step: int):
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        # A restart marker: TensorBoard drops what earlier files say about the steps that follow.
        session = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=session))

    def describe(self, settings: Mapping[str, bool | float | str], metrics: Sequence[str]) -> None:
        """Write what TensorBoard's tab of hyperparameters shows: the settings of this run, and the tags of the
        numbers by which runs are compared. On disk when this returns."""
        start = SessionStartInfo()
        described = []
        for name, value in settings.items():
            field, kind = _KINDS.get(type(value), ("number_value", DataType.DATA_TYPE_FLOAT64))
            setattr(start.hparams[name], field, value)
            described.append(HParamInfo(name=name, type=kind))
        experiment = Experiment(
            hparam_infos=described,
            metric_infos=[MetricInfo(name=MetricName(tag=tag)) for tag in metrics],
        )
        for tag, data in (
            ("experiment", HParamsPluginData(experiment=experiment)),
            ("session_start_info", HParamsPluginData(session_start_info=start)),
        ):
            plugin = SummaryMetadata.PluginData(
                plugin_name="hparams", content=data.SerializeToString()
            )
            metadata = SummaryMetadata(plugin_data=plugin)
            summary = Summary(value=[Summary.Value(tag=f"_hparams_/{tag}", metadata=metadata)])
            self._writer.write_event(Event(wall_time=time.time(), summary=summary))
        self._writer.flush()

    def write(self, step: int, numbers: list[tuple[str, float]]) -> None:
        """One event with all numbers of a step, on disk when this returns."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
