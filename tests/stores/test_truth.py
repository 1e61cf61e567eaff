"""The truth about the simulated Internet: distributions, any pair of addresses, its file."""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.simulate.schedule import build_internet
from stores.errors import InputError
from stores.truth import KM_PER_RTT_MS, RttDistribution, World, pack_addresses


@pytest.fixture(scope="module")
def internet():
    return build_internet(seed=3, networks=48, probes=60, targets=80)


def distribution(rows: int = 1) -> RttDistribution:
    one = np.ones(rows)
    return RttDistribution(20 * one, 2 * one, 2.5 * one, 0.1 * one)


def grid(world, schedule, ipv6: bool):
    """Packed addresses of every (source, target) pair of one family."""
    src = schedule.sources.packed[schedule.sources.ipv6 == ipv6]
    dst = schedule.targets.packed[schedule.targets.ipv6 == ipv6]
    return np.repeat(src, len(dst), axis=0), np.tile(dst, (len(src), 1))


def test_quantile_inverts_cdf_and_median_is_the_half():
    one = distribution()
    for p in (0.01, 0.25, 0.5, 0.9, 0.999):
        assert one.cdf(one.quantile(p)) == pytest.approx(p)
    assert one.quantile(0.5) == pytest.approx(one.median())
    assert one.cdf(19.9) == 0
    assert one.cdf(20.0) == 0
    assert one.cdf(np.inf) == 1


def test_mean_equals_the_average_over_quantiles():
    p = (np.arange(2_000_000) + 0.5) / 2_000_000
    one = distribution()
    assert np.mean(one.quantile(p)) == pytest.approx(one.mean()[0], rel=1e-3)


@pytest.mark.parametrize("ipv6", [False, True])
def test_noise_free_rtt_is_finite_positive_and_never_beats_light_in_fibre(internet, ipv6):
    world, schedule = internet
    src, dst = grid(world, schedule, ipv6)
    rtt = world.noise_free_rtt(src, dst)
    assert np.isfinite(rtt).all()
    anycast = world.prefix_anycast[world.find_prefix(dst)] >= 0
    src_city, dst_city = (world.prefix_city[world.find_prefix(x)] for x in (src, dst))
    assert (rtt > 0).all()
    assert anycast.any()
    light = world.distance_km[src_city, dst_city] / KM_PER_RTT_MS
    assert (rtt[~anycast] > light[~anycast]).all()


def test_noise_free_rtt_is_the_same_both_ways(internet):
    world, schedule = internet
    src, dst = grid(world, schedule, ipv6=True)
    unicast = world.prefix_anycast[world.find_prefix(dst)] < 0
    src, dst = src[unicast], dst[unicast]
    np.testing.assert_allclose(world.noise_free_rtt(src, dst), world.noise_free_rtt(dst, src))


def test_anycast_reaches_the_nearest_instance(internet):
    world, _ = internet
    for service, instances in enumerate(world.anycast_city):
        distance = world.distance_km[:, instances[instances >= 0]]
        chosen = world.nearest_instance[service]
        cities = np.arange(len(chosen))
        np.testing.assert_array_equal(world.distance_km[cities, chosen], distance.min(axis=1))


def test_great_circle_distances_of_known_places(internet):
    world, _ = internet
    at = {name: number for number, name in enumerate(world.city_name)}
    for a, b, km in (("London", "New York", 5570), ("Sydney", "Santiago", 11340)):
        assert world.distance_km[at[a], at[b]] == pytest.approx(km, rel=0.01)


def test_any_host_of_a_known_prefix_has_a_truth(internet):
    world, schedule = internet
    host = pack_addresses([schedule.targets.text[0].rsplit(".", 1)[0] + ".77"])
    assert np.isfinite(world.noise_free_rtt(schedule.sources.packed[:1], host)).all()


def test_unknown_pairs_are_nan_in_every_field(internet):
    world, schedule = internet
    ipv4, ipv6 = schedule.sources.text[0], schedule.sources.text[-1]
    anycast = schedule.targets.text[int(np.flatnonzero(schedule.targets.anycast)[0])]
    pairs = [
        (ipv4, "192.0.2.1"),
        ("10.0.0.1", schedule.targets.text[0]),
        (ipv4, ipv6),
        (anycast, ipv4),
        (ipv6, "::2a00:1:1:1"),
        ("255.255.255.255", "::"),
    ]
    src, dst = (pack_addresses(side) for side in zip(*pairs, strict=True))
    truth = world.distribution(src, dst, np.full(len(pairs), 1_750_000_000))
    for values in (truth.noise_free_ms, truth.jitter_ms, truth.p_failed, truth.mean()):
        assert np.isnan(values).all()


def test_jitter_peaks_in_the_evening_of_the_source(internet):
    world, schedule = internet
    src, dst = grid(world, schedule, ipv6=False)
    paths = world.paths(src[:1], dst[:1])
    time = 1_750_000_000 + np.arange(0, 86_400, 60)
    jitter = np.concatenate([paths.at(now).jitter_ms for now in time])
    hour = (time / 3600 + paths.longitude[0] / 15) % 24
    assert hour[jitter.argmax()] == pytest.approx(21, abs=0.05)
    assert jitter.max() > jitter.min()
    np.testing.assert_allclose(jitter[(hour > 3.1) & (hour < 14.9)], paths.quiet_jitter_ms[0])


def test_saved_world_is_the_same_world_in_the_same_bytes(internet, tmp_path):
    world, schedule = internet
    world.save(tmp_path / "world.npz")
    loaded = World.load(tmp_path / "world.npz")
    loaded.save(tmp_path / "again.npz")
    assert (tmp_path / "world.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    src, dst = grid(world, schedule, ipv6=False)
    now = np.full(len(src), 1_750_000_000)
    for p in (0.1, 0.9):
        np.testing.assert_array_equal(
            world.distribution(src, dst, now).quantile(p),
            loaded.distribution(src, dst, now).quantile(p),
        )


def test_a_file_that_is_not_a_world_is_one_clear_error(internet, tmp_path):
    world, _ = internet
    missing, garbage = tmp_path / "missing.npz", tmp_path / "garbage.npz"
    short, other, empty = (tmp_path / f"{name}.npz" for name in ("short", "other", "empty"))
    garbage.write_bytes(b"not a zip")
    empty.touch()
    world.save(short)
    short.write_bytes(short.read_bytes()[:5000])
    np.savez(other, something=np.arange(3))
    for path in (missing, garbage, short, other, empty):
        with pytest.raises(InputError, match=path.name):
            World.load(path)


def test_packed_addresses_are_high_and_low_halves():
    packed = pack_addresses(["1.2.3.4", "2a00:1::5"])
    assert packed.dtype == np.uint64
    assert packed.tolist() == [[0, 0x01020304], [0x2A00_0001_0000_0000, 5]]
    assert pack_addresses([]).shape == (0, 2)
    with pytest.raises(ValueError, match="example"):
        pack_addresses(["example.org"])


def test_truth_needs_only_numpy():
    code = (
        "import sys, stores.truth; "
        "found = {'polars', 'pyarrow', 'numba', 'pipeline', 'zarr'} & set(sys.modules); "
        "print(*found); sys.exit(bool(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
