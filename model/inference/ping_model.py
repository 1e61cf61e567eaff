"""A trained model that answers queries: the RTT of a pair, addresses at an RTT, the rest of an address.

    model = PingModel.load("runs/a")
    model.predict_rtt("193.0.2.1", "198.51.101.7", context=earlier).median_ms

Every query has a batch form; an answer does not depend on the other queries of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Protocol, TypeVar

import jax
import numpy as np
from numpy.typing import NDArray

from model.devices import use_compile_cache
from model.inference.buckets import (
    BATCH_SIZES,
    WARM_UP_PAIR,
    bucket_length,
    split_batches,
    warm_up_contexts,
)
from model.inference.checks import parse_address, parse_time
from model.inference.decoding import DRAWS, Bands, Decoder, Prompts, RttTable
from model.inference.export import CONFIG_FILE, read_export
from model.inference.grounds import Grounds, find_grounds
from model.inference.old_order import source_first
from model.inference.prediction import Completion, RttPrediction, SampledAddress
from model.inference.query import (
    ADDRESS_BYTES,
    AddressField,
    AddressLike,
    CompletionQuery,
    RttQuery,
    SampleQuery,
)
from model.inference.samples import choose, rtt_band
from model.inference.table_answers import TableAnswers
from model.inference.weights import Weights, known_first_bytes, read_run
from model.network.flops import count_parameters
from model.run_folder import RECORD_FILE
from stores.codec import Address, Measurement
from stores.errors import CheckpointError

PRETRAINED = Path(__file__).parent.parent / "pretrained"
MAX_ROUNDS = 16  # of `DRAWS` draws for one query
LEAST_POOL = 128  # distinct destinations to choose from
POOL_SHARE = 4  # at least this many of them per requested one
LEAST_PROBABILITY = 1e-30


class _Query(Protocol):
    def prompt(self, window: int) -> list[int]: ...


Query = TypeVar("Query", bound=_Query)
Answer = TypeVar("Answer")


class PingModel(TableAnswers):
    """A trained model, ready for queries. Safe to use from several threads.

    The first query of a shape (prompt length up to 64, 128, 256 …, batch of 1, 4 or 16) compiles a
    program, which takes seconds; the compile cache keeps it for later processes.
    """

    def __init__(self, weights: Weights):
        self.config = weights.config
        self.origin = weights.origin
        """Where the weights come from: `store_digest`, `code_version`, `step`, `test_loss`, `chosen_on`."""
        self.provenance = weights.provenance
        """What the model was trained on; `None` where nobody noted it."""
        self.decoder = Decoder(weights.model())
        self._known_first = known_first_bytes(weights.arrays)
        self._temperature = weights.rtt_temperature

    def __repr__(self) -> str:
        """Its size, and what it was trained on."""
        weights = count_parameters(self.config)
        rows = self.provenance
        data = f"{rows.rows:,} rows of {rows.data} data" if rows else "unknown data"
        return (
            f"PingModel({weights['matrices']:,} weights in matrices, {weights['tables']:,} in tables, "
            f"context of {self.config.context} tokens, trained on {data})"
        )

    @classmethod
    def load(cls, path: str | Path) -> PingModel:
        """The model of a training run (its best checkpoint, else its last), of an exported folder, or
        the shipped one ("pretrained"). Raises `CheckpointError`."""
        use_compile_cache()
        return cls(load_weights(path))

    def warm_up(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Compile every program that queries may need: all prompt lengths, batch sizes and families.

        Takes 30 to 60 s the first time, a few seconds from the compile cache. Calls `progress(done, total)`.
        """
        shapes = [
            (size, earlier)
            for earlier in warm_up_contexts(self.config.context)
            for size in BATCH_SIZES
        ]
        for done, (size, earlier) in enumerate(shapes, 1):
            ping = RttQuery(*WARM_UP_PAIR, None, earlier, allow_private=True)
            self.predict_rtt_batch([ping] * size)
            for prefix in ("192.0.2", "2001:db8::/120"):
                begun = CompletionQuery(prefix, 1, earlier, allow_private=True)
                self.complete_ip_batch([begun] * size)
            for source in (WARM_UP_PAIR[0], IPv6Address("2001:db8::1")):
                search = SampleQuery(source, 20, 1, earlier, allow_private=True)
                self.sample_ips_batch([search] * size)
            progress(done, len(shapes))

    def grounds(self, query: RttQuery | CompletionQuery | SampleQuery) -> Grounds:
        """What the answer to a query rests on: simulated or real data, and whether they had its addresses."""
        return find_grounds(self.provenance, query)

    def predict_rtt(
        self,
        src: AddressLike,
        dst: AddressLike,
        time: float | None = None,
        context: Iterable[Measurement] = (),
        allow_private: bool = False,
    ) -> RttPrediction:
        """The distribution of the result of a ping from `src` to `dst`.

        `time` in Unix seconds, or `None`; `context` holds earlier measurements, oldest first; the
        latest that fit are used. Private and special addresses (RFC 1918, loopback, documentation …) are
        refused unless `allow_private`. Raises `QueryError` naming the wrong field.
        """
        return self.predict_rtt_batch(
            [
                RttQuery(
                    parse_address("src", src),
                    parse_address("dst", dst),
                    parse_time("time", time),
                    tuple(context),
                    allow_private,
                )
            ]
        )[0]

    def complete_ip(
        self,
        prefix: str,
        k: int = 10,
        context: Iterable[Measurement] = (),
        field: AddressField = "dst",
        allow_private: bool = False,
    ) -> list[Completion]:
        """The `k` (1 to 256) most probable addresses that begin with `prefix`, best first.

        `prefix`: "193.0.2", "2001:db9:", or a CIDR at a byte boundary. `field`: "dst" or "src". Exact
        for up to two unknown bytes. Beyond that, a beam search of width 256 misses an address only if
        one of its prefixes is less probable than 256 others of the same length. A prefix of private
        and special addresses alone is refused unless `allow_private`. Raises `QueryError`.
        """
        query = CompletionQuery(prefix, k, tuple(context), field, allow_private)
        return self.complete_ip_batch([query])[0]

    @source_first
    def sample_ips(
        self,
        src: AddressLike,
        target_rtt_ms: float,
        n: int = 10,
        context: Iterable[Measurement] = (),
        tolerance: float = 0.05,
        seed: int = 0,
        allow_private: bool = False,
    ) -> list[SampledAddress]:
        """Up to `n` (1 to 256) distinct destinations that are `target_rtt_ms` away from `src`.

        Draws from p(destination | source, RTT within ± `tolerance` · target), without replacement;
        the most certain come first. This is proportional to p(destination | source) times p(RTT within
        tolerance | source, destination). Destinations are drawn by the first factor in rounds of 64,
        until there are 128 distinct ones and four times `n`, or a round finds nothing new, or after
        1,024 draws; `n` of them are then drawn by the product. A model learns the RTT of a pair much
        sooner than the destinations at an RTT, so the RTT comes last. The same `seed` gives the same
        result. However unlikely, there are `n` of them if so many were drawn: look at `p_within`. The target
        is at most a minute. Raises `QueryError`. Before 0.2.0 the target came first, which still works
        with a `DeprecationWarning`.
        """
        source = parse_address("src", src)
        query = SampleQuery(
            source, target_rtt_ms, n, tuple(context), tolerance, seed, allow_private
        )
        return self.sample_ips_batch([query])[0]

    # --- Batch forms ------------------------------------------------------------------------------

    def predict_rtt_batch(self, queries: Sequence[RttQuery]) -> list[RttPrediction]:
        """`predict_rtt` for each query: one device call per up to 16 prompts of similar length."""

        def answer(prompts: Prompts, _: list[RttQuery]) -> list[RttPrediction]:
            table = self.decoder.rtt_table(prompts)
            return predictions(table, self._known_first, self._temperature)

        return self._batched(queries, lambda query: 0, answer)

    def complete_ip_batch(self, queries: Sequence[CompletionQuery]) -> list[list[Completion]]:
        """`complete_ip` for each query; those with equally many known bytes share device calls."""

        def answer(prompts: Prompts, batch: list[CompletionQuery]) -> list[list[Completion]]:
            unknown, size = batch[0].unknown, ADDRESS_BYTES[batch[0].family]
            if unknown == 0:
                whole = (ip_address(query.known) for query in batch)
                return [
                    [Completion(address, 1.0, (), self._unmet(query.field, address))]
                    for query, address in zip(batch, whole, strict=True)
                ]
            beams = jax.device_get(self.decoder.search(prompts, unknown, size))

            def completion(query: CompletionQuery, row: int, beam: int) -> Completion:
                found = bytes(beams.bytes[row, beam, :unknown].tolist())
                address = ip_address(query.known + found)
                return Completion(
                    address,
                    float(np.exp(beams.scores[row, beam])),
                    tuple(np.exp(beams.log_probabilities[row, beam, :unknown]).tolist()),
                    self._unmet(query.field, address),
                )

            return [
                [completion(query, row, beam) for beam in range(query.k)]
                for row, query in enumerate(batch)
            ]

        return self._batched(queries, lambda query: (query.family, query.unknown), answer)

    def sample_ips_batch(self, queries: Sequence[SampleQuery]) -> list[list[SampledAddress]]:
        """`sample_ips` for each query; those whose sources have the same family share device calls."""

        def answer(prompts: Prompts, batch: list[SampleQuery]) -> list[list[SampledAddress]]:
            bands = Bands(*map(np.stack, zip(*map(rtt_band, batch), strict=True)))
            found: list[dict[Address, SampledAddress]] = [{} for _ in batch]
            open_rows = set(range(len(batch)))
            for round_number in range(MAX_ROUNDS):
                draws = self._draw(prompts, bands, batch, round_number)
                for row in list(open_rows):
                    before = len(found[row])
                    for drawn in draws[row]:
                        found[row].setdefault(drawn.address, drawn)
                    enough = max(LEAST_POOL, POOL_SHARE * batch[row].n)
                    if len(found[row]) == before or len(found[row]) >= enough:
                        open_rows.discard(row)
                if not open_rows:
                    break
            return [
                [
                    replace(drawn, unmet_prefix=self._unmet("dst", drawn.address))
                    for drawn in choose(list(addresses.values()), query)
                ]
                for addresses, query in zip(found, batch, strict=True)
            ]

        return self._batched(queries, lambda query: query.src.version, answer)

    def _unmet(self, field: AddressField, address: Address) -> str | None:
        """The prefix of an answer that training does not have."""
        return self.provenance.prefixes(field).unmet(address) if self.provenance else None

    def _draw(
        self, prompts: Prompts, bands: Bands, batch: list[SampleQuery], round_number: int
    ) -> list[list[SampledAddress]]:
        """`DRAWS` destinations for each query."""
        keys = jax.vmap(jax.random.key)(np.array([query.seed for query in batch], np.uint32))
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, round_number)
        length = ADDRESS_BYTES[batch[0].src.version]
        draws = jax.device_get(self.decoder.draw(prompts, bands, keys, length))
        within = np.clip(draws.within.astype(np.float64), LEAST_PROBABILITY, 1)
        scores = draws.scores + np.log(within)
        return [
            [
                SampledAddress(
                    ip_address(bytes(draws.bytes[row, draw].tolist())),
                    float(scores[row, draw]),
                    float(within[row, draw]),
                )
                for draw in range(DRAWS)
            ]
            for row in range(len(batch))
        ]

    def _batched(
        self,
        queries: Sequence[Query],
        kind: Callable[[Query], object],
        answer: Callable[[Prompts, list[Query]], list[Answer]],
    ) -> list[Answer]:
        """Answers in the order of the queries, computed in batches of one kind and similar length."""
        prompts = [query.prompt(self.config.context) for query in queries]
        groups: dict[tuple[int, object], list[int]] = {}
        for at, query in enumerate(queries):
            bucket = bucket_length(len(prompts[at]), self.config.context)
            groups.setdefault((bucket, kind(query)), []).append(at)
        answers: dict[int, Answer] = {}
        for (bucket, _), members in groups.items():
            for batch in split_batches(members):
                tokens = np.zeros((len(batch), bucket), np.int32)
                for row, at in enumerate(batch):
                    tokens[row, : len(prompts[at])] = prompts[at]
                lengths = np.array([len(prompts[at]) for at in batch], np.int32)
                read = self.decoder.read(tokens, lengths)
                answers |= zip(batch, answer(read, [queries[at] for at in batch]), strict=True)
        return [answers[at] for at in range(len(queries))]


