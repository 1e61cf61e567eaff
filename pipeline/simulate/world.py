"""Builds the simulated Internet: networks with prefixes in real cities, and the hosts in them.

Address bytes mean something, as on the real Internet:

    IPv4   first byte: registry (region) · first two: network · third: its city · last: host
    IPv6   first 16 bits: registry · /32: network · /40: its city · rest: subnet, host, many zeros
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.simulate.places import REGIONS, cities
from stores.truth import Words, World, great_circle_km, pack_addresses

Rng = np.random.Generator
Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]

# kind of access: median delay there and back, quiet jitter scale, evening's extra (ms), tail index
ACCESS = {
    "fibre": (2.5, 0.25, 0.20, 2.6),
    "cable": (8.0, 0.80, 1.50, 2.5),
    "DSL": (15.0, 0.70, 0.60, 2.5),
    "LTE": (28.0, 4.00, 4.00, 2.3),
    "satellite": (27.0, 3.50, 3.00, 2.4),
    "data centre": (0.3, 0.06, 0.02, 2.4),
    "backbone": (0.5, 0.15, 0.05, 2.4),
}

# kind of network: its access, share of all networks, most cities it is in
NETWORKS = {
    "fibre": ("fibre", 0.26, 24),
    "cable": ("cable", 0.14, 20),
    "dsl": ("DSL", 0.12, 24),
    "mobile": ("LTE", 0.08, 32),
    "orbit": ("satellite", 0.02, 64),
    "hosting": ("data centre", 0.22, 20),
    "transit": ("backbone", 0.06, 64),
    "anycast": ("data centre", 0.10, 0),
}
KINDS = tuple(NETWORKS)
EYEBALLS = ("fibre", "cable", "dsl", "mobile", "orbit")  # networks that homes are in
ANYCAST_INSTANCES = (4, 12, 30, 64)  # of the services of each anycast network

# by region: share of probes and targets (like RIPE Atlas, mostly Europe); the registry's space,
# as the first of 16 IPv6 /16s, and IPv4 /8s
REGION_SHARE = (0.46, 0.20, 0.07, 0.05, 0.04, 0.05, 0.09, 0.04)
_RIPE = 0x2A00, (2, 5, 31, 37, 46, 62, 77, 78, 80, 83, 85, 87, 89, 91, 93, 95, 109, 151, 185, 213)
_ARIN = 0x2600, (12, 23, 24, 50, 63, 65, 67, 68, 71, 73, 76, 96, 99, 104, 107, 173, 184, 208, 216)
_LACNIC = 0x2800, (177, 179, 181, 186, 187, 189, 190, 200, 201)
_AFRINIC = 0x2C00, (41, 102, 105, 154, 196, 197)
_APNIC = 0x2400, (1, 14, 27, 36, 43, 49, 58, 60, 61, 101, 103, 110, 114, 118, 125, 175, 180, 210)
REGISTRY = (_RIPE, _ARIN, _LACNIC, _AFRINIC, _RIPE, _APNIC, _APNIC, _APNIC)

# median inflation - 1 of paths between regions: upper triangle, in the order of REGIONS
_INFLATION = (
    (0.60, 0.45, 0.60, 0.70, 0.80, 0.80, 0.95, 0.75),
    (0.55, 0.60, 0.80, 0.75, 0.80, 0.60, 0.55),
    (0.85, 1.30, 0.85, 0.80, 0.75, 0.80),
    (1.40, 1.20, 1.20, 1.10, 1.10),
    (1.20, 1.10, 1.00, 0.90),
    (1.00, 0.90, 0.95),
    (0.85, 0.70),
    (0.65,),
)

# where hosts are, by kind of network, and how many machines have IPv6 too
PROBE_SHARE = {"eyeballs": 0.88, "hosting": 0.12}
TARGET_SHARE = {"eyeballs": 0.12, "hosting": 0.66, "transit": 0.10, "anycast": 0.12}
PROBE_IPV6 = (1 - 0.577) / 0.577  # so that 57.7 % of all source addresses are IPv4
TARGET_IPV6 = 0.75
_SERVER_LOW = (0x1, 0x2, 0x53, 0x80, 0x443)  # usual last groups of server addresses
_VENDORS = (0x0219C6, 0x5C4979, 0x7483C2, 0xB827EB, 0xDCA632, 0xE4956E)  # of network cards


@dataclass(frozen=True)
class Hosts:
    """Addresses of machines, probes or targets: each has an IPv4 and perhaps an IPv6 address."""

    text: list[str]
    machine: NDArray[np.int64]  # (hosts,) from 0
    ipv6: NDArray[np.bool_]  # (hosts,) all IPv4 hosts come first
    anycast: NDArray[np.bool_]  # (hosts,)

    @property
    def packed(self) -> Words:
        """(hosts, 2) uint64, see `stores.truth.pack_addresses`."""
        return pack_addresses(self.text)


def quotas(shares: Sequence[float] | Floats, count: int) -> NDArray[np.int64]:
    """`count` split by `shares`, each part exact to within one (largest remainder)."""
    exact = np.asarray(shares) / np.sum(shares) * count
    parts = np.floor(exact).astype(np.int64)
    parts[np.argsort(parts - exact, kind="stable")[: count - parts.sum()]] += 1
    return parts


def by_quota(shares: Sequence[float] | Floats, count: int) -> NDArray[np.int64]:
    """(count,) classes of `count` things, sorted, as many of each as `quotas` says."""
    return np.repeat(np.arange(len(shares)), quotas(shares, count))


def build_world(seed: int, networks: int) -> World:
    """World of `networks` networks, a pure function of both. No target is dead in it, and no answer
    is missing (`failure_rate`): the schedule knows what is measured and sets both."""
    rng = np.random.default_rng([seed, 0])
    places = cities()
    region = np.array([city.region for city in places])
    latitude = np.array([city.latitude for city in places])
    longitude = np.array([city.longitude for city in places])
    weight = city_weights()
    kind = by_quota([share for _, share, _ in NETWORKS.values()], networks)
    home = _homes(rng, kind, region, weight)
    footprints = _footprints(rng, kind, home, region, weight, great_circle_km(latitude, longitude))
    services = _anycast_services(rng, int((kind == KINDS.index("anycast")).sum()), weight)

    inflation = np.zeros((len(REGIONS), len(REGIONS)))
    inflation[np.triu_indices(len(REGIONS))] = np.concatenate(_INFLATION)
    delay, jitter, evening, shape = np.array(list(ACCESS.values())).T
    access = [list(ACCESS).index(NETWORKS[KINDS[k]][0]) for k in kind]
    return World(
        key=np.array(rng.integers(2**62), np.uint64),
        **_prefixes(rng, footprints, region[home]),
        anycast_city=services,
        network_name=np.array([f"{KINDS[k]}-{number}" for number, k in enumerate(kind)]),
        network_access=np.array(access, np.int32),
        network_inflation=rng.normal(0, 0.18, (networks, 1)) + rng.normal(0, 0.05, (networks, 2)),
        access_name=np.array(list(ACCESS)),
        access_delay_ms=delay,
        access_jitter_ms=jitter,
        access_evening_ms=evening,
        access_shape=shape,
        city_name=np.array([city.name for city in places]),
        city_latitude=latitude,
        city_longitude=longitude,
        city_region=region.astype(np.int32),
        region_name=np.array(REGIONS),
        region_inflation=np.maximum(inflation, inflation.T),
        failure_rate=np.zeros(2),
        dead_address=np.empty((0, 2), np.uint64),
    )


def city_weights() -> NDArray[np.float64]:
    """(cities,) share of probes and targets in each: its region's, split by root of population."""
    region = np.array([city.region for city in cities()])
    people = np.sqrt([city.population for city in cities()])
    within_region = people / np.bincount(region, people)[region]
    weights: NDArray[np.float64] = within_region * np.array(REGION_SHARE)[region]
    return weights


