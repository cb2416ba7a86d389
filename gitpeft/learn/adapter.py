"""The name under which adapters saved by earlier versions know `gitpeft.learn.models.bottleneck`."""

from gitpeft.learn.models.bottleneck import *  # noqa: F403
