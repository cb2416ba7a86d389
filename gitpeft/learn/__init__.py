"""Learning: the only home of torch. It needs the extra `gitpeft[train]`.

Importing this package registers the project's own model class with the Auto classes of `transformers`, as
soon as that class exists (`gitpeft.learn.bases`).
"""
