"""What `predict-rtt --pairs` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

from model.inference.bulk_file import BulkQuestion, BulkResult, answer_file, as_dict, check_out
from model.inference.grounds import NOTES, data_of
from stores.commands import print_json
from stores.terminal import Terminal


def one_or_many(
    src: str | None, dst: str | None, pairs: str | None, out: Path | None, matrix: bool
) -> None:
    """Raise a usage error unless the arguments ask about one pair, or about a file of pairs."""
    if pairs is None:
        if src is None or dst is None:
            raise typer.BadParameter("expected SRC and DST, or --pairs FILE --out FILE")
        if out is not None or matrix:
            raise typer.BadParameter("--out and --matrix apply only to --pairs")
    elif src is not None:
        raise typer.BadParameter("expected SRC and DST, or --pairs FILE, and not both")
    elif out is None:
        raise typer.BadParameter("--pairs needs --out FILE: .csv, .jsonl or .parquet")


def answer_command(question: BulkQuestion, model: str, as_json: bool) -> None:
    """Answer the pairs of a file, with a progress bar, and say what was written."""
    check_out(question.out)
    from model.devices import use_compile_cache
    from model.inference.bulk_file import weights_digest
    from model.inference.ping_model import PingModel, load_weights
    from stores.views import progress_bar

    use_compile_cache()
    weights = load_weights(model)
    with progress_bar("predict", silent=as_json) as progress:
        digest = weights_digest(weights.arrays)
        result = answer_file(PingModel(weights), digest, question, progress)
    if as_json:
        print_json(as_dict(result, question.out))
    else:
        for line in result_lines(result, question):
            Terminal().print(line, soft_wrap=True)
        if note := NOTES.get(data_of(weights.provenance)):
            Terminal().print(f"The answers are {note}.")


def result_lines(result: BulkResult, question: BulkQuestion) -> list[str]:
    """What was written, in words."""
    lines = [f"{question.out}: {result.rows:,} rows, {result.answered:,} answered"]
    if result.problems:
        what = "left out of the matrix" if question.matrix else "not answered: `problem` says why"
        lines.append(f"{question.pairs}: {_counted(result.problems)} {what}")
    if result.context_left_out:
        lines.append(f"{question.context}: {_counted(result.context_left_out)} left out")
    return lines


def _counted(reasons: Mapping[str, int]) -> str:
    total = sum(reasons.values())
    each = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
    return f"{total:,} row{'s' * (total != 1)} ({each})"
