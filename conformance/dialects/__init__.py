"""Dialects compared: what changed (`diff`), at which release (`bisect`), and who speaks which (`identify`)."""
