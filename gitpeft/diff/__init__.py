"""What changed: patches parsed, shortened and rendered as the models read them."""
