"""The temperature of predicted RTTs: what finds it, and what it changes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli import app
from model.evaluate.temperature import likeliest_temperature, with_temperature
from model.inference.export import read_export
from model.inference.ping_model import PingModel, load_weights
from model.inference.prediction import RttPrediction, tempered
from model.training.loop import train
from stores.codec import encode_rtts
from stores.errors import CheckpointError, ConfigError
from stores.reader import TokenStore
from stores.rows import read_rows
from tests.helpers import build_store
from tests.model.conftest import small_config


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a validation split."""
    return build_store(
        tmp_path_factory.mktemp("store") / "store.zarr", train=2000, validation=300, test=400
    )


def test_the_temperature_of_a_model_that_is_too_sure_is_found() -> None:
    random = np.random.default_rng(0)
    true = random.dirichlet(np.full(256, 0.1), 1500)
    came = np.array([random.choice(256, p=row) for row in true])
    sure = true**1.5
    assert likeliest_temperature([(true, came)]) == pytest.approx(1, rel=0.06)
    assert likeliest_temperature([(sure, came)]) == pytest.approx(1.5, rel=0.06)
    assert likeliest_temperature([(true, came), (sure, came)]) == pytest.approx(1.2, rel=0.08)


def test_a_higher_temperature_widens_intervals_and_leaves_the_tokens_as_they_are() -> None:
    shares = np.exp(-0.5 * ((np.arange(65536) - encode_rtts(np.array([20.0]))) / 300.0) ** 2)
    shares /= shares.sum()
    own, wider = (RttPrediction(0.2, shares, None, temperature) for temperature in (1.0, 2.0))
    assert wider.median_ms == pytest.approx(own.median_ms, rel=0.02)
    widths = [p.quantile(0.9) - p.quantile(0.1) for p in (own, wider)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(2), rel=0.1)  # as of a Gaussian
    assert wider.cdf(1e9) == pytest.approx(1)
    assert wider.log_likelihood(20.0) == own.log_likelihood(20.0)
    np.testing.assert_array_equal(
        RttPrediction(0.2, shares).quantile([0.1, 0.9]), own.quantile([0.1, 0.9])
    )


def test_a_first_byte_gains_nothing_from_a_second_of_which_little_is_known() -> None:
    shares = np.zeros((256, 256))
    near, far = (int(encode_rtts(np.array([rtt_ms]))[0]) for rtt_ms in (1.0, 100.0))
    shares[near >> 8, near & 255] = 0.6  # certain
    shares[far >> 8] = 0.4 / 256  # nothing known
    at_two = RttPrediction(0.0, shares.ravel(), None, 2.0)
    first = tempered(np.array([0.6, 0.4]), 2.0)
    assert at_two.cdf(10.0) == pytest.approx(first[0])


def test_an_export_is_calibrated_on_the_validation_split_and_keeps_its_temperature(
    validated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.evaluate.temperature.ROWS", 20)
    train(small_config(), validated, tmp_path / "run")
    line = ["export", "--model", str(tmp_path / "run"), "--out", str(tmp_path / "model")]
    done = CliRunner().invoke(app, [*line, "--store", str(validated), "--calibrate"])
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "model/config.json").read_text())["rtt_temperature"]
    assert 0.25 < written != 1
    assert re.search(rf"RTT temperature \W+{written:g} ", done.stdout)
    assert read_export(tmp_path / "model").rtt_temperature == written
    asked = ("9.8.7.6", "11.12.13.14")
    own, wider = (PingModel.load(tmp_path / name).predict_rtt(*asked) for name in ("run", "model"))
    np.testing.assert_allclose(own.code_probabilities, wider.code_probabilities, rtol=1e-4)
    assert own.quantile(0.9) != wider.quantile(0.9)


def test_without_validation_rows_there_is_nothing_to_calibrate_on(
    store: Path, tmp_path: Path
) -> None:
    train(small_config(), store, tmp_path / "run")
    line = ["export", "--model", str(tmp_path / "run"), "--out", str(tmp_path / "model")]
    without = CliRunner().invoke(app, [*line, "--calibrate"])
    assert isinstance(without.exception, ConfigError)
    with pytest.raises(ConfigError, match=r"has no validation split .* --validation 0\.02"):
        with_temperature(load_weights(tmp_path / "run"), TokenStore.open(store))


@pytest.mark.parametrize("wrong", [0, -1, "warm"])
def test_an_impossible_temperature_is_refused(wrong: object, model: Path, tmp_path: Path) -> None:
    copied = tmp_path / "model"
    copied.mkdir()
    for file in model.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    config = json.loads((copied / "config.json").read_text())
    del config["config_sha256"]  # as of an older export
    (copied / "config.json").write_text(json.dumps(config | {"rtt_temperature": wrong}))
    with pytest.raises(CheckpointError, match=r"config\.json: .*rtt_temperature"):
        read_export(copied)


def test_validation_rows_can_be_read_in_place_of_test_rows(validated: Path) -> None:
    opened = TokenStore.open(validated)
    _, test = read_rows(opened)
    _, validation = read_rows(opened, held_out="validation")
    counts = {
        split: opened.manifest.arrays[f"{split}/full"].measurements
        for split in ("test", "validation")
    }
    assert (len(test), len(validation)) == (counts["test"], counts["validation"])
