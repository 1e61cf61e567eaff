"""What `pipeline` writes and `model` reads: tokens, array layout, manifest, reader, sampling order."""

from stores.reader import TokenStore
from stores.sampler import MixtureSampler
from stores.union import StoreUnion, open_stores

__all__ = ["MixtureSampler", "StoreUnion", "TokenStore", "open_stores"]