def model_folder(path: str | Path) -> Path:
    """The folder that `PingModel.load(path)` loads."""
    return PRETRAINED if str(path) == "pretrained" else Path(path)


def load_weights(path: str | Path) -> Weights:
    """The weights that `PingModel.load(path)` uses. Raises `CheckpointError`."""
    folder = model_folder(path)
    if (folder / CONFIG_FILE).exists():
        return read_export(folder)
    if (folder / RECORD_FILE).exists():
        return read_run(folder)
    if folder == PRETRAINED:
        raise CheckpointError(
            "pretrained: no model is shipped with this version: name a training run with --model"
        )
    found = "is neither" if folder.exists() else "does not exist"
    raise CheckpointError(
        f"{folder}: {found}: expected the folder of a training run (`train --out`) or of an export"
    )


def predictions(
    table: RttTable, known_first: NDArray[np.bool_] | None = None, temperature: float = 1.0
) -> list[RttPrediction]:
    """Predictions from the rows of a table on the device, normalized in float64."""
    failed, first, second = (np.asarray(x, np.float64) for x in jax.device_get(table))
    result = []
    for row in range(len(failed)):
        codes = np.exp(first[row][:, None] + second[row]).ravel()
        shares = codes / codes.sum()
        p_failed = float(np.exp(failed[row]))
        result.append(RttPrediction(p_failed, shares, known_first, temperature))
    return result
