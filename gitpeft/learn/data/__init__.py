"""Commits as training examples: what is left out, how they are split, batched and cut."""
