"""Suggested messages, and their JSON form in the cache and between the hook and its child process."""

from collections.abc import Mapping

from gitpeft.lazy import field, lazy_dataclass


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


@lazy_dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What the model suggests for a change, best first.

    Where all was withheld for its score, there are no suggestions, and `best_score` (0..1) is the highest;
    else it is None. `problem` says why the model had no part in them, "" where it had.
    """

    suggestions: list[Suggestion] = field(default_factory=list)
    best_score: float | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, object]:
        """The answer, without its problem, for JSON."""
        return {"suggestions": [one.to_row() for one in self.suggestions], "best_score": self.best_score}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "ModelAnswer | None":
        """The answer that `to_dict` wrote, among other keys; None if it is malformed."""
        rows, best = data.get("suggestions"), data.get("best_score")
        if not isinstance(rows, list):
            return None
        found = [one for row in rows if (one := Suggestion.from_row(row))]
        if len(found) != len(rows):
            return None
        return cls(found, float(best) if isinstance(best, int | float) else None)
