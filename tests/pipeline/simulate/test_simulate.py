"""The simulated Internet: marginals, truth, determinism, restart, errors."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.folder import open_folder
from pipeline.simulate.stage import (
    MEASUREMENTS_SCHEMA,
    ROWS_PER_BLOCK,
    TRUTH_SCHEMA,
    SimulateOptions,
    simulate,
    simulate_file,
)
from pipeline.simulate.summary import MARGINALS
from pipeline.simulate.world import quotas
from pipeline.units import open_executor
from stores.errors import ConfigError
from stores.files import sha256_file
from stores.truth import World, pack_addresses

SMALL = SimulateOptions(rows=20_000, networks=24, probes=24, targets=64)


def silent(stage: str, done: int, total: int) -> None:
    pass


def run(path, options: SimulateOptions, workers: int = 1):
    with open_folder(path) as folder, open_executor(workers) as executor:
        return simulate(folder, options, executor, silent)


def digests(path) -> dict[str, str]:
    files = [file for kind in ("measurements", "truth") for file in (path / kind).iterdir()]
    return {str(file.relative_to(path)): sha256_file(file) for file in files}


@pytest.fixture(scope="module")
def million(tmp_path_factory):
    """Folder and record of a million rows of the default world, four blocks."""
    path = tmp_path_factory.mktemp("million")
    return path, run(path, SimulateOptions(rows=1_000_000))


@pytest.fixture(scope="module")
def rows(million):
    path, _ = million
    measured = pl.read_parquet(path / "measurements/*.parquet")
    truth = pl.read_parquet(path / "truth/*.parquet")
    assert measured.select("event_time", "src_addr", "dst_addr").equals(
        truth.select(pl.nth(0, 1, 2))
    )
    return measured.hstack(truth.select(pl.nth(3, 4, 5, 6, 7)))


def marginals(rows: pl.DataFrame) -> dict[str, float]:
    """The marginals, computed from the rows alone."""
    answered = rows.filter(pl.col("rtt") >= 0)["rtt"]
    streams = rows.sort("src_addr", "event_time")
    gap = streams.select(pl.col("event_time").diff().over("src_addr").dt.total_seconds())
    found = {"ipv4": (rows["ip_version"] == 4).mean(), "failed": (rows["rtt"] < 0).mean()}
    for name in list(MARGINALS)[2:]:
        kind, percent, _ = name.split("_")
        values = answered if kind == "rtt" else gap.to_series().drop_nulls()
        found[name] = values.quantile(float(percent[1:]) / 100)
    return found


def test_marginals_are_those_of_the_corpus(rows, million):
    found = marginals(rows)
    for name, wanted in MARGINALS.items():
        assert found[name] == pytest.approx(wanted, rel=0.15), name
    for name, said in million[1].marginals.items():
        assert said == pytest.approx(found[name], rel=0.01), name


@pytest.mark.parametrize("seed", [1, 2])
def test_marginals_hold_for_other_seeds_and_fewer_rows(tmp_path, seed):
    found = run(tmp_path, SimulateOptions(rows=100_000, seed=seed)).marginals
    for name, wanted in MARGINALS.items():
        assert found[name] == pytest.approx(wanted, rel=0.15), name


def test_rows_are_canonical(rows, million):
    path, record = million
    for part in record.outputs:
        assert pq.read_schema(path / part.path).equals(MEASUREMENTS_SCHEMA)
        assert (path / part.path).stat().st_size == part.size
    for part in record.truth:
        assert pq.read_schema(path / part.path).equals(TRUTH_SCHEMA)
    assert sum(part.rows for part in record.outputs) == record.rows == len(rows)
    assert sum(rows.null_count().row(0)) == 0
    assert (rows["event_time"].dt.microsecond() == 0).all()
    for name in ("src_addr", "dst_addr"):
        for text, version in rows.select(name, "ip_version").unique().iter_rows():
            assert ip_address(text).is_global
            assert ip_address(text).version == version


def test_failures_and_lost_packets_agree(rows):
    failed = rows["rtt"] < 0
    assert (rows["rtt"].filter(failed) == -1).all()
    assert ((rows["packet_error_count"] == 3) == failed).all()
    assert set(rows["packet_error_count"].unique()) == {0, 1, 2, 3}
    rtt = rows["rtt"].filter(~failed)
    assert (rtt.round(3) == rtt).all()  # whole microseconds


def test_a_measurement_is_identified_by_measurement_probe_and_time(rows):
    assert not rows.select("msm_id", "prb_id", "event_time").is_duplicated().any()
    streams = rows.sort("src_addr", "event_time")
    gap = streams.select(pl.col("event_time").diff().over("src_addr")).to_series().drop_nulls()
    assert gap.min().total_seconds() > 0
    assert rows.group_by("src_addr").agg(pl.col("prb_id").n_unique())["prb_id"].max() == 1


def test_truth_rows_are_what_the_world_says(rows, million):
    world = World.load(million[0] / "truth/world.npz")
    some = rows.sample(5_000, seed=0)
    src, dst = (pack_addresses(some[name]) for name in ("src_addr", "dst_addr"))
    truth = world.distribution(src, dst, some["event_time"].dt.epoch("s").to_numpy())
    assert set(some["jitter"]) == {"log-logistic"}
    for name, values in (
        ("noise_free_rtt_ms", truth.noise_free_ms),
        ("jitter_scale_ms", truth.jitter_ms),
        ("jitter_shape", truth.jitter_shape),
        ("p_failed", truth.p_failed),
    ):
        np.testing.assert_array_equal(some[name].to_numpy(), values)


def test_rtts_and_failures_follow_their_truth(rows, million):
    world = World.load(million[0] / "truth/world.npz")
    some = rows.sample(100_000, seed=1)
    src, dst = (pack_addresses(some[name]) for name in ("src_addr", "dst_addr"))
    truth = world.distribution(src, dst, some["event_time"].dt.epoch("s").to_numpy())
    rtt = some["rtt"].to_numpy()
    tenths = np.histogram(truth.cdf(rtt)[rtt >= 0], 10, (0, 1))[0]
    assert tenths / tenths.sum() == pytest.approx(0.1, abs=0.005)  # 5 standard deviations
    deviation = np.sqrt((truth.p_failed * (1 - truth.p_failed)).sum())
    assert (rtt < 0).sum() == pytest.approx(truth.p_failed.sum(), abs=5 * deviation)


def test_a_share_of_pairs_is_new_in_the_last_tenth(rows, million):
    cut = rows["event_time"].quantile(0.9)
    early = rows.filter(pl.col("event_time") < cut).select("src_addr", "dst_addr").unique()
    late = rows.filter(pl.col("event_time") >= cut).select("src_addr", "dst_addr").unique()
    new = len(late.join(early, on=["src_addr", "dst_addr"], how="anti")) / len(late)
    assert 0.10 < new < 0.17
    assert million[1].new_pairs_in_last_tenth == pytest.approx(new, abs=0.01)


def test_a_window_of_64_covers_many_targets(rows):
    streams = rows.sort("src_addr", "event_time").with_columns(
        window=pl.int_range(pl.len()).over("src_addr") // 64
    )
    windows = streams.group_by("src_addr", "window").agg(pl.col("dst_addr").n_unique(), pl.len())
    assert windows.filter(pl.col("len") == 64)["dst_addr"].quantile(0.05) > 45


def test_addresses_tell_the_rtt(rows):
    """Networks of both ends (two bytes each) explain most of log RTT; shuffled, they explain little."""
    ipv4 = rows.filter((pl.col("ip_version") == 4) & (pl.col("rtt") > 0)).select(
        y=pl.col("rtt").log(),
        src=pl.col("src_addr").str.extract(r"^(\d+\.\d+)"),
        dst=pl.col("dst_addr").str.extract(r"^(\d+\.\d+\.\d+)"),
    )

    def explained(table: pl.DataFrame) -> float:
        rest = table.with_columns(pl.col("y") - pl.col("y").mean().over("src", "dst"))
        return 1 - rest["y"].var() / table["y"].var()

    assert explained(ipv4) > 0.85
    shuffled = ipv4.with_columns(pl.col("y").shuffle(seed=0))
    assert explained(shuffled) < 0.2


def test_more_rows_are_more_of_the_same_world(tmp_path):
    run(tmp_path / "few", SMALL)
    run(tmp_path / "many", replace(SMALL, rows=40_000))
    few, many = tmp_path / "few", tmp_path / "many"
    assert sha256_file(few / "truth/world.npz") == sha256_file(many / "truth/world.npz")
    ends = []
    for path in (few, many):
        table = pl.read_parquet(path / "measurements/*.parquet")
        ends.append((set(table["src_addr"]), table["event_time"].max(), table["event_time"].min()))
    assert ends[0][0] == ends[1][0]
    assert abs((ends[0][1] - ends[1][1]).total_seconds()) < 600
    assert ends[1][2] < ends[0][2]
    run(tmp_path / "other", replace(SMALL, seed=1))
    other = tmp_path / "other/truth/world.npz"
    assert sha256_file(few / "truth/world.npz") != sha256_file(other)


def test_two_processes_write_the_bytes_of_one(million, tmp_path):
    record = run(tmp_path / "two", SimulateOptions(rows=1_000_000), workers=2)
    assert len(record.outputs) == 1_000_000 // ROWS_PER_BLOCK
    assert digests(tmp_path / "two") == digests(million[0])


def test_a_simulation_killed_and_run_again_ends_in_the_same_bytes(million, tmp_path):
    path = tmp_path / "killed"
    code = f"""
