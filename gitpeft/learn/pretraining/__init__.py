"""Building a base model from a corpus of many histories."""
