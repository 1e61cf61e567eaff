"""A folder and an executor in this process, as most tests of stages want them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.folder import open_folder
from pipeline.inputs import find_inputs
from pipeline.records import SplitRecord, TokenizeRecord
from pipeline.split.stage import SplitOptions, split, tables_of
from pipeline.tokenize.stage import TokenizeOptions, tokenize
from pipeline.units import open_executor


def no_progress(stage: str, done: int, total: int) -> None:
    """A progress callback that shows nothing."""


@pytest.fixture
def run_split() -> Callable[..., SplitRecord]:
    """split(inputs, out, **options) -> record, on one worker."""

    def run(inputs: list[Path], out: Path, **options: Any) -> SplitRecord:
        with open_folder(out) as folder, open_executor(1) as executor:
            tables = tables_of(find_inputs(inputs))
            return split(tables, folder, SplitOptions(**options), executor, no_progress)

    return run


@pytest.fixture
def run_tokenize() -> Callable[..., TokenizeRecord]:
    """tokenize(out, **options) -> record, on one worker."""

    def run(out: Path, **options: Any) -> TokenizeRecord:
        with open_folder(out) as folder, open_executor(1) as executor:
            return tokenize(folder, TokenizeOptions(**options), executor, no_progress)

    return run
