"""Random numbers by position, and noise, particles and deformations computed from them."""
