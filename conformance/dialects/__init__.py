"""Dialects: how implementations differ, which release changed a choice, which dialect explains outcomes."""
