"""Tuning methods side by side on one history, within a time budget."""
