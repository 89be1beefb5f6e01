"""Public operations, one module per topic."""
