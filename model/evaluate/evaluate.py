"""`evaluate` from beginning to end: from a store, trained models and perhaps the truth to one report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from model.evaluate.comparison import CONTEXT_SIZES, Progress, compare
from model.evaluate.completions import (
    Completer,
    ModelCompleter,
    MostFrequent,
    choose_of_each_family,
    completion_report,
)
from model.evaluate.effort import LIMIT, LIMIT_WITH_MODELS, Effort
from model.evaluate.intervals import of_mean, of_quantile
from model.evaluate.likelihood import MODES, likelihood_report
from model.evaluate.predictors.baselines import fit_baselines
from model.evaluate.predictors.oracle import BestPossible
from model.evaluate.predictors.trained import ModelPredictor
from model.evaluate.questions import Predictor, Questions, choose_questions
from model.evaluate.records import (
    CompletionShares,
    Likelihood,
    ModelRecord,
    Report,
    SearchScores,
    StoreRecord,
    TimeComparison,
    TimeScores,
    write_report_json,
)
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
from model.inference.grounds import data_of
from model.inference.ping_model import PingModel, load_weights
from model.inference.weights import Weights
from model.network.flops import count_parameters
from stores.errors import ConfigError, OutputError
from stores.files import write_synced
from stores.rows import Rows, read_rows
from stores.truth import World
from stores.union import Store, StorePaths, open_stores


def make_report(
    paths: StorePaths,
    models: Sequence[str | Path] = (),
    truth: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    effort: Effort | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Ask every baseline and every model the same test rows of a store or several, at most `limit`.

    `models` are what `PingModel.load` takes; they are also asked for likelihoods, completions and searches.
    `truth` is the `world.npz` of a simulated Internet, and adds the predictor `best_possible`. `limit` is
    20,000 by default, or 1,000 with models. Takes seconds without models, and minutes for each model.
    Raises what opening a store or a model raises, `ConfigError` for a split without answered rows, and
    `InputError` for the truth of another simulation.
    """
    effort = effort or Effort()
    world = World.load(truth) if truth else None
    store = open_stores(paths)
    weights = {name: load_weights(model) for name, model in name_models(models).items()}
    train, test = _read_splits(store, progress)
    floor: list[Predictor] = [BestPossible(world, train.addresses)] if world else []
    questions = choose_questions(
        train, test, limit or (LIMIT_WITH_MODELS if models else LIMIT), seed
    )

    loaded = {name: PingModel(of_model) for name, of_model in weights.items()}
    timed, untimed = _predictors(loaded, questions, progress)
    progress("fitting baselines", 0, 1)
    predictors: list[Predictor] = [*fit_baselines(train, seed)]
    for name in loaded:
        predictors += [timed[name], untimed[name]]
    comparison = compare(questions, [*predictors, *floor], progress)

    report = Report(
        store=StoreRecord(
            path=store.name,
            digest=store.digest,
            train_rows=len(train),
            test_rows=len(test),
        ),
        seed=seed,
        models={
            name: describe_model(of_model, store, model)
            for (name, of_model), model in zip(weights.items(), models, strict=True)
        },
        **msgspec.structs.asdict(comparison),
    )
    if not models:
        return report
    true_rtts = WorldRtts(world) if world else MeasuredRtts(train, test)
    return msgspec.structs.replace(
        report,
        time=compare_time(timed, untimed, questions, effort, seed, progress),
        likelihood=_likelihoods(weights, store, effort, progress),
        completions=_completions(loaded, questions, train, effort, seed, progress),
        search=_searches(loaded, questions, train, true_rtts, effort, seed, progress),
    )


def _read_splits(store: Store, progress: Progress) -> tuple[Rows, Rows]:
    """Rows of train and test. Raises `ConfigError` if a split has no answered row."""
    train, test = read_rows(store, lambda done, total: progress("reading", done, total))
    for split, rows in (("train", train), ("test", test)):
        if rows.failed.all():
            raise ConfigError(f"{store.name}: {split} has no answered row: nothing to evaluate")
    return train, test


