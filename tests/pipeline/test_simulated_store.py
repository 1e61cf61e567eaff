"""Whether a store knows that its rows are simulated."""

from __future__ import annotations

from pathlib import Path

from stores.manifest import read_manifest
from stores.provenance import is_simulated
from stores.verify import verify_store
from tests.pipeline.tables import measurement_table, write_parquet
from tests.pipeline.test_prepare import prepare, run


def test_a_store_of_simulated_rows_says_so_even_if_they_came_in_a_file(tmp_path: Path) -> None:
    """A store of the user's own rows does not."""
    small = ("--rows", 4000, "--workers", 1)
    file, own, given = tmp_path / "sim.parquet", tmp_path / "own", tmp_path / "given"
    assert run("simulate", "--out", file, *small, "--networks", 16).returncode == 0
    assert run("prepare", "--out", own, *small).returncode == 0
    prepare(file, given)
    for folder in (own, given):
        assert is_simulated(read_manifest(folder / "store.zarr"))
        assert verify_store(folder / "store.zarr").sound
    assert "simulated" not in read_manifest(own / "store.zarr").configuration["split"]
    mine = write_parquet(measurement_table(500), tmp_path / "mine.parquet")
    prepare(mine, tmp_path / "mine")
    assert not is_simulated(read_manifest(tmp_path / "mine" / "store.zarr"))
    both = tmp_path / "both"
    found = run("prepare", "--input", file, "--input", mine, "--out", both, "--workers", 1)
    assert found.returncode == 0, found.stderr
    assert is_simulated(read_manifest(both / "store.zarr"))
