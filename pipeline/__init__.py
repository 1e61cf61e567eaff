"""From raw input to measurements, to train and test splits, to tokens. Offline and on CPUs; never imports
JAX or `model`."""
