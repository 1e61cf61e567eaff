"""`evaluate` from beginning to end: a store, trained models and the truth in, one report out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluate.completions import (
    Completer,
    ModelCompleter,
    MostFrequent,
    choose_of_each_family,
    completion_report,
)
from model.evaluate.effort import LIMIT, LIMIT_WITH_MODELS, Effort
from model.evaluate.likelihood import MODES, likelihood_report
from model.evaluate.predictors.oracle import BestPossible
from model.evaluate.predictors.trained import ModelPredictor
from model.evaluate.questions import WITHOUT_TIME, Questions, choose_questions
from model.evaluate.rtt import CONTEXT_SIZES, compare, fit_baselines
from model.evaluate.searches import (
    ByChance,
    KnownRtts,
    MeasuredRtts,
    ModelSearcher,
    Searcher,
    WorldRtts,
    choose_searches,
    search_report,
)
from model.inference.ping_model import PingModel, load_weights
from model.inference.weights import Weights
from model.network.flops import count_parameters
from stores.errors import ConfigError, OutputError
from stores.files import write_bytes, write_json
from stores.reader import TokenStore
from stores.rows import Rows, read_rows
from stores.truth import World

Progress = Callable[[str, int, int], None]
"""Called as progress(what is going on, done, in all)."""


def make_report(
    path: str | os.PathLike[str],
    models: Sequence[str | Path] = (),
    truth: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    effort: Effort | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Ask every baseline and every model the same at most `limit` test rows of a store, and models more.

    `models` are what `PingModel.load` takes; `truth` is the `world.npz` of a simulated Internet, and
    adds `best_possible`. `limit` is 20,000, or 1,000 with models. The result is JSON-able;
    docs/evaluation.md names its fields. Raises what opening a store or a model raises, `ConfigError`
    for a split without answered rows, `InputError` for a truth of another simulation.
    """
    effort = effort or Effort()
    world = World.load(truth) if truth else None
    store = TokenStore.open(path)
    weights = {name: load_weights(model) for name, model in name_models(models).items()}
    train, test = read_rows(store, lambda done, total: progress("reading", done, total))
    for split, rows in (("train", train), ("test", test)):
        if rows.failed.all():
            raise ConfigError(f"{store.path}: {split} has no answered row: nothing to evaluate")
    floor = [BestPossible(world, train.addresses)] if world else []
    limit = limit or (LIMIT_WITH_MODELS if models else LIMIT)
    questions = choose_questions(train, test, limit, seed)
    loaded = {name: PingModel(of_model) for name, of_model in weights.items()}
    asked = len(questions.rtt_ms) * (1 + len(CONTEXT_SIZES))
    predictors = [
        ModelPredictor(name, model, counter(progress, f"{name}: RTTs{note}", asked), with_time)
        for name, model in loaded.items()
        for with_time, note in ((True, ""), (False, ", no times"))
    ]
    progress("fitting baselines", 0, 1)
    report = {
        "store": {
            "path": str(store.path),
            "digest": store.digest,
            "train_rows": len(train),
            "test_rows": len(test),
        },
        "seed": seed,
        "models": {
            name: describe_model(of_model, store, model)
            for (name, of_model), model in zip(weights.items(), models, strict=True)
        },
        **compare(questions, [*fit_baselines(train, seed), *predictors, *floor], progress),
    }
    if not models:
        return report
    true_rtts = WorldRtts(world) if world else MeasuredRtts(train, test)
    return {
        **report,
        "time": compare_time(predictors, questions, effort, seed, progress),
        "likelihood": _likelihoods(weights, store, effort, progress),
        "completions": _completions(loaded, questions, train, effort, seed, progress),
        "search": _searches(loaded, questions, train, true_rtts, effort, seed, progress),
    }


