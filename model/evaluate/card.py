"""The card of a shipped model: what it was trained on, how well it does, and a question to start with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from model.evaluate.predictors.trained import rtt_queries, without_time
from model.evaluate.questions import WITHOUT_TIME, Questions, choose_questions
from model.evaluate.records import Report, read_report
from model.inference.card import data_card, licence, write_card_files
from model.network.flops import count_parameters
from model.run_folder import (
    METRICS_FILE,
    RECORD_FILE,
    RESULT_FILE,
    MetricsLine,
    RunRecord,
    RunResult,
)
from stores.errors import CheckpointError, ConfigError
from stores.provenance import survey
from stores.rows import is_ipv4, read_rows
from stores.truth import World
from stores.union import Store, StorePaths, open_stores

EXAMPLE_CONTEXT = 10  # measurements
GROUPS = ("seen_pairs", "unseen_pairs")
CONTEXTS = ("0", "10", "30")  # measurements


def make_card(
    run: Path, report: Report, store: Store, world: World | None, seconds: float
) -> dict[str, Any]:
    """The card, which can be written as JSON: `data`, `training`, `evaluation`, `example`, `licence`.

    `report` must be of this run's export and no other model (else `ConfigError`); `seconds` is how long
    the training took. There is an example only of a simulated `world`: measurements of others are not
    given away. Reads all rows of the store, about a second per million.
    """
    if len(report.models) != 1:
        raise ConfigError(
            f"the report is of {len(report.models)} models, expected 1: evaluate the exported model alone"
        )
    record = RunRecord.read(run / RECORD_FILE)
    result = RunResult.read(run / RESULT_FILE)
    if result.evaluation is None:
        raise CheckpointError(f"{run / RESULT_FILE}: has no evaluation: train the run to its end")
    test = result.evaluation.as_dict()
    (name,) = report.models

    def rename(predictor: str) -> str:
        model = predictor.removesuffix(WITHOUT_TIME)
        return "model" + predictor.removeprefix(name) if model == name else predictor

    provenance = record.provenance
    if provenance is None or provenance.store_digest != store.digest:
        provenance = survey(store)
    provenance = record.with_base(provenance)
    batch = record.config.train.batch_size * record.config.model.context
    made = [part.manifest.configuration for part in store.parts]
    seeds = [configuration.get("simulate", {}).get("seed", 0) for configuration in made]
    return {
        "data": {
            **data_card(provenance),
            "rows": report.store.train_rows + report.store.test_rows,
            "seed": seeds[0] if len(seeds) == 1 else seeds,
            "store_digest": store.digest,
            "base": record.base.store_digest if record.base else None,
        },
        "training": {
            "code_version": record.code_version,
            "steps": result.steps,
            "tokens": result.steps * batch,
            "seconds": round(seconds),
            "device": f"{result.devices} × {result.device}",
            "config": record.config.as_dict(),
            "test": {key: test[key] for key in ("loss", "nats_per_measurement", "kinds")},
        },
        "evaluation": {
            "asked": report.questions.asked,
            "median_abs_error_ms": {
                rename(predictor): {group: groups[group].median_abs_error_ms for group in GROUPS}
                for predictor, groups in report.rtt.items()
            },
            "unseen_pairs_by_context": {
                rename(predictor): {
                    size: by_size[size]["unseen_pairs"].median_abs_error_ms for size in CONTEXTS
                }
                for predictor, by_size in report.rtt_by_context.items()
            },
            "failure": {
                rename(predictor): {"auc": groups["all"].auc, "brier": groups["all"].brier}
                for predictor, groups in report.failure.items()
            },
        },
        "example": make_example(choose_questions(*read_rows(store), 2_000), world)
        if world
        else None,
        "licence": licence(provenance),
    }


def make_example(questions: Questions, world: World) -> dict[str, Any]:
    """A question of the test split for the web page to start with, and the true median RTT.

    It is the first unseen IPv4 pair whose context has ten answered measurements, none of the pair itself.
    It has no timestamps: they are optional, and little of an RTT depends on them."""
    queries = questions.queries.with_context(EXAMPLE_CONTEXT)
    fits = (
        questions.groups(queries)["unseen_pairs"]
        & ~queries.context_has_pair
        & np.isfinite(queries.context_rtt_ms).all(1)
        & is_ipv4(queries.addresses[queries.src])
        & np.isfinite(questions.rtt_ms)
    )
    at = int(np.argmax(fits))
    one = queries.take(slice(at, at + 1))
    src, dst = one.addresses[one.src], one.addresses[one.dst]
    query = without_time(rtt_queries(one)[0])
    return {
        "src": str(query.src),
        "dst": str(query.dst),
        "time": None,
        "context": [
            {
                "src": str(row.src),
                "dst": str(row.dst),
                "rtt_ms": None if row.rtt_ms is None else round(row.rtt_ms, 3),
                "time": None,
            }
            for row in query.context
        ],
        "true_median_ms": round(float(world.distribution(src, dst, one.seconds).median()[0]), 3),
    }


def write_card(
    run: Path, report: Path, stores: StorePaths, truth: Path | None, out: Path
) -> dict[str, Any]:
    """Write card.json and README.md into the exported model `out`, and return what the first holds.

    Raises what opening the report, the store and the truth raises, and `OutputError`."""
    card = make_card(
        run,
        read_report(report),
        open_stores(stores),
        World.load(truth) if truth else None,
        training_seconds(run),
    )
    parameters = count_parameters(RunRecord.read(run / RECORD_FILE).config.model)["total"]
    write_card_files(out, card, parameters)
    return card


def training_seconds(run: Path) -> float:
    """How long the steps of a run took, from its log lines: tokens divided by tokens per second."""
    file = run / METRICS_FILE
    lines = MetricsLine.read_lines(file)
    config = RunRecord.read(run / RECORD_FILE).config
    tokens = config.train.batch_size * config.model.context
    steps = np.diff([0, *(line.step for line in lines)])
    return float(sum(steps * tokens / np.array([line.tokens_per_second for line in lines])))
