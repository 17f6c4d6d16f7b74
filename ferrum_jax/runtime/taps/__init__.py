"""Taps of served requests: edits side by side in one program, captures on their way out."""
