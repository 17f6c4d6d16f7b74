"""The research layer: edits, reading, comparison, sweeps, fitting. Nothing below imports it."""
