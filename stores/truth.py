"""The simulated Internet as plain arrays: the true RTT distribution of any two of its addresses.

An answered RTT is noise-free RTT + jitter. The noise-free RTT of a pair of addresses is

    2 · great-circle distance / (2/3 · c) · inflation + metro detour + access delay at both ends

and the jitter is log-logistic: one mode, a power-law tail, closed forms of quantile, CDF and mean.
Its scale (which is its median) rises in the evening at the source. docs/simulation.md names the
literature. `pipeline.simulate.stage` draws its rows from these same functions; using them needs only NumPy.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stores.errors import InputError
from stores.files import atomic_path
from stores.hashing import keyed

KM_PER_RTT_MS = 299.792458 * 2 / 3 / 2
"""Great-circle km in one ms of RTT: there and back in fibre, at 2/3 of the speed of light."""
EARTH_RADIUS_KM = 6371.0
METRO_DETOUR_MS = 0.4  # both metro rings and the exchange point; what a same-city path has left
INFLATION_RANGE = (1.15, 3.5)  # of a path's length over the great circle
INFLATION_SPREAD = 0.2  # of log(inflation - 1), from one pair of places to another
ACCESS_SPREAD = 0.28  # of log(access delay), from one address of a prefix to another
JITTER_PER_PROPAGATION = 0.003  # long paths cross more queues
EVENING_HOUR = 21.0  # local solar hour of the busiest moment
P_FAILED_OF_DEAD = 0.985
MAX_P_FAILED_OF_LIVE = 0.5

_ACCESS, _INFLATION, _HOST_FAILURE, _PATH_FAILURE = range(4)  # what a hash is for

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]


def pack_addresses(addresses: Iterable[IPv4Address | IPv6Address | str]) -> Words:
    """(n, 2) uint64 of n addresses: high and low half; an IPv4 address is a low half.

    Raises `ValueError` for text that is no address.
    """
    numbers = [int(ip_address(address)) for address in addresses]
    halves = [(number >> 64, number & (2**64 - 1)) for number in numbers]
    return np.array(halves, np.uint64).reshape(-1, 2)


def keyed_normal(key: int, *words: NDArray[Any]) -> Floats:
    """Hash as a bell-shaped number of mean 0 and standard deviation 1 (logistic), within ±20."""
    uniform = ((keyed(*words, start=key) >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    normal: Floats = np.log(uniform / (1 - uniform)) * (np.sqrt(3) / np.pi)
    return normal


def great_circle_km(latitude: Floats, longitude: Floats) -> Floats:
    """(n, n) distances between n places in degrees, on a sphere (haversine formula)."""
    latitude, longitude = np.radians(latitude), np.radians(longitude)
    across = np.sin((latitude[:, None] - latitude) / 2) ** 2
    along = np.sin((longitude[:, None] - longitude) / 2) ** 2
    half = across + np.cos(latitude[:, None]) * np.cos(latitude) * along
    distance: Floats = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(half, 1)))
    return distance


@dataclass(frozen=True)
class RttDistribution:
    """Distributions of n pings' results, each field float64 (n,); NaN where an address is unknown.

    With probability `p_failed` no answer; else `noise_free_ms` + log-logistic jitter of scale
    `jitter_ms` and shape `jitter_shape`.
    """

    noise_free_ms: Floats
    jitter_ms: Floats
    jitter_shape: Floats
    p_failed: Floats

    def quantile(self, p: Floats | float) -> Floats:
        """RTT in ms that an answered ping stays under with probability `p` in (0, 1)."""
        p = np.asarray(p)
        return self.noise_free_ms + self.jitter_ms * (p / (1 - p)) ** (1 / self.jitter_shape)

    def cdf(self, rtt_ms: Floats | float) -> Floats:
        """Probability that an answered ping takes at most `rtt_ms`."""
        excess = np.maximum((rtt_ms - self.noise_free_ms) / self.jitter_ms, 0)
        return 1 - 1 / (1 + excess**self.jitter_shape)

    def median(self) -> Floats:
        """Median of an answered RTT in ms: the prediction of the least absolute error."""
        return self.noise_free_ms + self.jitter_ms

    def mean(self) -> Floats:
        """Mean of an answered RTT in ms."""
        angle = np.pi / self.jitter_shape
        return self.noise_free_ms + self.jitter_ms * angle / np.sin(angle)


@dataclass(frozen=True)
class Paths:
    """What does not depend on time, of n pairs of addresses: float64 (n,), NaN where unknown."""

    noise_free_ms: Floats
    quiet_jitter_ms: Floats
    evening_jitter_ms: Floats  # comes on top at the busiest moment
    jitter_shape: Floats
    p_failed: Floats
    longitude: Floats  # of the source, degrees east

    def take(self, rows: NDArray[np.integer]) -> Paths:
        """The pairs at these positions."""
        return Paths(*(getattr(self, field.name)[rows] for field in fields(self)))

    def at(self, time: NDArray[np.integer] | int) -> RttDistribution:
        """Distributions of the results of pings sent at these Unix seconds."""
        hour = time / 3600 + self.longitude / 15  # solar, days and all: the cosine wraps it
        crowd = np.maximum(np.cos((hour - EVENING_HOUR) * (np.pi / 12)), 0)
        return RttDistribution(
            self.noise_free_ms,
            self.quiet_jitter_ms + self.evening_jitter_ms * crowd**2,
            self.jitter_shape,
            self.p_failed,
        )


@dataclass(frozen=True, eq=False)
class World:
    """Tables of a simulated Internet. Prefixes are sorted and disjoint; -1 means "none"."""

    key: NDArray[np.uint64]  # (): of every hash
    prefix_first: Words  # (prefixes,) IPv4 address, or the high half of an IPv6 address
    prefix_last: Words  # (prefixes,) inclusive
    prefix_network: NDArray[np.int32]  # (prefixes,)
    prefix_city: NDArray[np.int32]  # (prefixes,) -1: anycast
    prefix_anycast: NDArray[np.int32]  # (prefixes,) anycast service, or -1
    anycast_city: NDArray[np.int32]  # (services, most instances) cities, padded with -1
    network_name: NDArray[np.str_]  # (networks,)
    network_access: NDArray[np.int32]  # (networks,)
    network_inflation: Floats  # (networks, 2) added to log(inflation - 1), for IPv4 and IPv6
    access_name: NDArray[np.str_]  # (kinds,)
    access_delay_ms: Floats  # (kinds,) median over the addresses of this kind, there and back
    access_jitter_ms: Floats  # (kinds,) scale at a quiet hour
    access_evening_ms: Floats  # (kinds,) what the busiest moment adds to it
    access_shape: Floats  # (kinds,) tail index; the heavier tail of both ends counts
    city_name: NDArray[np.str_]  # (cities,)
    city_latitude: Floats  # (cities,) degrees
    city_longitude: Floats  # (cities,)
    city_region: NDArray[np.int32]  # (cities,)
    region_name: NDArray[np.str_]  # (regions,)
    region_inflation: Floats  # (regions, regions) median of inflation - 1, symmetric
    failure_rate: Floats  # (2,) median probability of no answer from live targets, IPv4 and IPv6
    dead_address: Words  # (dead targets, 2) packed

    def save(self, path: Path) -> None:
        """Write all tables to one .npz file; the same world gives the same bytes."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> World:
        """World of a `world.npz`. Raises `InputError` when the file is missing or is none."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as tables:
                return cls(**{field.name: tables[field.name] for field in fields(cls)})
        except FileNotFoundError:
            raise InputError(
                f"{path}: no such file: `simulate` writes it beside its rows"
            ) from None
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: not the world.npz of a simulated Internet: {error}"
            ) from error

    def find_prefix(self, address: Words) -> NDArray[np.intp]:
        """(n,) index of the prefix that holds each packed address (n, 2), -1 for none."""
        high, low = address[:, 0], address[:, 1]
        number = np.where((high == 0) & (low < 2**32), low, high)
        index = np.searchsorted(self.prefix_first, number, side="right") - 1
        return np.where((index >= 0) & (number <= self.prefix_last[index]), index, -1)

    def noise_free_rtt(self, src: Words, dst: Words) -> Floats:
        """(n,) noise-free RTTs in ms of packed address pairs, (n, 2) each; NaN where an address is
        in no prefix, is an anycast source, or the families differ. About 1 µs a pair."""
        return self.paths(src, dst).noise_free_ms

    def distribution(self, src: Words, dst: Words, time: NDArray[np.integer]) -> RttDistribution:
        """Distributions of pings between packed addresses, (n, 2) each, at Unix seconds (n,)."""
        return self.paths(src, dst).at(time)

    def paths(self, src: Words, dst: Words) -> Paths:
        """All that is constant in time about n pairs of packed addresses, (n, 2) each."""
        src_prefix, dst_prefix = self.find_prefix(src), self.find_prefix(dst)
        src_city, ipv6 = self.prefix_city[src_prefix], src[:, 0] > 0
        service = self.prefix_anycast[dst_prefix]
        dst_city = np.where(
            service < 0, self.prefix_city[dst_prefix], self.nearest_instance[service, src_city]
        )
        known = (src_prefix >= 0) & (dst_prefix >= 0) & (src_city >= 0)
        known &= ipv6 == (dst[:, 0] > 0)

        src_network, dst_network = self.prefix_network[src_prefix], self.prefix_network[dst_prefix]
        ends = np.sort([src_network << 16 | src_city, dst_network << 16 | dst_city], axis=0)
        key, family = int(self.key), ipv6.astype(np.intp)
        inflation = self._inflation(src_network, dst_network, src_city, dst_city, family)
        inflation *= np.exp(INFLATION_SPREAD * keyed_normal(key + _INFLATION, *ends))
        inflation = np.clip(1 + inflation, *INFLATION_RANGE)
        propagation = self.distance_km[src_city, dst_city] / KM_PER_RTT_MS * inflation

        a, b = self.network_access[src_network], self.network_access[dst_network]
        access = self._access_delay(src, a) + self._access_delay(dst, b)
        quiet = self.access_jitter_ms[a] + self.access_jitter_ms[b]
        failure = self.failure_rate[family] * np.exp(
            0.8 * keyed_normal(key + _HOST_FAILURE, dst[:, 0], dst[:, 1])
            + 0.4 * keyed_normal(key + _PATH_FAILURE, src_network, dst_network)
        )
        failure = np.minimum(failure, MAX_P_FAILED_OF_LIVE)
        dead = np.isin(keyed(*dst.T, start=key), keyed(*self.dead_address.T, start=key))
        paths = Paths(
            noise_free_ms=propagation + METRO_DETOUR_MS + access,
            quiet_jitter_ms=quiet + JITTER_PER_PROPAGATION * propagation,
            evening_jitter_ms=self.access_evening_ms[a] + self.access_evening_ms[b],
            jitter_shape=np.minimum(self.access_shape[a], self.access_shape[b]),
            p_failed=np.where(dead, P_FAILED_OF_DEAD, failure),
            longitude=self.city_longitude[src_city],
        )
        for field in fields(paths):
            getattr(paths, field.name)[~known] = np.nan
        return paths

    def _inflation(
        self, a: Any, b: Any, src_city: Any, dst_city: Any, family: NDArray[np.intp]
    ) -> Floats:
        """Inflation - 1 by the regions of both places and the networks of both ends, (n,)."""
        regions = self.region_inflation[self.city_region[src_city], self.city_region[dst_city]]
        networks = self.network_inflation[a, family] + self.network_inflation[b, family]
        inflation: Floats = regions * np.exp(networks)
        return inflation

    def _access_delay(self, address: Words, kind: NDArray[np.int32]) -> Floats:
        """Access delay of packed addresses (n, 2) in ms: their kind's, times their own factor."""
        own = keyed_normal(int(self.key) + _ACCESS, address[:, 0], address[:, 1])
        return self.access_delay_ms[kind] * np.exp(ACCESS_SPREAD * own)

    @cached_property
    def distance_km(self) -> Floats:
        """(cities, cities) great-circle distances."""
        return great_circle_km(self.city_latitude, self.city_longitude)

    @cached_property
    def nearest_instance(self) -> NDArray[np.int32]:
        """(services, cities) city of the anycast instance that a source in each city reaches."""
        distance = self.distance_km[self.anycast_city]  # (services, instances, cities)
        distance[self.anycast_city < 0] = np.inf
        nearest = distance.argmin(axis=1)
        return np.take_along_axis(self.anycast_city, nearest, axis=1)
