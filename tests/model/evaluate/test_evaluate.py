"""`evaluate` on a small simulated store with an untrained model: command, report, page, refusals."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from model.evaluate.card import write_card
from model.evaluate.effort import Effort
from model.evaluate.evaluate import make_report, write_report
from model.evaluate.records import Report, read_report, report_json, write_report_json
from model.evaluate.report.page import report_page
from model.evaluate.report.terminal import evaluation_progress, evaluation_view
from stores.errors import ConfigError, InputError
from tests.model.evaluate.conftest import command
from tests.model.evaluate.html_page import Page

pytestmark = pytest.mark.usefixtures("quick_compilation")

BASELINES = {
    "global_median",
    "source_median",
    "destination_median",
    "pair_median",
    "pair_last",
    "pair_average",
    "vivaldi",
    "dmfsgd",
    "nearest_vantage",
}
UNTRAINED = {"untrained", "untrained_without_time"}
GROUPS = {
    "all",
    "seen_pairs",
    "unseen_pairs",
    "seen_sources",
    "unseen_sources",
    "context_has_pair",
    "context_lacks_pair",
    "unseen_sources_lack_pair",
}


@pytest.fixture(scope="module")
def baselines(simulated: Path) -> Report:
    """Baselines and the truth on 800 rows."""
    return make_report(simulated, truth=simulated / "truth" / "world.npz", limit=800)


@pytest.fixture(scope="module")
def report(baselines: Report) -> dict[str, Any]:
    """The same, as report.json holds it."""
    return report_json(baselines)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report") / "new"


@pytest.fixture(scope="module")
def asked_model(simulated: Path, model: Path, out: Path) -> dict[str, Any]:
    """What `evaluate --json` with that model says, and writes."""
    options = ["--store", str(simulated), "--truth", str(simulated / "truth" / "world.npz")]
    options += ["--model", str(model), "--out", str(out), "--limit", "4", "--json"]
    done = command("evaluate", *options)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said == json.loads((out / "report.json").read_text())
    return said


def test_report_has_every_predictor_in_every_group(report: dict[str, Any]) -> None:
    assert set(report["rtt"]) == BASELINES | {"best_possible"}
    asked = report["questions"]
    assert asked["asked"] == 800
    for errors in report["rtt"].values():
        assert set(errors) == GROUPS
        assert errors["all"]["count"] == 800 - asked["failed"]
        parts = ("seen_pairs", "unseen_pairs", "unseen_sources")
        assert sum(errors[part]["count"] for part in parts) == errors["all"]["count"]
        assert errors["all"]["median_abs_error_ms"] <= errors["all"]["mae_ms"]
    sizes = {"0", "1", "2", "5", "10", "30", "as_many_as_fit"}
    assert set(report["rtt_by_context"]["vivaldi"]) == sizes
    whole = report["rtt_by_context"]["dmfsgd"]["as_many_as_fit"]
    assert whole == report["rtt"]["dmfsgd"]
    assert set(report["rtt_by_family"]["dmfsgd"]) == {"ipv4", "ipv6"}


def test_nothing_beats_the_truth(report: dict[str, Any]) -> None:
    best = report["rtt"]["best_possible"]["all"]
    for name in BASELINES:
        assert best["median_abs_error_ms"] <= report["rtt"][name]["all"]["median_abs_error_ms"]
        assert best["mae_ms"] < report["rtt"][name]["all"]["mae_ms"]
    calibration = report["calibration"]["best_possible"]["all"]
    assert calibration["coverage_80"] == pytest.approx(0.8, abs=0.05)
    for name, metrics in report["calibration"].items():
        assert name == "best_possible" or calibration["crps_ms"] < metrics["all"]["crps_ms"]
        assert report["failure"]["best_possible"]["all"]["brier"] <= (
            report["failure"][name]["all"]["brier"] + 1e-3
        )


def test_context_places_new_sources(report: dict[str, Any]) -> None:
    for name in ("vivaldi", "dmfsgd", "nearest_vantage"):
        errors = report["rtt_by_context"][name]
        with_10, without = (errors[size]["unseen_sources"] for size in ("10", "0"))
        assert with_10["median_abs_error_ms"] < 0.8 * without["median_abs_error_ms"]
        ours = report["rtt"][name]["unseen_sources"]["median_abs_error_ms"]
        history = report["rtt"]["destination_median"]["unseen_sources"]["median_abs_error_ms"]
        assert ours < 0.7 * history


# --- A trained model ----------------------------------------------------------------------------------


def test_a_model_answers_the_same_rows_as_the_baselines(asked_model: dict[str, Any]) -> None:
    assert set(asked_model["rtt"]) == BASELINES | UNTRAINED | {"best_possible"}
    assert asked_model["questions"]["asked"] == 4
    counts = {name: errors["all"]["count"] for name, errors in asked_model["rtt"].items()}
    assert len(set(counts.values())) == 1
    for table in ("rtt_by_context", "rtt_by_family", "rtt_by_range", "error_cdf", "calibration"):
        assert "untrained" in asked_model[table]
    assert asked_model["failure"]["untrained"]["all"]["brier"] > 0.05  # knows nothing
    assert asked_model["models"]["untrained"]["trained_on_this_store"] is False


def test_a_model_is_asked_for_more_than_rtts(asked_model: dict[str, Any]) -> None:
    likelihood = asked_model["likelihood"]["untrained"]
    assert likelihood["full"]["nats"]["src"] > np.log(256) * 4
    assert set(likelihood["none"]["nats"]) == {"src", "dst", "result"}
    assert asked_model["time"]["untrained"]["without_time"]["count"] == 4
    for name in ("untrained", "most_frequent"):
        assert set(asked_model["completions"][name]) == {"ipv4", "ipv6"}
        assert 0 < asked_model["completions"][name]["ipv4"]["3"]["count"] < 4
    assert asked_model["search"]["untrained"]["found"] > 30
    assert asked_model["search"]["untrained"]["within_20_percent"] == 0  # no such addresses
    assert asked_model["search"]["by_chance"]["truth_known"] == 1


def printed(report: Report) -> str:
    """What `evaluate` prints of a report, for 100 columns."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(evaluation_view(report, Path("folder")))
    return console.export_text()


