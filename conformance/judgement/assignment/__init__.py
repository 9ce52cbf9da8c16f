"""Judgement of an assignment that an implementation shows, stage by stage."""
