"""Shards to the token store, in three timestamp modes."""
