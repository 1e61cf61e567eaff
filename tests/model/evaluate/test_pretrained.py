"""The model that is shipped, and its card."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from model.config import ModelConfig, TrainConfig
from model.inference.checks import make_measurement
from model.inference.ping_model import PRETRAINED, PingModel
from model.inference.query import RttQuery
from pipeline.simulate.schedule import build_internet
from pipeline.simulate.stage import SimulateOptions
from stores.truth import pack_addresses

MOST_BYTES = 12e6
ASKED = 64
NOON = 1_751_284_800
SIMPLE = ("global_median", "source_median", "destination_median", "pair_median", "pair_last")


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return json.loads((PRETRAINED / "card.json").read_bytes())


@pytest.fixture(scope="module")
def shipped() -> PingModel:
    return PingModel.load("pretrained")


def test_the_shipped_model_is_small_and_its_card_describes_it(
    card: dict[str, Any], shipped: PingModel
) -> None:
    assert sum(file.stat().st_size for file in PRETRAINED.iterdir()) < MOST_BYTES
    training = card["training"]
    assert ModelConfig(**training["config"]["model"]) == shipped.config
    batch = TrainConfig(**training["config"]["train"]).batch_size
    assert training["tokens"] == training["steps"] * batch * shipped.config.context
    assert shipped.origin["store_digest"] == card["data"]["store_digest"]
    assert shipped.origin["code_version"] == training["code_version"]
    assert shipped.origin["chosen_on"] == "validation"
    assert shipped.origin["test_loss"] == pytest.approx(  # of the validation rows
        training["test"]["nats_per_measurement"], abs=0.5
    )


def test_the_shipped_model_is_as_good_on_pairs_never_seen_as_its_card_says(
    card: dict[str, Any], shipped: PingModel
) -> None:
    """The card counts against measured RTTs, this against true medians, so the two differ a little.
    A pair that is measured in the last tenth of the time only is one that training never saw."""
    options = SimulateOptions()
    world, schedule = build_internet(
        options.seed, options.networks, options.probes, options.targets
    )
    early = np.concatenate([schedule.early_rotation, schedule.early_one_offs], axis=1)
    late = [
        (schedule.sources.text[source], schedule.targets.text[target])
        for source, targets in enumerate(schedule.rotation)
        for target in np.setdiff1d(targets, early[source])
    ]
    chosen = np.random.default_rng(0).choice(len(late), 4 * ASKED, replace=False)
    pairs = [late[at] for at in chosen]
    src, dst = (pack_addresses(column) for column in zip(*pairs, strict=True))
    true = world.distribution(src, dst, np.full(len(pairs), NOON)).median()
    answers = shipped.predict_rtt_batch([RttQuery(*pair, NOON) for pair in pairs])
    error = np.median(np.abs(np.array([answer.median_ms for answer in answers]) - true))

    claims = {
        name: by_context["0"]
        for name, by_context in card["evaluation"]["unseen_pairs_by_context"].items()
    }
    assert claims["model"] / 1.5 < error < claims["model"] * 1.5
    assert all(error < claims[name] / 2 for name in SIMPLE)


def test_the_shipped_model_knows_the_simulated_internet_of_today(shipped: PingModel) -> None:
    """Fails when the simulation changes and the model is not trained again."""
    options = SimulateOptions()
    world, schedule = build_internet(
        options.seed, options.networks, options.probes, options.targets
    )
    rng = np.random.default_rng(0)
    sources = [text for text in schedule.sources.text if ":" not in text]
    targets = [text for text in schedule.targets.text if ":" not in text]
    pairs = list(zip(rng.choice(sources, ASKED), rng.choice(targets, ASKED), strict=True))
    src, dst = (pack_addresses(column) for column in zip(*pairs, strict=True))
    true = world.distribution(src, dst, np.full(ASKED, NOON)).median()
    answers = shipped.predict_rtt_batch([RttQuery(*pair, NOON) for pair in pairs])
    error = np.abs(np.array([answer.median_ms for answer in answers]) - true)
    spread = np.abs(np.median(true) - true)
    assert np.median(error) < np.median(spread) / 2


def test_the_example_of_the_card_is_answered_about_right(
    card: dict[str, Any], shipped: PingModel
) -> None:
    asked = card["example"]
    context = [make_measurement(**row) for row in asked["context"]]
    answer = shipped.predict_rtt(asked["src"], asked["dst"], asked["time"], context)
    assert asked["true_median_ms"] / 2 < answer.median_ms < asked["true_median_ms"] * 2
