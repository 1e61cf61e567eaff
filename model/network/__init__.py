"""The transformer as Flax modules, its key-value cache, and what it costs in FLOPs."""
