"""Retraining on new history: champion against challenger, one repository or several."""
