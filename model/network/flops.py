"""Floating-point operations per trained token, in two stated conventions, and the share of the peak.

    full_attention     6 N + 12 L C T    PaLM (arXiv:2204.02311, appendix B): the whole T × T of scores
    causal_attention   6 N +  6 L C T    only the half below the diagonal, which is what a causal kernel needs

N: weights in matrix products (all but the input embedding and the norm scales); L layers, C width,
T context.
"""

from __future__ import annotations

from model.config import ModelConfig
from model.network.kinds import KEYS
from model.network.lookups import BYTES, RESULT_ROWS
from model.network.nearness import REACHES
from model.network.placement import SCALARS

CONVENTIONS = ("full_attention", "causal_attention")

PEAK_FLOPS = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989.4e12),
    ("H200", 989.4e12),
    ("GH200", 989.4e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10G", 70e12),
    ("RTX 4090", 165.2e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v6 lite", 918e12),
)
"""Dense bfloat16 peak of one device in FLOP/s, by a part of its name, from the vendors' data sheets;
more specific names come first."""


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Number of weights: `matrices` (including embeddings), `tables` (looked up), `norms`, `total`."""
    layer = 4 * config.width**2 + 2 * config.width * config.mlp
    matrices = config.layers * layer + 2 * config.vocabulary * config.width
    if config.nearness and config.recalls:
        matrices += len(REACHES) * config.width
    if config.places:
        matrices += (BYTES + 1) * config.width
    norms = (2 * config.layers + 1) * config.width
    tables = 0
    if config.prefix_rows:
        results = RESULT_ROWS * (2 if config.recalls else 1)
        tables = (2 * config.prefix_rows + results + config.factors) * config.width
        tables += config.prefix_rows * config.factors
    if config.places:
        tables += 2 * config.prefix_rows * (config.placement + 2) + SCALARS
        if config.source_kinds:
            tables += (
                config.prefix_rows * (KEYS + config.source_kinds)
                + config.source_kinds * (KEYS + 2)
                + 1
            )
    total = matrices + norms + tables
    return {"matrices": matrices, "tables": tables, "norms": norms, "total": total}


def flops_per_token(config: ModelConfig) -> dict[str, int]:
    """FLOPs of forward and backward pass together, by convention."""
    multiplying = count_parameters(config)["matrices"] - config.vocabulary * config.width
    scores = config.layers * config.width * config.context
    return {
        "full_attention": 6 * multiplying + 12 * scores,
        "causal_attention": 6 * multiplying + 6 * scores,
    }


def peak_flops(device_kind: str) -> float | None:
    """Peak FLOP/s of one device of this kind, or `None` if it is not in the table."""
    return next((peak for name, peak in PEAK_FLOPS if name.lower() in device_kind.lower()), None)


def utilization(
    config: ModelConfig, tokens_per_second: float, device_kind: str, devices: int
) -> dict[str, float] | None:
    """Model FLOPs utilization (a share of 1) by convention, or `None` if the peak is unknown."""
    peak = peak_flops(device_kind)
    if peak is None:
        return None
    return {
        name: flops * tokens_per_second / (peak * devices)
        for name, flops in flops_per_token(config).items()
    }


def estimate_activations(config: ModelConfig, rows: int, activation_bytes: int) -> dict[str, int]:
    """Estimated bytes on one device for a step of `rows` rows, counting only the big terms: what the backward
    pass needs for each token and layer (about 13 vectors of the width and 3 of the MLP with fused attention,
    one residual with `remat`), and three float32 copies of the logits."""
    tokens = rows * config.context
    layer = config.width if config.remat else 13 * config.width + 3 * config.mlp
    return {
        "activations": tokens * config.layers * layer * activation_bytes,
        "logits": 3 * tokens * config.vocabulary * 4,
    }
