"""The best possible predictor, on a simulated Internet: the distribution that the rows were drawn from."""

from __future__ import annotations

from model.evaluate.questions import LEVELS, Forecast, Queries
from stores.errors import InputError
from stores.rows import Words
from stores.truth import World


class BestPossible:
    """The true distributions: no predictor has a smaller expected absolute error, CRPS or Brier score."""

    name = "best_possible"
    uses_context = False

    def __init__(self, world: World, addresses: Words) -> None:
        """Raises `InputError` when an address of the store (n, 2) is not of this world."""
        unknown = int((world.find_prefix(addresses) < 0).sum())
        if unknown:
            raise InputError(
                f"the truth does not know {unknown} of the store's {len(addresses)} addresses: "
                "it belongs to another simulation; give the world.npz that was written with the rows"
            )
        self.world = world

    def predict(self, queries: Queries) -> Forecast:
        """The true distributions. About 1 µs a query, and 199 quantiles."""
        src, dst = queries.addresses[queries.src], queries.addresses[queries.dst]
        truth = self.world.distribution(src, dst, queries.seconds)
        return Forecast(truth.median(), truth.quantile(LEVELS[:, None]).T, truth.p_failed)
