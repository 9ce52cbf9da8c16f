"""Judgement of a loss that hides its assignment, by the assignments and weights that its gradients allow."""