@pytest.mark.usefixtures("asked_model")
def test_the_table_is_short_and_names_the_report(out: Path) -> None:
    report = read_report(out / "report.json")
    text = printed(report)
    assert "untrained" in text
    assert "context" in text
    assert "folder/report.html" in text
    assert "…" not in text.replace(report.store.digest[:16] + "…", "")
    assert f"{next(iter(report.search.values())).searches} searches" in " ".join(text.split())


def test_the_table_of_baselines_has_each_of_them_and_nothing_about_models(
    baselines: Report,
) -> None:
    text = printed(baselines)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    for name in BASELINES | {"best_possible"}:
        assert sum(f" {name} " in line for line in lines) == 2  # errors, distributions
    assert f"{baselines.rtt['vivaldi']['all'].mae_ms:.2f}" in text
    assert "Trained models" not in text


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with evaluation_progress() as show:
        show("reading", 1, 2)
        show("fitting baselines", 0, 1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("asked_model")
def test_a_report_is_read_back_as_it_was_written(out: Path, tmp_path: Path) -> None:
    read = read_report(out / "report.json")
    assert report_json(read) == json.loads((out / "report.json").read_text())
    (tmp_path / "report.json").write_text('{"store": 1}')
    with pytest.raises(InputError, match="not a report of `evaluate`"):
        read_report(tmp_path / "report.json")


def test_without_a_truth_measured_pairs_are_what_is_known(simulated: Path, model: Path) -> None:
    """Progress is told of everything that is asked, too."""
    last: dict[str, tuple[int, int]] = {}

    def note(what: str, done: int, total: int) -> None:
        last[what] = (done, total)

    effort = Effort(
        windows=2,
        time_questions=1,
        completions=1,
        ipv4_known=(3,),
        ipv6_known=(15,),
        searches=1,
        destinations=3,
    )
    report = report_json(make_report(simulated, [model], limit=16, effort=effort, progress=note))
    assert set(report["rtt"]) == BASELINES | UNTRAINED
    search = report["search"]["untrained"]
    assert (search["found"], search["truth_known"], search["within_20_percent"]) == (3, 0, None)
    for part in ("RTTs", "time", "likelihoods", "completions", "searches"):
        done, total = last[f"untrained: {part}"]
        assert done == total


# --- The page -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("asked_model")
def test_the_page_is_one_file_that_loads_nothing(out: Path) -> None:
    assert sorted(file.name for file in out.iterdir()) == ["report.html", "report.json"]
    text = (out / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert "script" not in page.seen
    assert "@import" not in text
    assert "url(http" not in text
    assert page.seen.count("svg") >= 9
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_the_page_leads_with_pairs_that_the_context_lacks_and_names_all_predictors(
    asked_model: dict[str, Any], out: Path
) -> None:
    text = (out / "report.html").read_text()
    first = text[text.index("<table>") : text.index("</table>")]
    headings = re.findall(r"<th>([^<]+)</th>", first[: first.index("</thead>")])
    assert headings[0] == "pair not in context *"  # of four rows
    assert headings[-1] == "all *"
    for name in asked_model["rtt"]:
        assert f"<th>{name.replace('_', ' ')}</th>" in first
    assert "trained on another store" in text


@pytest.mark.usefixtures("asked_model")
def test_names_of_models_and_folders_are_escaped(out: Path) -> None:
    bad = "<script>alert(1)</script>"
    told = (out / "report.json").read_text().replace("untrained", bad)
    told = told.replace('"path": "', f'"path": "{bad}&')
    report = msgspec.json.decode(told, type=Report)
    assert bad in report.rtt
    assert report.store.path.startswith(bad)
    text = report_page(report)
    assert bad not in text
    page = Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.seen
    assert f"{html.escape(bad)}&amp;" in text
    assert f"<th>{html.escape(bad)}</th>" in text


def test_a_page_without_models_has_no_sections_about_them(
    baselines: Report, tmp_path: Path
) -> None:
    write_report(tmp_path, baselines)
    text = (tmp_path / "report.html").read_text()
    assert "<h2>Calibration</h2>" in text
    assert "Completing destinations" not in text


# --- The card of a model ------------------------------------------------------------------------------


@pytest.mark.usefixtures("asked_model")
def test_a_card_says_what_the_run_and_the_report_say(
    simulated: Path, out: Path, run: Path, tmp_path: Path
) -> None:
    options = ["--run", str(run), "--report", str(out / "report.json"), "--store", str(simulated)]
    options += ["--truth", str(simulated / "truth" / "world.npz"), "--out", str(tmp_path)]
    done = command("model-card", *options)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "card.json").read_text())
    report = json.loads((out / "report.json").read_text())
    assert (card["training"]["tokens"], card["training"]["seconds"]) == (3 * 2 * 64, 1 + 4)
    errors = card["evaluation"]["median_abs_error_ms"]
    assert set(errors) == BASELINES | {"best_possible", "model", "model_without_time"}
    told = report["rtt"]["untrained"]["seen_pairs"]["median_abs_error_ms"]
    assert errors["model"]["seen_pairs"] == told
    assert (
        card["evaluation"]["failure"]["model"]["brier"]
        == (report["failure"]["untrained"]["all"]["brier"])
    )
    assert card["example"]["true_median_ms"] > 0
    assert card["data"]["provenance"]["data"] == "simulated"
    assert (card["data"]["seed"], card["licence"]) == (0, "Apache-2.0")
    text = (tmp_path / "README.md").read_text()
    assert "| best possible |" in text
    of_model = [errors["model"][group] for group in ("seen_pairs", "unseen_pairs")]
    assert (
        "| model | {} | {} |".format(*("-" if e is None else f"{e:.1f}" for e in of_model)) in text
    )
    measured = command("model-card", *options[:6], "--out", str(tmp_path), "--json")
    assert measured.returncode == 0, measured.stderr
    assert (
        json.loads(measured.stdout)["example"] is None
    )  # nobody's rows without a simulation's truth


