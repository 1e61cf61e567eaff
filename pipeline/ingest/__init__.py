"""From RIPE Atlas JSON to the measurement table."""
