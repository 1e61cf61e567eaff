"""What answers the questions of `evaluate`: baselines, the truth, and trained models."""
