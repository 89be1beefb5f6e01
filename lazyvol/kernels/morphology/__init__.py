"""Binary morphology and connected components."""
