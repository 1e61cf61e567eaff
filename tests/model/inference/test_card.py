"""What an export says of itself, as JSON and in prose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.inference.card import README_FILE, card_of, readme
from model.inference.export import write_export
from model.inference.ping_model import load_weights
from model.inference.weights import Weights
from stores.errors import OutputError
from stores.provenance import Provenance, in_turn, survey
from stores.reader import TokenStore
from tests.model.inference.plain import random_weights

ORIGIN = {"store_digest": "ab" * 32, "code_version": "0.2.0", "step": 1200, "test_loss": 20.25}


@pytest.fixture(scope="module")
def real(store: Path) -> Provenance:
    return survey(TokenStore.open(store))


@pytest.fixture(scope="module")
def weights(real: Provenance) -> Weights:
    return replace(random_weights(1.0), origin=ORIGIN, provenance=replace(real, data="simulated"))


def test_an_export_carries_its_card_as_json_and_prose(weights: Weights, tmp_path: Path) -> None:
    write_export(weights, tmp_path / "model")
    card = json.loads((tmp_path / "model/card.json").read_bytes())
    assert card == card_of(weights)
    assert card["data"]["provenance"]["data"] == "simulated"
    assert card["data"]["provenance"]["rows"] == 6000
    assert card["licence"] == "Apache-2.0"
    text = (tmp_path / "model" / README_FILE).read_text()
    for part in (
        *("## Data", "## Training", "## Evaluation", "## Limits", "## Licence"),
        *("Trained on 6,000 pings of a simulated Internet", "ab" * 32, "1,200 steps"),
        *("20.25 nats per measurement", "has never seen the Internet", "Not evaluated yet"),
        "Apache-2.0, as pinglm itself",
    ):
        assert part in text, part


def test_prose_of_real_and_of_unknown_data_claims_no_more_than_is_known(
    weights: Weights, real: Provenance
) -> None:
    measured = readme(card_of(replace(weights, provenance=real)), 1234)
    assert "Trained on 6,000 pings that were measured. They go from" in measured
    assert "1,234 weights" in measured
    assert "simulated" not in measured
    assert "depends on the terms of the data" in measured
    unknown = card_of(replace(weights, provenance=None))
    assert (unknown["data"]["provenance"], unknown["licence"]) == (None, None)
    assert "simulated or real, this export cannot tell" in readme(unknown, 1234)
    blank: dict[str, Any] = {**ORIGIN, "step": 0, "test_loss": None}
    assert "No loss on the test rows was noted" in readme(
        card_of(replace(weights, origin=blank)), 1234
    )


def test_prose_of_simulated_and_real_data_says_so_and_promises_no_licence(weights: Weights) -> None:
    assert weights.provenance is not None
    both = in_turn(
        replace(weights.provenance, data="simulated"), replace(weights.provenance, data="real")
    )
    origin = {**weights.origin, "base": "b" * 64}
    card = card_of(replace(weights, provenance=both, origin=origin))
    text = readme(card, 1234)
    assert "of which some were measured and others are those of a simulated Internet" in text
    assert "- A part of its data is a simulated Internet" in text
    assert f"began as those of a model trained on the store `{'b' * 64}`" in text
    assert card["licence"] is None


def test_somebody_elses_readme_is_not_overwritten(weights: Weights, tmp_path: Path) -> None:
    out = tmp_path / "model"
    write_export(weights, out)
    write_export(weights, out)  # its own it is
    before = (out / "config.json").read_bytes()
    (out / README_FILE).write_text("# My notes\n")
    with pytest.raises(OutputError, match=r"README\.md: was not written by pinglm: move it"):
        write_export(weights, out)
    assert (out / README_FILE).read_text() == "# My notes\n"
    assert (out / "config.json").read_bytes() == before  # still a model
    assert load_weights(out).provenance == weights.provenance


def test_what_an_export_left_that_was_killed_before_its_end_is_replaced(
    weights: Weights, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    write_export(weights, out)
    (out / "config.json").unlink()
    write_export(weights, out)
    assert load_weights(out).origin == ORIGIN
