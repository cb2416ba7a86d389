"""Regular expressions for the hook's path: hides that each is compiled when it is first asked for something.

Compiling all that a commit's message and change might need takes longer than most commits need them.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from re import compile as lazy_pattern
else:

    class lazy_pattern:
        """What `re.compile` gives, with the same methods; a bad expression shows on first use."""

        def __init__(self, text: str | bytes, flags: int = 0) -> None:
            self.__given = text, flags

        def __getattr__(self, name: str) -> Any:
            value = getattr(re.compile(*self.__given), name)
            setattr(self, name, value)  # from now on as quick as the original
            return value


__all__ = ["lazy_pattern"]
