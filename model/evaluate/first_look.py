"""What a model is worth right after its training: a few hundred test rows, in milliseconds.

`evaluate` asks more rows, more predictors and more questions; this takes a minute, so that `train` can end
with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from model.evaluate.predictors.coordinates import Dmfsgd, pair_medians
from model.evaluate.predictors.histories import fit_histories
from model.evaluate.predictors.trained import ModelPredictor
from model.evaluate.questions import Predictor, Queries, Questions, choose_questions
from model.inference.ping_model import PingModel
from model.run_folder import FIRST_LOOK_FILE, WITH_CONTEXT, WITHOUT_CONTEXT, FirstLook
from stores.files import write_json
from stores.program import command
from stores.rows import Rows, read_rows
from stores.union import Store, StorePaths, listed, open_stores

EACH = 150  # rows asked of each group
MOST_ROWS = 10_000_000
"""Of all stores; reading more and fitting baselines to them would take longer than a look is worth."""
GROUPS = ("seen_pairs", "unseen_pairs", "unseen_sources")


def look_at(store: Store, run: Path, steps: int) -> FirstLook | None:
    """Ask a finished run, DMFSGD and the history of each pair the same test rows; `None` if a split of the
    store has no answered row. Raises what reading the store or the model raises."""
    train, test = read_rows(store)
    if train.failed.all() or test.failed.all():
        return None
    questions = choose_questions(train, _some_of_each(train, test), None)
    histories = fit_histories(train)
    by_destination = next(p for p in histories if p.name == "destination_median")
    history: Predictor = next(p for p in histories if p.name == "pair_median")
    dmfsgd = Dmfsgd(pair_medians(train), len(train.addresses), by_destination)
    trained = ModelPredictor("model", PingModel.load(run), with_time=False)
    queries = questions.queries
    asked: dict[str, tuple[Predictor, Queries]] = {
        WITHOUT_CONTEXT: (trained, queries.with_context(0)),
        WITH_CONTEXT: (trained, queries),
        "DMFSGD": (dmfsgd, queries),
        "history of the pair": (history, queries),
    }
    errors = {name: _errors(questions, *of) for name, of in asked.items()}
    return FirstLook(steps, _counts(questions), errors)


def take_first_look(
    paths: StorePaths, run: Path, steps: int, note: Callable[[str], None]
) -> FirstLook | None:
    """The first look at a run of so many steps, kept in RUN/first_look.json and taken again after more.

    `None` if the store is too large, or has nothing to ask; `note` is told that, and what is going on.
    Raises what opening the store raises, and as `look_at`.
    """
    kept = run / FIRST_LOOK_FILE
    if kept.exists() and (last := FirstLook.read(kept)).steps == steps:
        return last
    store = open_stores(paths)
    if sum(part.manifest.ledger.rows for part in store.parts) > MOST_ROWS:
        note(f"{store.name}: too large for a first look: run `{evaluation_command(paths, run)}`")
        return None
    note("a first look: asking the model some hundred test rows")
    look = look_at(store, run, steps)
    if look is None:
        note(f"{store.name}: no first look: a split has no answered row")
    else:
        write_json(kept, look.as_dict())
    return look


def evaluation_command(stores: StorePaths, run: Path) -> str:
    """The command that says more than a first look does."""
    named = [part for path in listed(stores) for part in ("--store", path)]
    return command("evaluate", *named, "--model", run, "--out", run / "report")


def _some_of_each(train: Rows, test: Rows) -> Rows:
    """At most `EACH` answered test rows of each group, drawn uniformly."""
    random = np.random.default_rng(0)
    known_source = np.isin(test.src, train.src)
    known_pair = np.isin(test.pair, train.pair)
    chosen = []
    for group in (known_pair, known_source & ~known_pair, ~known_source):
        rows = np.flatnonzero(group & ~test.failed)
        chosen.append(random.choice(rows, min(EACH, len(rows)), replace=False))
    return test.take(np.sort(np.concatenate(chosen)))


def _counts(questions: Questions) -> dict[str, int]:
    groups = questions.groups()
    return {name: int(groups[name].sum()) for name in GROUPS if groups[name].any()}


def _errors(questions: Questions, predictor: Predictor, queries: Queries) -> dict[str, float]:
    error = np.abs(predictor.predict(queries).median_ms - questions.rtt_ms)
    groups = questions.groups()
    return {name: float(np.median(error[groups[name]])) for name in _counts(questions)}
