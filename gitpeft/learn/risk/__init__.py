"""Fitting, calibrating, comparing and choosing risk models."""
