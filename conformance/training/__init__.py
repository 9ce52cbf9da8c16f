"""Real trainings: record their batches, train on photographs, and compare the weights that two losses lead to."""
