"""Tables of PyArrow and Polars as questions to a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from model.inference.bulk import COLUMNS, Contexts, Predictor, answer_pairs, matrix_of, pairs_of
from model.inference.context_file import measurement_of
from stores.codec import Measurement
from stores.errors import QueryError


class TableAnswers:
    """What `PingModel` does with tables."""

    def predict_rtt_table(
        self: Predictor,
        table: Any,
        context: Iterable[Measurement] | Any = (),
        time: float | None = None,
        matrix: bool = False,
    ) -> Any:
        """`predict_rtt` for each row of a table of PyArrow or Polars, as a table of the same library.

        `table` has the columns `src` and `dst`, and may have `time` (or `src_addr`, `dst_addr`, `event_time`);
        where a row has none, `time` holds. `context` holds measurements, or is a table of them with `rtt_ms`
        (or `rtt`) as well; each row is asked with the last ones of its source, and the last few of its pair. With
        `matrix`, every source is asked with every destination of its family. Returns the columns of
        `model.inference.bulk.COLUMNS`, a row for each row: where it cannot be asked, `problem` says why.
        Needs PyArrow. Raises `InputError` for a table without these columns.
        """
        from stores.measurements.arrow_tables import rows_of_table, table_like

        asked = list(pairs_of(rows_of_table(table), time))
        if matrix:
            asked = list(matrix_of(asked, time))
        contexts = Contexts(asked, self.config.context)
        for measurement in _measurements(context):
            contexts.add(measurement)
        answers = [answer for chunk in answer_pairs(self, asked, contexts) for answer in chunk]
        return table_like(table, answers, COLUMNS)


def _measurements(context: Any) -> Iterable[Measurement]:
    """Measurements as they are, or those of a table that can be used."""
    from stores.measurements.arrow_tables import rows_of_table

    if not hasattr(context, "__arrow_c_stream__"):
        yield from context
        return
    for row in rows_of_table(context):
        try:
            yield measurement_of(row)
        except QueryError:
            continue
