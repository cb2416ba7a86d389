"""Base models, architectures, and the methods that tune them."""
