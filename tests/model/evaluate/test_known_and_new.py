"""Known and new sources are told apart in what `evaluate` prints, and so is a model chosen on test."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from model.evaluate.comparison import compare
from model.evaluate.evaluate import describe_model
from model.evaluate.questions import choose_questions
from model.evaluate.records import ModelRecord, Report, StoreRecord
from model.evaluate.report.page import report_page
from model.evaluate.report.terminal import by_source, evaluation_view
from model.inference.weights import Weights
from stores.reader import TokenStore
from tests.helpers import build_store
from tests.model.conftest import small_config
from tests.model.evaluate.small_rows import Constant, make_rows

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
X, Y = "198.51.100.7", "198.51.100.8"
KNOWN = [(A, X, 10 + i, 5.0) for i in range(3)] + [(A, Y, 13, 5.0)]
NEW = [(C, X, 10 + i, 105.0) for i in range(2)]


def report_of(test: list, models: dict[str, ModelRecord] | None = None) -> Report:
    """What `evaluate` would report of a predictor that always says 15 ms; its error is 10 or 90 ms."""
    train, asked = make_rows([(A, X, 1, 5.0), (B, X, 2, 9.0)], test)
    comparison = compare(choose_questions(train, asked, None), [Constant(15.0)])
    store = StoreRecord("data/store.zarr", "0" * 64, len(train), len(asked))
    return Report(store=store, seed=0, models=models or {}, **msgspec.structs.asdict(comparison))


def printed(report: Report) -> list[str]:
    """The lines that `evaluate` prints in 100 columns."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(evaluation_view(report, Path("folder")))
    return console.export_text().splitlines()


def test_both_kinds_of_sources_have_a_column_and_a_table_of_their_own() -> None:
    report = report_of(KNOWN + NEW)
    errors = report.rtt["constant"]
    assert (errors["seen_sources"].count, errors["unseen_sources"].count) == (4, 2)
    assert (errors["seen_sources"].mae_ms, errors["unseen_sources"].mae_ms) == (10.0, 90.0)
    lines = printed(report)
    assert max(map(len, lines)) <= 100
    known, new = (
        next(at for at, line in enumerate(lines) if line.startswith(f"Rows of {kind} sources"))
        for kind in ("seen", "unseen")
    )
    rows = [at for at, line in enumerate(lines) if " constant " in line]
    assert rows[0] < known < rows[1] < new < rows[2]
    assert "10.00" in lines[rows[1]]
    assert "90.00" in lines[rows[2]]
    assert not any(line.startswith("All rows") for line in lines)
    page = report_page(report)
    failures = page[page.index("<h2>Failures</h2>") :]
    assert failures.index("<h3>seen sources</h3>") < failures.index("<h3>unseen sources</h3>")


@pytest.mark.parametrize("test", [KNOWN, NEW])
def test_one_kind_alone_stays_one_table(test: list) -> None:
    report = report_of(test)
    assert by_source(report) == ["all"]
    assert any(line.startswith("All rows") for line in printed(report))


@pytest.fixture
def models(tmp_path: Path) -> dict[str, ModelRecord]:
    """Models by what is peculiar to their origin."""
    opened = TokenStore.open(build_store(tmp_path / "store.zarr", train=40, test=9))
    origin = {"store_digest": opened.digest, "code_version": "0", "step": 100, "test_loss": 20.0}
    origins = {
        "older": origin,
        "on_test": origin | {"chosen_on": "test"},
        "on_validation": origin | {"chosen_on": "validation"},
        "elsewhere": origin | {"store_digest": "another"},
        "last": origin | {"test_loss": None},
    }
    config = small_config().model
    return {
        name: describe_model(Weights(config, {}, of_model), opened, name)
        for name, of_model in origins.items()
    }


def test_a_checkpoint_chosen_on_these_rows_says_so(
    models: dict[str, ModelRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    flattered = {name for name, model in models.items() if model.flattered}
    assert flattered == {"older", "on_test"}
    report = report_of(KNOWN, models)
    text = " ".join(" ".join(printed(report)).split())
    monkeypatch.setattr("model.evaluate.report.page.model_sections", lambda report: None)
    page = report_page(report)
    for name in models:
        assert (f"{name}: its checkpoint was chosen on test" in text) == (name in flattered)
        assert (f"The checkpoint of {name} was chosen on test" in page) == (name in flattered)
    assert page.count("test loss 20.00 nats") == 3
    assert page.count("validation loss 20.00 nats") == 1


def test_a_model_of_a_simulated_internet_is_named_as_such(
    models: dict[str, ModelRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models["older"].data == "unknown"
    kinds = {
        data: msgspec.structs.replace(models["last"], data=data)
        for data in ("simulated", "mixed", "real")
    }
    report = report_of(KNOWN, kinds)
    lines = printed(report)
    assert "simulated: trained on a simulated Internet" in lines
    assert "mixed: trained in part on a simulated Internet" in lines
    assert not any(line.startswith("real: ") for line in lines)
    monkeypatch.setattr("model.evaluate.report.page.model_sections", lambda report: None)
    assert report_page(report).count(" a simulated Internet, step 100") == 2
