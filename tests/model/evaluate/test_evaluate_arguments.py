"""What `evaluate` is given: names of models, a store without answers, a folder that cannot be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.evaluate.comparison import compare
from model.evaluate.evaluate import make_report, name_models
from stores.errors import CheckpointError, ConfigError
from tests.helpers import windows_of_mode, write_store
from tests.model.evaluate.conftest import command
from tests.model.evaluate.small_rows import Constant


def test_models_are_named_by_their_folders_where_these_differ() -> None:
    assert list(name_models(["runs/a", "runs/b", "pretrained"])) == ["a", "b", "pretrained"]
    assert list(name_models(["x/a", "y/a"])) == ["x/a", "y/a"]
    with pytest.raises(ConfigError, match="--model runs/a: given twice"):
        name_models(["runs/a", "runs/a"])


def test_two_predictors_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two predictors are named constant"):
        compare(None, [Constant(1.0), Constant(2.0)])  # type: ignore[arg-type]


def test_what_is_not_a_model_is_refused_before_the_store_is_read(simulated: Path) -> None:
    told: list[str] = []
    with pytest.raises(CheckpointError, match="does not exist"):
        make_report(simulated, ["nowhere"], progress=lambda what, done, total: told.append(what))
    assert not told


def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    """At the start: before it is seen that there is no such store."""
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file")
    done = command("evaluate", "--store", str(tmp_path / "no store"), "--out", out)
    assert done.returncode == 1
    assert done.stderr == f"error: {out}: cannot be a folder (File exists): name another\n"


def test_a_split_without_answers_is_refused(tmp_path: Path) -> None:
    counts = {"train": 0, "test": 0}
    arrays = {
        (split, mode): windows_of_mode([], mode)
        for split in counts
        for mode in ("full", "none", "mixed")
    }
    path = write_store(tmp_path / "store.zarr", arrays, counts)
    with pytest.raises(ConfigError, match="train has no answered row"):
        make_report(path)
