"""Random numbers by position, and the noise, particles and deformations made from them."""
