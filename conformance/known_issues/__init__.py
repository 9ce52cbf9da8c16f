"""The ledger of known issues, and the findings: probable bugs of official code, each with a script."""
