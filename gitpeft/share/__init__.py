"""Publishing a model to the team and pulling it, through git, a folder or a file."""
