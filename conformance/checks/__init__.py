"""The checks of an implementation on one batch, and the registry of the checks with generated batches."""
