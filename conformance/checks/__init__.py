"""The checks that an implementation undergoes on one batch, and the registry of those with generated batches."""
