"""Findings on the inputs of a loss, before any loss is computed: what is unusual, wrong or cannot be learnt."""
