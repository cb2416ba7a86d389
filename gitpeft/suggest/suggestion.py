"""A suggested message, and its JSON form in the cache and between the hook and its child process."""

from gitpeft.lazy import lazy_dataclass


@lazy_dataclass(frozen=True, slots=True)
class Suggestion:
    """A message to offer, with its score (0..1) and its origin ("generated", "retrieved", "analogy" or
    "described").

    `like` are the ids of the commits behind it: the one whose message it is or was, or the model's exemplars.
    """

    message: str
    score: float = 0.0
    origin: str = "generated"
    like: tuple[str, ...] = ()

    def to_row(self) -> list[object]:
        """The suggestion as a JSON list."""
        return [self.message, self.score, self.origin, list(self.like)]

    @classmethod
    def from_row(cls, row: object) -> "Suggestion | None":
        """The suggestion that `to_row` wrote; None if it is anything else."""
        if not (isinstance(row, list) and len(row) == 4):
            return None
        message, score, origin, like = row
        if not (isinstance(message, str) and isinstance(score, int | float) and isinstance(origin, str)):
            return None
        if not (isinstance(like, list) and all(isinstance(sha, str) for sha in like)):
            return None
        return cls(message, float(score), origin, tuple(like))
