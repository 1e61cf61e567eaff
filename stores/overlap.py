"""How many of the sources that are held out were trained on, and what to say if most of them were not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from stores.layout import VALIDATION

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

WORTH_A_WARNING = 0.1
"""Share of new sources from which on a loss says little about known ones."""


class OverlapCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many distinct keys occur in train, in test, and in both; the same for the validation split."""

    train: Count
    test: Count
    both: Count
    validation: Count = 0
    validation_both: Count = 0
    """In train and validation."""

    def held_out(self, split: str) -> tuple[int, int]:
        """How many keys `validation` or `test` has, and how many of them train has, too."""
        if split == VALIDATION:
            return self.validation, self.validation_both
        return self.test, self.both


def new_sources_warning(overlap: Mapping[str, OverlapCounts], by: str) -> str | None:
    """One line to print when many sources are held out from train although the split is not by source, else
    `None`, also when it is not known.

    `overlap` is by kind of key ("sources"), and `by` is what the split went by: "time", "source" or "pair".
    """
    sources = overlap.get("sources")
    if sources is None or by == "source":
        return None
    found = []
    for split in ("test", VALIDATION):
        count, known = sources.held_out(split)
        if count and count - known >= WORTH_A_WARNING * count:
            share = (count - known) / count
            found.append(f"{count - known:,} of the {count:,} sources in {split} ({share:.0%})")
    if not found:
        return None
    instead = {
        "time": "--by pair to test mostly on known sources, or with --by source to test on new ones on purpose"
    }.get(by, "--by source to test on new sources on purpose")
    return (
        f"{' and '.join(found)} are not in train, because the split is by {by}: the loss there also counts "
        "vantage points that the model has never met, and may rise while it learns those that it has. Prepare "
        f"into another folder with {instead}; `evaluate` tells known and new sources apart"
    )
