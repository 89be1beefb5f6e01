"""Shifts and poses of particles against a reference, and averages in its frame."""
