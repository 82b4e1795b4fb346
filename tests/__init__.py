"""A package, so that spawned processes find test functions by their names."""
