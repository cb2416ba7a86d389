"""Foreign names: kept byte by byte where they identify something, shown on terminals, never obeyed."""


def decode_exactly(name: bytes) -> str:
    """A path or a person as text that stands for exactly these bytes; those not UTF-8 become surrogates."""
    return name.decode("utf-8", "surrogateescape")


def encode_exactly(name: str) -> bytes:
    """The bytes of what `decode_exactly` returned."""
    return name.encode("utf-8", "surrogateescape")


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
