"""The mined history of a repository: its store, the past of a change, and which commits are fixes."""