from pathlib import Path
from tests.pipeline.simulate.test_simulate import SimulateOptions, run
run(Path({str(path)!r}), SimulateOptions(rows=1_000_000))
"""
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "."})
    markers = path / ".pinglm/simulate/units"
    deadline = time.monotonic() + 60
    while not any(markers.glob("block-*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it finished before it could be killed"
    assert any(markers.glob("block-*.json"))
    assert not (path / ".pinglm/simulate.json").exists()
    record = run(path, SimulateOptions(rows=1_000_000))
    assert record.marginals == million[1].marginals
    expected = digests(million[0])
    assert {name: sha256_file(path / name) for name in expected} == expected


def test_one_file_has_the_rows_of_the_folder(tmp_path):
    options = replace(SMALL, rows=ROWS_PER_BLOCK + 1)
    run(tmp_path / "folder", options)
    out = tmp_path / "sim.parquet"
    with open_executor(1) as executor:
        record = simulate_file(out, options, executor, silent)
    names = {"sim.parquet", "sim.truth.parquet", "sim.world.npz"}
    assert {path.name for path in tmp_path.iterdir()} == names | {"folder"}
    assert [part.path for part in record.outputs] == ["sim.parquet"]
    for file, parts in ((out, "measurements"), (tmp_path / "sim.truth.parquet", "truth")):
        whole = pl.read_parquet(file)
        assert whole.equals(pl.read_parquet(tmp_path / "folder" / parts / "*.parquet"))
    assert pq.read_schema(out).equals(MEASUREMENTS_SCHEMA)


def test_finished_stage_is_not_done_again_and_other_options_are_refused(tmp_path):
    first = run(tmp_path, SMALL)
    before = (tmp_path / "measurements/part-00000.parquet").stat().st_mtime_ns
    assert run(tmp_path, SMALL) == first
    assert (tmp_path / "measurements/part-00000.parquet").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="seed 0, not 1"):
        run(tmp_path, replace(SMALL, seed=1))


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"seed": -1}, {"networks": 2}, {"targets": 1}])
def test_options_out_of_range_are_one_clear_line(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} .* expected"):
        SimulateOptions(**wrong)


def test_the_smallest_world_and_a_single_row_work(tmp_path):
    smallest = SimulateOptions(rows=1, networks=16, probes=8, targets=32)
    assert run(tmp_path, smallest).pairs == 1


def test_quotas_sum_exactly_and_stay_within_one():
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    for count in (0, 1, 7, 1000):
        parts = quotas(shares, count)
        assert parts.sum() == count
        assert (abs(parts - shares * count) < 1).all()


def test_command_prints_only_json_and_names_its_files(tmp_path):
    out = tmp_path / "sim.parquet"
    command = [sys.executable, "cli.py", "simulate", "--rows", "1000", "--out", str(out)]
    done = subprocess.run(
        [*command, "--workers", "1", "--json"], capture_output=True, text=True, check=True
    )
    record = json.loads(done.stdout)
    assert pq.ParquetFile(out).metadata.num_rows == record["rows"] == 1000
    for name in (record["truth"][0]["path"], record["world"]):
        assert (tmp_path / name).exists()


def test_command_refuses_a_folder_in_one_line(tmp_path):
    command = [sys.executable, "cli.py", "simulate", "--rows", "10", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is a folder" in done.stderr
