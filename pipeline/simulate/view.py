"""What `simulate` prints when it has finished."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table

from pipeline.records import SimulateRecord
from pipeline.simulate.summary import MARGINALS


def simulate_view(out: Path, record: SimulateRecord) -> Group:
    """The size of the simulation, and its marginals beside those of the corpus that it imitates."""
    size = Table(box=None, show_header=False, padding=(0, 1))
    size.add_column(style="dim")
    size.add_column()
    size.add_row("rows", f"{record.rows:,} in {record.days:.2f} days, to {out}")
    size.add_row("truth", f"{record.truth[0].path}, {record.world}")
    size.add_row("addresses", f"{record.sources:,} sources, {record.destinations:,} destinations")
    new = record.new_pairs_in_last_tenth
    size.add_row(
        "pairs", f"{record.pairs:,}; {new:.1%} of those in the last tenth occur only there"
    )

    marginals = Table(box=box.SIMPLE_HEAD)
    marginals.add_column("marginal")
    for name in ("simulated", "corpus", "off by"):
        marginals.add_column(name, justify="right")
    for name, corpus in MARGINALS.items():
        value = record.marginals[name]
        row = [f"{x:.1%}" if corpus < 1 else f"{x:,.1f}" for x in (value, corpus)]
        marginals.add_row(name, *row, f"{value / corpus - 1:+.1%}")
    return Group(size, marginals)
