"""Adapters of the implementations that this project knows: its own, Ultralytics and other projects."""