def _predictors(
    models: Mapping[str, PingModel], questions: Questions, progress: Progress
) -> tuple[dict[str, ModelPredictor], dict[str, ModelPredictor]]:
    """Each model twice, by its name: with timestamps, and without."""
    asked = len(questions.rtt_ms) * (1 + len(CONTEXT_SIZES))
    timed, untimed = {}, {}
    for name, model in models.items():
        told = counter(progress, f"{name}: RTTs", asked)
        timed[name] = ModelPredictor(name, model, told)
        told = counter(progress, f"{name}: RTTs without timestamps", asked)
        untimed[name] = ModelPredictor(name, model, told, with_time=False)
    return timed, untimed


def prepare_output(out: Path) -> None:
    """Create the folder of a report before the work starts, so that a bad path fails at once.

    Raises `OutputError`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be a folder ({error.strerror}): name another") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: not writable: name another folder")


def write_report(out: Path, report: Report) -> None:
    """Write DIR/report.json and DIR/report.html, each whole or not at all. Raises `OutputError`."""
    from model.evaluate.report.page import report_page  # Matplotlib takes a second to import

    write_report_json(out / "report.json", report)
    write_synced(out / "report.html", report_page(report).encode())


def name_models(models: Sequence[str | Path]) -> dict[str, str | Path]:
    """Each model by its name in the tables: its folder's, or the whole path where that is not unique.

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


def describe_model(weights: Weights, store: Store, model: str | Path) -> ModelRecord:
    """Where a model comes from, and whether it was trained on this store."""
    origin = weights.origin
    return ModelRecord(
        path=str(model),
        parameters=count_parameters(weights.config)["total"],
        context=weights.config.context,
        trained_on_this_store=origin.get("store_digest") == store.digest,
        store_digest=origin.get("store_digest"),
        code_version=origin.get("code_version"),
        step=origin.get("step"),
        test_loss=origin.get("test_loss"),
        chosen_on=origin.get("chosen_on", "test"),
        data=data_of(weights.provenance),
    )


def counter(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    """A function that adds to what is done of `total`, and reports it to `progress`."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        progress(what, done, total)

    return add


def compare_time(
    timed: Mapping[str, ModelPredictor],
    untimed: Mapping[str, ModelPredictor],
    questions: Questions,
    effort: Effort,
    seed: int,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, TimeComparison]:
    """By model, its answers with and without timestamps to the same sample of questions."""
    asked = len(questions.rtt_ms)
    random = np.random.default_rng((seed, 4))
    rows = np.sort(random.choice(asked, min(effort.time_questions, asked), replace=False))
    sample = questions.queries.take(rows), questions.rtt_ms[rows]

    def scores(name: str, predictor: ModelPredictor) -> TimeScores:
        predictor.answered = counter(progress, f"{name}: time", len(rows))
        queries, rtt_ms = sample
        nats, median = predictor.result_nats(queries, rtt_ms)
        error = np.sort(np.abs(median - rtt_ms)[~np.isnan(rtt_ms)])
        return TimeScores(
            count=len(rows),
            nats=float(nats.mean()),
            median_abs_error_ms=float(np.median(error)) if len(error) else None,
            intervals={
                "nats": of_mean(nats),
                **({"median_abs_error_ms": of_quantile(error, 0.5)} if len(error) else {}),
            },
        )

    return {
        name: TimeComparison(
            with_time=scores(name, timed[name]), without_time=scores(name, untimed[name])
        )
        for name in timed
    }


def _likelihoods(
    weights: dict[str, Weights], store: Store, effort: Effort, progress: Progress
) -> dict[str, Likelihood]:
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
) -> dict[str, dict[str, dict[str, CompletionShares]]]:
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
) -> dict[str, SearchScores]:
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
