"""Text for terminals and logs: foreign text is shown, never obeyed."""


def replace_unprintable(text: str, keep: str = "") -> str:
    """The text with `?` for each character that is not printable (escape sequences begin with one).

    Line breaks count as unprintable too; the characters in `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else "?" for c in text)


def format_as_line(text: str, limit: int = 300) -> str:
    """The same on one line: white space becomes single spaces, and what is longer than `limit` is cut."""
    return replace_unprintable(" ".join(text.split()))[:limit]
