"""What TensorBoard is given: few cards under each heading, and the settings of the run."""

from __future__ import annotations

import resource
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from model.run_folder import Evaluation, KindLoss, LossSummary, MetricsLine
from model.training.logs import Logs
from stores.errors import OutputError
from tests.model.conftest import small_config

KINDS = [
    "role", *(f"{field}_{i}" for field in ("source", "destination") for i in range(1, 17)),
    "rtt_1", "rtt_2", "time",
]  # fmt: skip
OF_KINDS = {kind: KindLoss(1.0, 0.5, 10) for kind in KINDS}
SUMMARY = LossSummary(2.0, 50.0, 70.0, 0.25, 1000, 40, OF_KINDS)


def metrics(step: int) -> MetricsLine:
    return MetricsLine(
        step=step, loss=3.0, accuracy=0.2, bits_per_measurement=80.0, gradient_norm=1.0, learning_rate=1e-3,
        tokens_per_second=1e4, live_tokens_per_second=9e3, mfu={"full_attention": 0.4}, kinds=OF_KINDS,
    )  # fmt: skip


def evaluation(step: int, split: str) -> Evaluation:
    modes = dict.fromkeys(("full", "none", "mixed"), SUMMARY)
    return Evaluation(**vars(SUMMARY), modes=modes, step=step, split=split)


def events_of(path: Path) -> list[Event]:
    """All events of a run, read from the records that their files consist of."""
    events = []
    for file in sorted((path / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_no_heading_has_more_cards_than_fit_a_screen_or_two(tmp_path: Path) -> None:
    with Logs(tmp_path, 0, small_config()) as logs:
        logs.metrics(metrics(1))
        logs.evaluation(evaluation(1, "test"))
    values = {v.tag: v.simple_value for e in events_of(tmp_path) if e.step for v in e.summary.value}
    headings = Counter(tag.partition("/")[0] for tag in values)
    fields = ("role", "source", "destination", "rtt", "time")
    assert set(headings) == {
        "train", "test", "test_full", "test_none", "test_mixed",
        *(f"{split}_{field}" for split in ("train", "test") for field in fields),
    }  # fmt: skip
    assert headings["train"] == 8
    assert headings["test"] == headings["test_full"] == 4
    assert max(headings.values()) == headings["test_source"] == 32
    assert values["train/loss"] == 3.0
    assert values["train/mfu_full_attention"] == pytest.approx(0.4)
    assert (values["test/loss"], values["test_full/nats_per_measurement"]) == (2.0, 50.0)
    assert (values["test_source/loss_16"], values["train_role/accuracy"]) == (1.0, 0.5)


def plugin_data(path: Path) -> dict[str, list[HParamsPluginData]]:
    found: dict[str, list[Any]] = {}
    for event in events_of(path):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                found.setdefault(value.tag, []).append(data)
    return found


def test_the_settings_and_the_numbers_to_compare_are_there_from_the_start(tmp_path: Path) -> None:
    config = small_config(width=64, recall=True, optimizer="muon")
    with Logs(tmp_path, 0, config, "validation") as logs:
        logs.evaluation(evaluation(1, "validation"))
    found = plugin_data(tmp_path)
    settings = found["_hparams_/session_start_info"][0].session_start_info.hparams
    assert (settings["preset"].string_value, settings["optimizer"].string_value) == ("tiny", "muon")
    assert settings["width"].number_value == 64.0
    assert settings["learning_rate"].number_value == config.train.learning_rate
    assert settings["recall"].bool_value is True
    assert settings["seed"].WhichOneof("kind") == "number_value"  # 0, and there
    experiment = found["_hparams_/experiment"][0].experiment
    assert {info.name for info in experiment.hparam_infos} == set(settings)
    tags = [info.name.tag for info in experiment.metric_infos]
    assert tags == ["validation/loss", "validation/nats_per_measurement", "train/loss"]
    written = {v.tag for e in events_of(tmp_path) for v in e.summary.value}
    assert set(tags[:2]) <= written


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # tensorboardX does not close what it cannot flush
)
def test_a_disk_that_is_full_when_a_run_begins_is_one_line(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(
            OutputError, match=r"tensorboard: cannot write: File too large: make room"
        ):
            Logs(tmp_path, 0, small_config())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
