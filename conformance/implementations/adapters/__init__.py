"""Adapters of the reference, the article's algorithm, Ultralytics and other projects."""
