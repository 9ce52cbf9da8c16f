"""Data that every room shares, without opinions: nothing here judges, runs an implementation, or needs pytest."""
