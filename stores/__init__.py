"""What `pipeline` writes and `model` reads: tokens, array layout, manifest, reader, sampling order."""
