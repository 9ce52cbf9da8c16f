"""Batches of real trainings: recording them, training on photographs, and comparing where two losses lead."""
