"""From shards to the token store, in three timestamp modes."""