def prepare_output(out: Path) -> None:
    """Make the folder of a report, before the work and not after it. Raises `OutputError`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be a folder ({error.strerror}): name another") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be written into: name another folder")


def write_report(out: Path, report: dict[str, Any]) -> None:
    """Write DIR/report.json and DIR/report.html, each whole or not at all. Raises `OutputError`."""
    from model.evaluate.report.page import report_page  # Matplotlib takes a second

    write_json(out / "report.json", report)
    write_bytes(out / "report.html", report_page(report).encode())


def name_models(models: Sequence[str | Path]) -> dict[str, str | Path]:
    """Each model's name in the tables: its folder's, or the whole path where that is not unique.

    Raises `ConfigError` for a model given twice."""
    folders = [Path(model).resolve().name for model in models]
    names = [
        folder if folders.count(folder) == 1 else str(model)
        for folder, model in zip(folders, models, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--model {name}: given twice")
    return dict(zip(names, models, strict=True))


def describe_model(weights: Weights, store: TokenStore, model: str | Path) -> dict[str, Any]:
    """Where a model comes from, and whether it was trained on this store."""
    return {
        "path": str(model),
        "parameters": count_parameters(weights.config)["total"],
        "context": weights.config.context,
        "trained_on_this_store": weights.origin.get("store_digest") == store.digest,
        **weights.origin,
    }


def counter(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    """A function that adds to what is done of `total`, and tells `progress`."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        progress(what, done, total)

    return add


def compare_time(
    predictors: Sequence[ModelPredictor],
    questions: Questions,
    effort: Effort,
    seed: int,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """{model: {with_time, without_time}} on the same sample of questions, with their context:
    `count`, mean `nats` of the result, and `median_abs_error_ms` of the answered ones."""
    asked = len(questions.rtt_ms)
    random = np.random.default_rng((seed, 4))
    rows = np.sort(random.choice(asked, min(effort.time_questions, asked), replace=False))
    queries, rtt_ms = questions.queries.take(rows), questions.rtt_ms[rows]
    answered = ~np.isnan(rtt_ms)
    report: dict[str, Any] = {}
    for predictor in predictors:
        name = predictor.name if predictor.with_time else predictor.name.removesuffix(WITHOUT_TIME)
        predictor.answered = counter(progress, f"{name}: time", len(rows))
        nats, median = predictor.result_nats(queries, rtt_ms)
        error = np.abs(median - rtt_ms)[answered]
        report.setdefault(name, {})["with_time" if predictor.with_time else "without_time"] = {
            "count": len(rows),
            "nats": float(nats.mean()),
            "median_abs_error_ms": float(np.median(error)) if len(error) else None,
        }
    return report


def _likelihoods(
    weights: dict[str, Weights], store: TokenStore, effort: Effort, progress: Progress
) -> dict[str, Any]:
    report = {}
    for name, of_model in weights.items():
        windows = sum(min(effort.windows, store.windows("test", mode)) for mode in MODES)
        advance = counter(progress, f"{name}: likelihoods", windows)
        report[name] = likelihood_report(of_model.model(), store, effort.windows, advance)
    return report


def _completions(
    models: dict[str, PingModel],
    questions: Questions,
    train: Rows,
    effort: Effort,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    queries = choose_of_each_family(questions.queries, effort.completions, seed)
    completers: list[Completer] = [
        ModelCompleter(
            name, model, counter(progress, f"{name}: completions", effort.asked_completions)
        )
        for name, model in models.items()
    ]
    return {
        completer.name: completion_report(completer, queries, effort.known)
        for completer in [*completers, MostFrequent(train)]
    }


def _searches(
    models: dict[str, PingModel],
    questions: Questions,
    train: Rows,
    truth: KnownRtts,
    effort: Effort,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    queries, targets_ms = choose_searches(
        questions.queries, questions.rtt_ms, effort.searches, seed
    )
    searchers: list[Searcher] = [
        ModelSearcher(name, model, counter(progress, f"{name}: searches", len(targets_ms)))
        for name, model in models.items()
    ]
    return {
        searcher.name: search_report(
            searcher, queries, targets_ms, effort.destinations, truth, train, seed
        )
        for searcher in [*searchers, ByChance(train)]
    }
