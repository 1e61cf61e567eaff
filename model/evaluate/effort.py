"""How much `evaluate` asks of a trained model, besides the rows that every predictor answers."""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 20_000  # test rows asked of baselines alone
LIMIT_WITH_MODELS = 1_000  # of every predictor: two cores answer a few hundred prompts a minute


@dataclass(frozen=True)
class Effort:
    """Sizes of the samples: a few minutes on two cores for a small model, seconds on a GPU."""

    windows: int = 32
    """For likelihoods and byte accuracy, from each of the two timestamp modes."""
    time_questions: int = 100
    """Questions asked once more with timestamps, and once without."""
    completions: int = 24
    """Destinations to complete, of each address family, for each known length."""
    ipv4_known: tuple[int, ...] = (0, 1, 2, 3)
    ipv6_known: tuple[int, ...] = (0, 4, 8, 12, 14)
    """Bytes of the destination that are given."""
    searches: int = 200
    """Sources and RTTs to find destinations for: as many as tell a share to 3 points."""
    destinations: int = 16
    """Destinations that each search asks for."""

    @property
    def known(self) -> dict[int, tuple[int, ...]]:
        """Known lengths by address family."""
        return {4: self.ipv4_known, 6: self.ipv6_known}

    @property
    def asked_completions(self) -> int:
        """Completions asked of each model, if both families have enough rows."""
        return self.completions * sum(map(len, self.known.values()))
