"""Results of RIPE Atlas measurements, from the RIPE Atlas API into files that `prepare` reads."""
