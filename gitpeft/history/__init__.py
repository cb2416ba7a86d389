"""The mined history of a repository: the store, the history before a change, and fix detection."""
