"""Everything asked of git: the only package that runs it."""
