"""Work is done once and survives: the store, the executors, training and provenance."""
