"""Mutation testing: planted faults and generated mutants that the suite must detect."""
