"""The options of `predict-rtt`, before a model is loaded."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cli import app

SRC, DST = "193.0.2.1", "198.51.101.8"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected SRC and DST, or --pairs FILE --out FILE"),
        ([SRC], "expected SRC and DST, or --pairs FILE --out FILE"),
        ([SRC, DST, "--out", "a.csv"], "--out and --matrix apply only to --pairs"),
        ([SRC, DST, "--matrix"], "--out and --matrix apply only to --pairs"),
        ([SRC, DST, "--pairs", "p.csv"], "expected SRC and DST, or --pairs FILE, and not both"),
        (["--pairs", "p.csv"], "--pairs needs --out FILE: .csv, .jsonl or .parquet"),
    ],
)
def test_one_pair_and_a_file_of_pairs_are_not_mixed_up(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["predict-rtt", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in result.output
