"""Faults, tried on the real stages: what is on disk is whole afterwards, and nothing is lost."""
