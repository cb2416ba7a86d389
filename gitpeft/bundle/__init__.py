"""A trained model on disk: its files, the versions a repository keeps, and the base in the package."""
