"""Poses of particles against a reference, and averages in the frame of the reference."""
