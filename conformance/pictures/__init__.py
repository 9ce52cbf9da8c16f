"""Data of the report's pictures: one image of a failing batch, and the walkthrough of a recorded training."""
