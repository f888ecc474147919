"""Faults, tried on the real stages: what is on disk afterwards is whole, and nothing that was whole is lost."""
