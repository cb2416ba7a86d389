"""Git's hooks: what runs in them, and how they are installed, removed and examined."""
