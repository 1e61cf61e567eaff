"""Raw input to measurements to split to tokens: offline, on CPUs. Never imports JAX or `model`."""
