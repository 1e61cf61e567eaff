"""How the terminal shows the answers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from model.inference.grounds import Grounds
from model.inference.prediction import (
    CONVINCING,
    Completion,
    RttPrediction,
    SampledAddress,
    is_convincing,
)
from model.inference.query import CompletionQuery, RttQuery, SampleQuery
from stores.provenance import PREFIX_BITS
from stores.terminal import Terminal

BAR_WIDTH = 30  # characters


UNMET = "†"  # marks an address of networks that training does not have


def noted(view: RenderableType, grounds: Grounds) -> RenderableType:
    """An answer under what it rests on, unless that is real pings to networks that the model knows."""
    if not grounds.notes:
        return view
    first, *others = grounds.notes
    lines = (first[0].upper() + first[1:], *others)
    return Group(*(Text(line, style="bold yellow") for line in lines), view)


def rtt_view(query: RttQuery, prediction: RttPrediction, used: int) -> RenderableType:
    """What `predict-rtt` prints; `used` is the number of measurements of the context that fit the window."""
    table = Table(title=f"RTT {query.src} → {query.dst}{_context_note(len(query.context), used)}")
    for column in ("probability of no answer", "median", "mean", "50 % within", "90 % within"):
        table.add_column(column, justify="right")
    low, first, third, high = prediction.quantile([0.05, 0.25, 0.75, 0.95])
    table.add_row(
        f"{prediction.p_failed:.2%}",
        f"{prediction.median_ms:.2f} ms",
        f"{prediction.mean_ms:.2f} ms",
        f"{first:.2f} – {third:.2f} ms",
        f"{low:.2f} – {high:.2f} ms",
    )
    return Group(table, histogram(prediction))


def histogram(prediction: RttPrediction, bins: int = 12) -> Table:
    """Probability of the RTT in `bins` bins of equal width, from the 1 % to the 99 % quantile."""
    low, high = prediction.quantile([0.01, 0.99])
    edges = np.linspace(low, max(high, low + 0.01 * bins), bins + 1)  # 0.01 ms is what labels show
    # The first bin takes in what lies exactly on its lower edge.
    shares = np.diff(prediction.cdf(np.append(np.nextafter(low, 0), edges[1:])))
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    for edge, share in zip(edges[1:], shares, strict=True):
        bar = "█" * round(BAR_WIDTH * share / max(shares.max(), 1e-9))
        table.add_row(f"to {edge:.2f} ms", f"{share:6.1%}", bar)
    return table


def completions_view(
    query: CompletionQuery, completions: Sequence[Completion], used: int
) -> RenderableType:
    """What `complete-ip` prints."""
    what = "Destinations" if query.field == "dst" else "Sources"
    table = Table(title=f"{what} of IPv{query.family}{_context_note(len(query.context), used)}")
    table.add_column("address")
    table.add_column("probability", justify="right")
    table.add_column("of each byte")
    for completion in completions:
        each = " ".join(f"{share:.1%}" for share in completion.byte_probabilities)
        table.add_row(_marked(completion), f"{completion.probability:.3%}", each)
    total = sum(completion.probability for completion in completions)
    together = f"together {total:.1%} of all addresses with this prefix"
    return Group(table, together, *_explained(completions))


def samples_view(
    query: SampleQuery, samples: Sequence[SampledAddress], used: int
) -> RenderableType:
    """What `sample-ips` prints."""
    where = f"{query.target_rtt_ms:g} ms ± {query.tolerance:.0%} from {query.src}"
    convincing = is_convincing(samples)
    what = f"Destinations {where}" if convincing else f"Nothing convincing at {where}"
    table = Table(title=f"{what}{_context_note(len(query.context), used)}")
    table.add_column("address")
    table.add_column("log-probability", justify="right")
    table.add_column("within", justify="right")
    for sample in samples:
        table.add_row(_marked(sample), f"{sample.log_probability:.2f}", f"{sample.p_within:.1%}")
    best = samples[0].p_within
    lines = [
        f"a ping to the best is answered within the tolerance with a probability of {best:.1%}"
    ]
    if not convincing:
        lines[0] += f"; below {CONVINCING:.0%}, they are guesses"
    if len(samples) < query.n:
        lines.append(f"{query.n} were requested; further draws found no new ones")
    return Group(table, *lines, *_explained(samples))


def _marked(found: Completion | SampledAddress) -> str:
    return f"{found.address} {UNMET}" if found.unmet_prefix else str(found.address)


def _explained(found: Sequence[Completion] | Sequence[SampledAddress]) -> list[str]:
    """What the mark means, where there is one."""
    unmet = [one.address.version for one in found if one.unmet_prefix]
    bits = " or ".join(f"/{PREFIX_BITS[version]}" for version in sorted(set(unmet)))
    return [f"{UNMET} no {bits} of it in training"] if unmet else []


def export_view(out: Path, record: dict[str, Any]) -> RenderableType:
    """What `export` prints."""
    table = Table(title=str(out), show_header=False)
    origin = record["origin"]
    loss = origin["test_loss"]
    for name, value in (
        ("weights", f"{record['parameters']:,} in {record['dtype']}"),
        ("step", f"{origin['step']:,}"),
        (
            f"{origin.get('chosen_on', 'test')} loss",
            "-" if loss is None else f"{loss:.2f} nats per measurement",
        ),
        ("RTT temperature", f"{record['rtt_temperature']:g}"),
        ("data", _data_note(record.get("provenance"), origin.get("base"))),
        ("store", origin["store_digest"][:12]),
        ("code", origin["code_version"]),
    ):
        table.add_row(name, value)
    return table


def _data_note(provenance: dict[str, Any] | None, base: str | None) -> str:
    if provenance is None:
        return (
            "unknown, of this run or of the model it began with"
            if base
            else "unknown: name the store with --store"
        )
    return f"{provenance['data']}, {provenance['rows']:,} rows"


def working(what: str, silent: bool) -> AbstractContextManager[Any]:
    """A spinner on standard error while a model is loaded, compiled and run."""
    console = Terminal(stderr=True)
    if silent or not console.is_terminal:
        return nullcontext()
    return console.status(f"{what} (the first run compiles for a few seconds)")


def _context_note(count: int, used: int) -> str:
    if not count:
        return ""
    fits = f" the last {used} of" if used < count else ""
    return f"\nafter{fits} {count} measurement{'s' * (count != 1)}"