def test_a_card_of_what_is_not_a_model_is_refused(
    baselines: Report, simulated: Path, run: Path, tmp_path: Path
) -> None:
    write_report_json(tmp_path / "report.json", baselines)
    truth = simulated / "truth" / "world.npz"
    with pytest.raises(ConfigError, match="is of 0 models, expected 1"):
        write_card(run, tmp_path / "report.json", simulated, truth, tmp_path)


# --- The command --------------------------------------------------------------------------------------


def test_the_truth_of_another_simulation_is_refused(simulated: Path, tmp_path: Path) -> None:
    other = command(
        "simulate", "--rows", "100", "--seed", "5", "--out", str(tmp_path / "o.parquet")
    )
    assert other.returncode == 0, other.stderr
    with pytest.raises(InputError, match="belongs to another simulation"):
        make_report(simulated, truth=tmp_path / "o.world.npz", limit=100)


def test_the_same_seed_gives_the_same_report(simulated: Path, asked_model: dict[str, Any]) -> None:
    """In another process too, and whatever other predictors are asked."""
    again = report_json(make_report(simulated, truth=simulated / "truth" / "world.npz", limit=4))
    for table in ("rtt", "calibration", "rtt_by_context"):
        for name, numbers in again[table].items():
            assert asked_model[table][name] == numbers
