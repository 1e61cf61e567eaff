"""The card of a shipped model: what it was trained on, what it reached, and a question to begin with.

python -m model.card --run RUN --report DIR/report.json --store STORE --truth world.npz --out MODEL
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluate.predictors.trained import rtt_queries, without_time
from model.evaluate.questions import WITHOUT_TIME, Questions, choose_questions
from model.run_folder import (
    METRICS_FILE,
    RECORD_FILE,
    RESULT_FILE,
    MetricsLine,
    RunRecord,
    RunResult,
)
from stores import TokenStore
from stores.errors import CheckpointError
from stores.files import read_json_lines, write_json
from stores.rows import is_ipv4, read_rows
from stores.truth import World

CARD_FILE = "card.json"
EXAMPLE_CONTEXT = 10  # measurements
GROUPS = ("seen_pairs", "unseen_pairs")
CONTEXTS = ("0", "10", "30")  # measurements


def make_card(
    run: Path, report: dict[str, Any], store: TokenStore, world: World, seconds: float
) -> dict[str, Any]:
    """JSON-able: `data`, `training`, `evaluation`, `example`.

    `report` is `evaluate`'s of this run's export alone, `seconds` what training took. Reads the store's
    rows: a second for each million.
    """
    record = RunRecord.read(run / RECORD_FILE)
    result = RunResult.read(run / RESULT_FILE)
    if result.evaluation is None:
        raise CheckpointError(f"{run / RESULT_FILE}: has no evaluation")
    test = result.evaluation.as_dict()
    (name,) = report["models"]

    def rename(predictor: str) -> str:
        told = predictor.removesuffix(WITHOUT_TIME)
        return "model" + predictor.removeprefix(name) if told == name else predictor

    batch = record.config.train.batch_size * record.config.model.context
    return {
        "data": {
            "what": "the simulated Internet of `prepare` without --input",
            "rows": report["store"]["train_rows"] + report["store"]["test_rows"],
            "seed": store.manifest.configuration.get("simulate", {}).get("seed", 0),
            "store_digest": store.digest,
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
            "asked": report["questions"]["asked"],
            "median_abs_error_ms": {
                rename(predictor): {group: groups[group]["median_abs_error_ms"] for group in GROUPS}
                for predictor, groups in report["rtt"].items()
            },
            "unseen_pairs_by_context": {
                rename(predictor): {
                    size: by_size[size]["unseen_pairs"]["median_abs_error_ms"] for size in CONTEXTS
                }
                for predictor, by_size in report["rtt_by_context"].items()
            },
            "failure": {
                rename(predictor): {key: groups["all"][key] for key in ("auc", "brier")}
                for predictor, groups in report["failure"].items()
            },
        },
        "example": make_example(choose_questions(*read_rows(store), 2_000), world),
    }


def make_example(questions: Questions, world: World) -> dict[str, Any]:
    """A question of the test split as the page fills it in: the first IPv4 pair never seen, with ten
    answered measurements of context, none of the pair itself, and the median that is true. No times:
    the last of train lie further back than what the model has seen between two rows."""
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


def main() -> None:
    """Write card.json into an exported model."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("run", "report", "store", "truth", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    report = json.loads(given.report.read_bytes())
    store, world = TokenStore.open(given.store), World.load(given.truth)
    card = make_card(given.run, report, store, world, training_seconds(given.run))
    write_json(given.out / CARD_FILE, card)


def training_seconds(run: Path) -> float:
    """Time of a run's steps, from its log lines: tokens over tokens a second."""
    file = run / METRICS_FILE
    lines = [MetricsLine.from_dict(line, file) for line in read_json_lines(file)]
    config = RunRecord.read(run / RECORD_FILE).config
    tokens = config.train.batch_size * config.model.context
    steps = np.diff([0, *(line.step for line in lines)])
    return float(sum(steps * tokens / np.array([line.tokens_per_second for line in lines])))


if __name__ == "__main__":
    main()
