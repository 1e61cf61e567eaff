"""Tables in an export without the rows that were never touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.inference.export import read_export, write_export
from model.inference.trimmed import restore_tables, trim_tables, whole_shapes
from model.inference.weights import Weights
from stores.errors import CheckpointError
from tests.model.conftest import small_config

HERE = Path("model.safetensors")


def tables(rows: int = 1000, used: int = 100) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    arrays = {"head": random.normal(size=(4, 5)).astype(np.float32)}
    for name in ("lookups.prefix", "lookups.carried", "lookups.factors"):
        arrays[name] = np.zeros((rows, 6), np.float32)
        touched = random.choice(rows, used, replace=False)
        arrays[name][touched] = random.normal(size=(used, 6))
    return arrays


@pytest.mark.parametrize("used", [0, 1, 100, 1000])
def test_what_was_trimmed_comes_back_as_it_was(used: int) -> None:
    arrays = tables(used=used)
    trimmed = trim_tables(arrays)
    assert len(trimmed["lookups.prefix"]) <= max(used + 16, 16)
    shapes = {name: array.shape for name, array in trimmed.items()}
    whole = whole_shapes(shapes, 1000, HERE)
    assert whole == {name: array.shape for name, array in arrays.items()}
    restored = restore_tables(trimmed, 1000, HERE)
    assert restored.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(restored[name], array)


def test_a_small_file_cannot_ask_for_a_large_table() -> None:
    shapes = {name: array.shape for name, array in trim_tables(tables()).items()}
    with pytest.raises(CheckpointError, match="cannot be a table of 1000000000 rows"):
        whole_shapes(shapes, 10**9, HERE)


@pytest.mark.parametrize("numbers", [[3, 3], [5, 4], [-1, 4], [4, 1000]])
def test_impossible_row_numbers_are_refused(numbers: list[int]) -> None:
    arrays = {
        "lookups.prefix": np.ones((2, 6), np.float32),
        "lookups.prefix.rows": np.array(numbers, np.int32),
    }
    with pytest.raises(CheckpointError, match=r"lookups\.prefix\.rows does not ascend"):
        restore_tables(arrays, 1000, HERE)


def test_a_table_without_as_many_numbers_as_rows_is_refused() -> None:
    shapes = {"lookups.prefix": (100, 6), "lookups.prefix.rows": (99,)}
    with pytest.raises(CheckpointError, match="cannot be a table"):
        whole_shapes(shapes, 1000, HERE)


def test_an_export_of_a_model_with_tables_is_small_and_whole(tmp_path: Path) -> None:
    import jax
    from flax import nnx

    from model.network.named_weights import flatten_dict
    from model.network.transformer import Transformer

    config = small_config(prefix_rows=65_536).model
    model = Transformer(config, jax.numpy.dtype("float32"), "xla", nnx.Rngs(0))
    flat = flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    arrays = {".".join(map(str, path)): np.array(leaf) for path, leaf in flat.items()}
    arrays["lookups.prefix"][5_000:7_000] = 1.5
    origin = {"store_digest": "", "code_version": "", "step": 1, "test_loss": None}
    write_export(Weights(config, arrays, origin), tmp_path / "model", "bfloat16")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert size < arrays["lookups.prefix"].nbytes / 8
    restored = read_export(tmp_path / "model").arrays
    np.testing.assert_array_equal(restored["lookups.prefix"], arrays["lookups.prefix"])
    assert restored.keys() == arrays.keys()
