"""Learning: the only home of torch. It needs the extra `gitpeft[train]`.

Importing this package registers the project's own model class with the Auto classes of `transformers`; where
the extra is not installed there is nothing to register, and only what needs no torch can be used.
"""

from importlib.util import find_spec

if find_spec("torch") and find_spec("transformers"):
    from gitpeft.learn.models import pointer_t5 as pointer_t5
