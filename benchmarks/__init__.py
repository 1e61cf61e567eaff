"""Numbers, side by side with peers: `python -m benchmarks [NAME] [OPTIONS]`."""
