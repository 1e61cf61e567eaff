"""Metrics against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from model.evaluate.metrics import calibration_metrics, error_cdf, failure_metrics, rtt_metrics
from model.evaluate.questions import LEVELS


def test_errors_of_a_small_case() -> None:
    found = rtt_metrics(np.array([11.0, 20.0, 26.0]), np.array([10.0, 20.0, 20.0]))
    assert found.count == 3
    assert found.median_abs_error_ms == 1
    assert found.mae_ms == pytest.approx(7 / 3)
    assert found.relative_error_p50 == pytest.approx(0.1)
    assert found.relative_error_p95 == pytest.approx(0.28)


def test_cdf_of_errors_rises_to_the_largest() -> None:
    cdf = error_cdf(np.arange(101.0), np.zeros(101))
    assert cdf == pytest.approx(list(range(1, 100)))


def test_metrics_of_no_rows_are_none_and_can_be_written_as_json() -> None:
    none = np.zeros(0)
    assert rtt_metrics(none, none).mae_ms is None
    assert error_cdf(none, none) == []
    assert calibration_metrics(np.zeros((0, 199)), LEVELS, none).crps_ms is None
    assert failure_metrics(none, none.astype(bool)).auc is None


def test_the_true_distribution_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    scale = rng.uniform(1, 100, 20_000)
    rtt_ms = rng.exponential(scale)
    found = calibration_metrics(-np.log(1 - LEVELS) * scale[:, None], LEVELS, rtt_ms)
    assert found.coverage_50 == pytest.approx(0.50, abs=0.012)
    assert found.coverage_80 == pytest.approx(0.80, abs=0.012)
    assert found.coverage_95 == pytest.approx(0.95, abs=0.006)
    assert found.pit_histogram == pytest.approx([0.05] * 20, abs=0.007)


def test_a_forecast_that_is_too_sure_is_found_out() -> None:
    rng = np.random.default_rng(0)
    quantiles = np.tile(45 + 10 * LEVELS, (5000, 1))
    found = calibration_metrics(quantiles, LEVELS, rng.uniform(0, 100, 5000))
    assert found.coverage_95 < 0.12
    assert found.pit_histogram[0] > 0.4
    assert found.pit_histogram[-1] > 0.4


def test_crps_of_a_uniform_forecast_is_the_closed_form() -> None:
    quantiles = np.tile(LEVELS, (3, 1))
    outcomes = np.array([0.0, 0.3, 0.5])
    for row, y in enumerate(outcomes):
        found = calibration_metrics(quantiles[row : row + 1], LEVELS, outcomes[row : row + 1])
        assert found.crps_ms == pytest.approx(y**2 - y + 1 / 3, abs=0.003)


def test_crps_of_a_point_forecast_is_its_absolute_error() -> None:
    found = calibration_metrics(np.full((1, 199), 7.0), LEVELS, np.array([10.0]))
    assert found.crps_ms == pytest.approx(3.0)


def test_auc_and_brier_of_small_cases() -> None:
    failed = np.array([False, False, True, True])
    assert failure_metrics(np.array([0.1, 0.2, 0.8, 0.9]), failed).auc == 1
    assert failure_metrics(np.array([0.9, 0.8, 0.2, 0.1]), failed).auc == 0
    assert failure_metrics(np.full(4, 0.3), failed).auc == 0.5
    assert failure_metrics(np.array([0.1, 0.5, 0.5, 0.9]), failed).auc == 0.875
    assert failure_metrics(np.array([0.0, 0.0, 1.0, 0.5]), failed).brier == 0.0625
    assert failure_metrics(np.full(4, 0.3), np.ones(4, bool)).auc is None
