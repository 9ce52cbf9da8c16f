"""Pictures of assignments as plain data: one image for a failure, and the walkthrough of a recorded training."""
