"""Hazards: properties of a batch that implementations tend to get wrong, found in its content."""
