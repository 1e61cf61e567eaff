"""Files of pings as people have them: RIPE Atlas results and tables. What `pipeline` prepares and what `model` is
given as context are read by the same rules."""