# --- Networks -------------------------------------------------------------------------------------


def _homes(rng: Rng, kind: Ints, region: Ints, weight: Floats) -> Ints:
    """(networks,) home city of each: every kind in every region, as far as its number goes."""
    homes = []
    for count in np.bincount(kind, minlength=len(KINDS)):
        for home_region in by_quota(REGION_SHARE, count):
            inside = weight * (region == home_region)
            homes.append(rng.choice(len(weight), p=inside / inside.sum()))
    return np.array(homes)


def _footprints(
    rng: Rng, kind: Ints, home: Ints, region: Ints, weight: Floats, distance: Floats
) -> list[list[tuple[int, int]]]:
    """(city, -1) of every prefix of each network, nearest city to its home first; of an anycast
    network (-1, service)."""
    footprints = []
    services = 0
    for name, city in zip((KINDS[k] for k in kind), home, strict=True):
        most = NETWORKS[name][2]
        if name == "anycast":
            numbers = range(services, services := services + len(ANYCAST_INSTANCES))
            footprints.append([(-1, service) for service in numbers])
            continue
        near = np.argsort(distance[city], kind="stable")
        if name in EYEBALLS:  # the places around, within the region
            there = near[region[near] == region[city]][:most]
        else:  # big places, hosting mostly in its own region
            away = 0.25 if name == "hosting" else 1.0
            chance = weight * np.where(region == region[city], 1.0, away)
            count = rng.integers(most // 3, most) if name == "hosting" else most
            chosen = rng.choice(len(weight), count, replace=False, p=chance / chance.sum())
            there = near[np.isin(near, np.append(chosen, city))]
        footprints.append([(int(place), -1) for place in there])
    return footprints


def _anycast_services(rng: Rng, operators: int, weight: Floats) -> NDArray[np.int32]:
    """(services, most instances) cities of each anycast service's instances, padded with -1."""
    services = np.full((operators * len(ANYCAST_INSTANCES), max(ANYCAST_INSTANCES)), -1, np.int32)
    for service in range(len(services)):
        count = ANYCAST_INSTANCES[service % len(ANYCAST_INSTANCES)]
        services[service, :count] = rng.choice(len(weight), count, replace=False, p=weight)
    return services


def _prefixes(
    rng: Rng, footprints: list[list[tuple[int, int]]], home_region: Ints
) -> dict[str, NDArray[Any]]:
    """The prefix tables of a `World`: a /24 and a /40 for every city (or service) of a network."""
    taken: set[tuple[int, int]] = set()
    rows = []
    for network, footprint in enumerate(footprints):
        ipv6_first, ipv4_first = REGISTRY[home_region[network]]
        high4, low4 = _free_block(rng, ipv4_first, 2**8, taken)
        high6, low6 = _free_block(rng, range(ipv6_first, ipv6_first + 16), 2**16, taken)
        for slot, (city, service) in enumerate(footprint):
            first = high4 << 24 | low4 << 16 | slot << 8
            rows.append((first, first | 0xFF, network, city, service))
            first = high6 << 48 | low6 << 32 | slot << 24
            rows.append((first, first | 0xFFFFFF, network, city, service))
    rows.sort()
    names = ("prefix_first", "prefix_last", "prefix_network", "prefix_city", "prefix_anycast")
    types = (np.uint64, np.uint64, np.int32, np.int32, np.int32)
    columns = zip(names, types, zip(*rows, strict=True), strict=True)
    return {name: np.array(column, dtype) for name, dtype, column in columns}


def _free_block(
    rng: Rng, firsts: Sequence[int], size: int, taken: set[tuple[int, int]]
) -> tuple[int, int]:
    """A network's own block (first part out of `firsts`, second below `size`), noted in `taken`."""
    while True:
        block = int(rng.choice(firsts)), int(rng.integers(1, size))
        if block not in taken:
            taken.add(block)
            return block


# --- Hosts ----------------------------------------------------------------------------------------


def place_probes(world: World, seed: int, count: int) -> Hosts:
    """Addresses of `count` probes, mostly in homes; 57.7 % of them are IPv4 addresses."""
    return _place(world, np.random.default_rng([seed, 1]), count, PROBE_SHARE, PROBE_IPV6)


def place_targets(world: World, seed: int, count: int) -> Hosts:
    """Addresses of `count` targets, mostly in data centres, some anycast."""
    return _place(world, np.random.default_rng([seed, 2]), count, TARGET_SHARE, TARGET_IPV6)


def _place(
    world: World, rng: Rng, count: int, shares: dict[str, float], ipv6_share: float
) -> Hosts:
    """Machines in the kinds of networks that `shares` names, in cities by `city_weights`."""
    kinds = [name.rsplit("-", 1)[0] for name in world.network_name]
    groups = np.array(["eyeballs" if name in EYEBALLS else name for name in kinds])
    group = groups[world.prefix_network]
    ipv4 = world.prefix_first < 2**32
    places = list(zip(world.prefix_network, world.prefix_city, world.prefix_anycast, strict=True))
    twins = {places[row]: row for row in np.flatnonzero(~ipv4)}
    weight = np.where(world.prefix_city < 0, 1.0, city_weights()[world.prefix_city])
    prefixes = np.empty(count, np.int64)
    category = by_quota(list(shares.values()), count)
    for number, name in enumerate(shares):
        rows = np.flatnonzero(ipv4 & (group == name))
        crowd = np.bincount(world.prefix_city[rows] + 1)[world.prefix_city[rows] + 1]
        chance = weight[rows] / crowd  # a city's probes do not depend on how many networks it has
        wanted = category == number
        prefixes[wanted] = rng.choice(rows, wanted.sum(), p=chance / chance.sum())
    rng.shuffle(prefixes)

    taken: set[str] = set()
    ipv4_texts = [_unused(rng, _ipv4_host, world.prefix_first[row], taken) for row in prefixes]
    ipv6_texts = []
    ipv6_machines = np.sort(rng.choice(count, round(ipv6_share * count), replace=False))
    for row in prefixes[ipv6_machines]:
        draw = _ipv6_home if group[row] == "eyeballs" else _ipv6_server
        ipv6_texts.append(_unused(rng, draw, world.prefix_first[twins[places[row]]], taken))
    machine = np.concatenate([np.arange(count), ipv6_machines])
    return Hosts(
        text=ipv4_texts + ipv6_texts,
        machine=machine,
        ipv6=np.arange(len(machine)) >= count,
        anycast=(world.prefix_city[prefixes] < 0)[machine],
    )


def _unused(rng: Rng, draw: Callable[[Rng, int], str], prefix: np.uint64, taken: set[str]) -> str:
    """A host address of `prefix` that is not in `taken` yet, then noted there."""
    while (text := draw(rng, int(prefix))) in taken:
        pass
    taken.add(text)
    return text


def _ipv4_host(rng: Rng, prefix: int) -> str:
    return str(IPv4Address(prefix + int(rng.integers(1, 255))))


def _ipv6_server(rng: Rng, prefix: int) -> str:
    """Subnet 0 to 15, a short host part: 2a01:db8:500:3::53."""
    return str(IPv6Address(prefix + int(rng.integers(16)) << 64 | int(rng.choice(_SERVER_LOW))))


def _ipv6_home(rng: Rng, prefix: int) -> str:
    """A customer's /56, first subnet, an interface identifier made from a MAC address (EUI-64)."""
    customer = int(rng.integers(2**16)) << 8
    vendor, card = int(rng.choice(_VENDORS)) ^ 0x020000, int(rng.integers(2**24))
    return str(IPv6Address(prefix + customer << 64 | vendor << 40 | 0xFFFE << 24 | card))
