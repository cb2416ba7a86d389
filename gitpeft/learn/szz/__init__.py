"""Tracing fixes to the commits that introduced the bugs (SZZ)."""
