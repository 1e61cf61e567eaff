"""What `pipeline` writes and `model` reads: tokens, array layout, manifest, reader, sampling order."""

from stores.reader import TokenStore
from stores.sampler import MixtureSampler

__all__ = ["MixtureSampler", "TokenStore"]
