"""What each predictor that is no trained model answers, in one sentence for readers of a report."""

from __future__ import annotations

DEFINITIONS = {
    "global_median": "The median of all training rows.",
    "source_median": "The median of the source's training rows. Fall-back: of its context, or of all rows.",
    "destination_median": "The median of the destination's training rows. Fall-back: of its /24 or /48, of its "
    "/16 or /32, or of all rows.",
    "pair_median": "The median of the pair's training rows, or of its rows in the context.",
    "pair_last": "The pair's last RTT in training, or in the context.",
    "pair_average": "The exponential average (gain 1/8, RFC 6298) of the pair's RTTs in training, or in the "
    "context.",
    "vivaldi": "Network coordinates (Dabek et al. 2004): positions in 8 dimensions and heights, so that distance "
    "and heights add up to the RTT. A new source joins by its context.",
    "dmfsgd": "Matrix factorization of RTTs (Liao et al. 2013): rank 20, non-negative, L1 loss. A new source "
    "joins by its context.",
    "nearest_vantage": "The pair's own median; otherwise the mean log RTT of the three most similar sources that "
    "measured the destination.",
    "best_possible": "The distribution that the simulated row was drawn from: nothing can do better.",
}
"""By the predictor's name. Where no fall-back is named, it is the destination's median."""
