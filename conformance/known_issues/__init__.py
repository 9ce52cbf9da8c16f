"""Divergences on record (the ledger), and findings: probable bugs of official code, each with a script."""
