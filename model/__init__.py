"""Transformer, trainer and what uses a trained model, in JAX. Never imports `pipeline`."""
