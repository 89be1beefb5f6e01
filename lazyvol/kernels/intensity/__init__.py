"""Grey levels: normalization, equalization, thresholds and fills under masks."""
