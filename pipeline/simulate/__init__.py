"""A simulated Internet whose truth is known, and the measurements it would give."""
