"""Changes of files made by hypothesis, as the tests of the compact form and of the renderer want them."""

import os

from hypothesis import strategies as st

from gitpeft.diff.patch import FileChange, Hunk


def printable_path(path: bytes) -> str:
    """A path as this project prints it: what is not printable is a question mark."""
    return "".join(c if c.isprintable() else "?" for c in path.decode("utf-8", "replace"))


TEXTS = st.text(max_size=40)
HUNKS = st.lists(
    st.builds(
        Hunk,
        TEXTS,
        st.lists(st.tuples(st.sampled_from("+- "), st.text(max_size=300)).map("".join), max_size=30),
    ),
    max_size=4,
)
PATHS = st.text(max_size=200).map(
    lambda path: "d/" + printable_path(os.fsencode(path.encode(errors="replace")))
)
FILE_CHANGES = st.lists(
    st.builds(
        FileChange,
        path=PATHS,
        status=st.sampled_from("AMDRCT"),
        old_path=st.none() | PATHS,
        added=st.integers(0, 10**6),
        removed=st.integers(0, 10**6),
        kind=st.sampled_from(["text", "text", "binary", "generated", "mode"]),
        hunks=HUNKS,
    ),
    max_size=40,
)
