"""`evaluate`: models and baselines asked the same test rows, side by side in one report."""
