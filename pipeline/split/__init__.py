"""From the measurement table to train and test shards, sorted by source and time."""
