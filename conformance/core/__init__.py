"""Data types and file formats that all packages share. Nothing here judges, runs an implementation, or needs pytest."""
