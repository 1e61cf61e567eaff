"""Untrained weights, and plain forward passes of them, to compare a model's answers with."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict

from model.inference.weights import Weights
from model.network.transformer import Transformer
from stores.vocabulary import BYTE0
from tests.model.conftest import small_config

CONFIG = small_config(layers=2, context=256, prefix_rows=512).model
V4, V6 = ("193.0.2.1", "198.51.101.7"), ("2001:db9::1", "2001:db9:7::9")


def random_weights(sharpness: float, seed: int = 0) -> Weights:
    """Weights of an untrained model whose head is scaled up, so that its predictions differ; so does what
    tokens look up, which is 0 before training."""
    model = Transformer(CONFIG, jnp.dtype("float32"), "xla", nnx.Rngs(seed))
    flat = flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    arrays = {".".join(map(str, path)): np.asarray(leaf) for path, leaf in flat.items()}
    arrays["head"] = arrays["head"] * sharpness
    for name in [name for name in arrays if name.startswith(("lookups", "nearness"))]:
        arrays[name] = (
            np.random.default_rng(seed).normal(size=arrays[name].shape).astype(np.float32)
        )
    return Weights(CONFIG, arrays, {})


class Plain:
    """The model without cache, bucket or batch: log-probabilities of what follows a row of tokens."""

    def __init__(self, weights: Weights):
        self.model = weights.model()
        self.forward = nnx.jit(lambda model, tokens: model(tokens))

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """(rows, T) tokens to (rows, T, V) float64."""
        count, length = rows.shape
        padded = np.zeros((4 if count <= 4 else 256, CONFIG.context), np.int32)  # two programs
        padded[:count, :length] = rows
        logits = self.forward(self.model, jnp.asarray(padded))
        return np.asarray(logits[:count, :length], np.float64)

    def next_bytes(self, rows: np.ndarray) -> np.ndarray:
        """(rows, 256) log-probabilities of the next byte, given that a byte comes next."""
        return log_softmax(self.logits(rows)[:, -1, BYTE0 : BYTE0 + 256])

    def two_bytes(self, tokens: list[int]) -> np.ndarray:
        """(256, 256) log-probabilities of the next two bytes: brute force."""
        first = self.next_bytes(np.array([tokens]))[0]
        longer = np.array([[*tokens, BYTE0 + byte] for byte in range(256)])
        return first[:, None] + self.next_bytes(longer)

    def chain(self, tokens: list[int], run: bytes) -> np.ndarray:
        """Log-probability of each byte of a run, given those before it: the chain rule."""
        row = np.array([[*tokens, *(BYTE0 + byte for byte in run)]])
        scores = log_softmax(self.logits(row)[0, len(tokens) - 1 : -1, BYTE0 : BYTE0 + 256])
        return scores[np.arange(len(run)), list(run)]


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)
