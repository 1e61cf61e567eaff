"""From a store to a run folder: batches, compiled steps, loss, optimizer, checkpoints, logs."""
