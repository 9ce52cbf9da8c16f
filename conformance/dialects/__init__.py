"""Dialects compared: changes between implementations, the release of a change, and the dialect of an implementation."""
