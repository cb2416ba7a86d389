"""Descriptions: short messages that say what a change provably does, in the team's own wording.

Only where a person would say just that: a typo, a new version, a rename, tests for something. A change of
which nothing better than "Update FILE" can be said gets no description, unless this is how the team words it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from gitpeft.diff.definitions import COMMENT_LINE, IMPORT_LINE
from gitpeft.diff.edits import common_prefix_length
from gitpeft.diff.path_kinds import PROSE_PATH, is_changelog
from gitpeft.lazy import lazy_pattern
from gitpeft.suggest.change_view import ChangeView, VersionChange
from gitpeft.suggest.team_wording import TeamWording, split_prefix

MAX_DESCRIPTIONS = 6
_USUAL_UPDATES = 10
"""In so many of the newest subjects a team says only which file was updated, before that is offered."""

MAX_NOTE_LENGTH = 90
"""Characters of the longest entry in a log of changes that is offered as it stands."""

_TYPES = {
    "docs": ("docs", "doc"),
    "tests": ("test", "tests"),
    "CI": ("ci",),
    "build": ("build", "chore", "deps"),
}
_WORD = lazy_pattern(r"[A-Za-z]{3,}")
_IDENTIFIER = lazy_pattern(r"[A-Za-z_]\w{2,}")
_MARKUP = lazy_pattern(r":[\w:+-]+:`~?\.?([^`<]*?)(?:\s*<[^>]*>)?`|\[([^\]]*)\]\([^)]*\)|``")
_REFERENCE = lazy_pattern(
    r"\s*(?:[(\[]?(?:by|thanks to|closes|fixes|fixed|pr|issue|see)?\s*:?(?:issue|pr|ghpull|ghissue)?:?"
    r"`?[#!]\d+`?[)\]]?"
    r"|\(?@[\w-]+\)?)[.,\s]*$",
    re.IGNORECASE,
)
_OWN_VERSION_PATH = lazy_pattern(
    r"(?:^|/)(?:__init__|__version__|_?version|setup|about|__about__)[^/]*$|(?:^|/)(?:package\.json|cargo\.toml"
    r"|pyproject\.toml|[^/]*\.gemspec|pom\.xml|setup\.cfg|[^/]*\.csproj|build\.gradle|composer\.json)$",
    re.IGNORECASE,
)


def describe_change(view: ChangeView, wording: TeamWording, nearest: Sequence[str]) -> list[str]:
    """The descriptions of a change, the most telling first; `nearest` are subjects of similar changes."""
    if not view.files:
        return []
    prefix = _choose_prefix(view, wording, nearest)
    said = [wording.phrase(text, prefix) for text in _list_statements(view, wording)]
    said += [_fit_note(note, wording, prefix) for note in _list_notes(view)]
    return list(dict.fromkeys(said))[:MAX_DESCRIPTIONS]


def _choose_prefix(view: ChangeView, wording: TeamWording, nearest: Sequence[str]) -> str:
    """The prefix of most of the nearest messages, or the usual one for files of this kind."""
    if not wording.has_prefixes:
        return ""
    [kind] = view.kinds if len(view.kinds) == 1 else [""]
    near: Counter[str] = Counter()
    for rank, subject in enumerate(nearest[:5]):
        prefix = split_prefix(subject)[0]
        fits = not kind or any(prefix.startswith(word) for word in _TYPES.get(kind, ()))
        near[prefix] += int(12 / (rank + 2)) * (3 if fits and kind else 1)
    if kind and not any(p.startswith(_TYPES.get(kind, ())) for p in near if p):
        for prefix, _ in wording.prefixes.most_common():
            if prefix.startswith(_TYPES.get(kind, ())):
                return prefix
    return near.most_common(1)[0][0] if near else wording.prefixes.most_common(1)[0][0]


# --- statements -------------------------------------------------------------------------------------------


def _list_statements(view: ChangeView, wording: TeamWording) -> Iterator[str]:
    yield from _describe_versions(view, wording)
    yield from _describe_renames(view)
    yield from _describe_files(view, wording)
    yield from _describe_small_edits(view, wording)
    yield from _describe_definitions(view)


def _describe_versions(view: ChangeView, wording: TeamWording) -> Iterator[str]:
    changes = view.versions
    if not changes:
        return
    own = [
        one for one in changes if not one.name or one.name.lower().strip("_") in ("version", "__version__")
    ]
    own = [one for one in own if _OWN_VERSION_PATH.search(one.path)]
    if own:
        yield from _describe_release(own[0], wording)
        return
    named = [one for one in changes if one.name]
    if len({one.name for one in named}) == 1 and len({one.new for one in named}) == 1:
        one = named[0]
        verb = wording.choose("bump", "update", "upgrade")
        pair = wording.count_matches(r"\bfrom v?\d\S* to v?\d")
        single = wording.count_matches(r"\b(?:bump|update|upgrade)\b(?!.*\bfrom v?\d).*\bto v?\d")
        yield (
            f"{verb} {one.name} from {one.old} to {one.new}"
            if pair > single
            else f"{verb} {one.name} to {one.new}"
        )
    elif len({one.name for one in named}) > 2 and len(named) >= 0.6 * len(view.pairs):
        verb = wording.choose("bump", "update", "upgrade")
        yield f"{verb} {wording.choose('dependencies', 'deps', 'requirements')}"


def _describe_release(one: VersionChange, wording: TeamWording) -> Iterator[str]:
    new = one.new.removeprefix("v")
    forms = (
        ("bump version to {}", r"^bump.*version.*\d"),
        ("release {}", r"^releas\w* v?\d"),
        ("bump to {}", r"^bump to v?\d"),
    )
    used = [(wording.count_matches(pattern), form) for form, pattern in forms]
    if max(used)[0]:
        yield max(used, key=lambda pair: pair[0])[1].format(new)


def _describe_renames(view: ChangeView) -> Iterator[str]:
    moved = [one for one in view.files if one.status == "R"]
    if moved and len(moved) == len(view.files):
        one = moved[0]
        (old_folder, _, old), (folder, _, new) = (
            path.rpartition("/") for path in (one.old_path or "", one.path)
        )
        if len(moved) == 1 and old != new and old:
            yield f"rename {old} to {new}"
        elif folder != old_folder and len(moved) == 1:
            yield f"move {new} to {folder or 'the root'}"
    if (
        not view.replacements
        or len(view.pairs) < 2
        or view.definitions["added"]
        or view.definitions["removed"]
    ):
        return
    old, new = view.replacements[0]
    share = sum(1 for _, a, b in view.pairs if a and b and old in a and new in b) / len(view.pairs)
    defined = (old, new) in view.definitions["renamed"]
    if share >= (0.4 if defined else 0.8) and _IDENTIFIER.fullmatch(old) and _IDENTIFIER.fullmatch(new):
        yield f"rename {old} to {new}"


def _describe_files(view: ChangeView, wording: TeamWording) -> Iterator[str]:
    names = [one.path.rpartition("/")[2] for one in view.files]
    if len(view.files) == 1:
        one = view.files[0]
        if one.status == "D":
            yield f"remove {names[0]}"
        elif one.status == "A":
            yield f"add {names[0]}"
        elif usual := _find_usual_update(names[0], wording):
            yield f"update {usual}"
    elif (
        all(one.status == "D" for one in view.files)
        and len({one.path.rpartition("/")[0] for one in view.files}) == 1
    ):
        yield f"remove {view.files[0].path.rpartition('/')[0].rpartition('/')[2] or 'files'}"


def _find_usual_update(name: str, wording: TeamWording) -> str:
    """How the team calls a file in messages that say only that it was updated; "" if it writes none such."""
    if wording.count_matches(r"^updated? \S+\.\w+$") >= _USUAL_UPDATES:
        return name
    stem = name.partition(".")[0]
    if wording.count_matches(rf"^(?:docs: )?updated? (?:the )?{re.escape(stem)}(?:\.\w+)?$") < 2:
        return ""
    return wording.choose(stem, stem.lower(), name)


def _describe_small_edits(view: ChangeView, wording: TeamWording) -> Iterator[str]:
    changed = [(path, old, new) for path, old, new in view.pairs if (old or new or "").strip()]
    if not changed or view.definitions["added"]:
        return
    if _is_typo_fix(changed, view):
        several = len(view.replacements) > 1
        article = 2 * wording.count_matches(r"\ba typo\b") > wording.count_matches(r"\btypo\b")
        typo = "fix typos" if several else "fix a typo" if article else "fix typo"
        name = view.files[0].path.rpartition("/")[2]
        in_file = wording.count_matches(r"\btypos? in\b") > wording.count_matches(r"\btypos?$")
        if len(view.files) == 1 and in_file:
            yield f"{typo} in {_name_document(name)}"
        else:
            yield typo
    if all(old and not new and IMPORT_LINE.match(old) for _, old, new in changed):
        yield f"remove unused {'imports' if len(changed) > 1 else 'import'}"
    if all(_is_space_edit(old, new) for _, old, new in changed):
        yield wording.choose("fix formatting", "fix indentation", "fix whitespace", "fix lint")


def _name_document(name: str) -> str:
    return (
        name.partition(".")[0] if name.lower().startswith(("readme", "changelog", "contributing")) else name
    )


def _is_typo_fix(changed: Sequence[tuple[str, str | None, str | None]], view: ChangeView) -> bool:
    """Whether words of prose became words that are almost the same, and nothing else changed."""
    if len(view.replacements) > 6 or not view.replacements or not all(old and new for _, old, new in changed):
        return False
    prose = all(
        PROSE_PATH.search(path) or COMMENT_LINE.match((new or "").strip()) or " " in (new or "").strip()
        for path, _, new in changed
    )
    return prose and all(_are_spelling_variants(old, new) for old, new in view.replacements)


def _are_spelling_variants(old: str, new: str) -> bool:
    if not (_WORD.search(old) and _WORD.search(new)) or re.search(r"[\d_()=]", old + new):
        return False
    a, b = old.split(), new.split()
    if len(a) != len(b) or len(a) > 4:
        return abs(len(a) - len(b)) == 1 and "".join(a) == "".join(b)
    return all(_differ_slightly(x, y) for x, y in zip(a, b, strict=True))


def _differ_slightly(a: str, b: str) -> bool:
    if a == b:
        return True
    shorter, longer = sorted((len(a), len(b)))
    if shorter < 3 or longer - shorter > 2 or a[0].lower() != b[0].lower() or a.lower() == b.lower():
        return False
    shared = common_prefix_length(a, b) + common_prefix_length(a[::-1], b[::-1])
    return longer - min(shared, shorter) <= 2


def _is_space_edit(old: str | None, new: str | None) -> bool:
    return bool(old and new) and "".join((old or "").split()) == "".join((new or "").split())


def _describe_definitions(view: ChangeView) -> Iterator[str]:
    added, removed = view.definitions["added"], view.definitions["removed"]
    if view.kinds == {"tests"} and view.size.added:
        tested = next((view.roles[role] for role in ("tested0", "tested1") if role in view.roles), "")
        tests = [name for kind, name in added if kind == "test"]
        if tests and not removed:
            yield f"add {'test' if len(tests) == 1 else 'tests'}" + (f" for {tested}" if tested else "")
        return
    code = [(kind, name) for kind, name in added if kind not in ("test", "section")]
    gone = [(kind, name) for kind, name in removed if kind not in ("test", "section")]
    if len(code) == 1 and not gone and view.size.added >= 3 * view.size.removed:
        yield f"add {code[0][1]}"
    if gone and not code and view.size.removed >= 3 * view.size.added and len(gone) == 1:
        yield f"remove {gone[0][1]}"
    sections = [name for kind, name in added if kind == "section"]
    if view.kinds == {"docs"} and len(sections) == 1 and not removed and not is_changelog(view.files[0].path):
        yield f"add {sections[0]}"


# --- logs of changes ----------------------------------------------------------------------------------------


def _list_notes(view: ChangeView) -> Iterator[str]:
    """What the change says of itself in a log of changes: the first new entry, in plain text."""
    for path in dict.fromkeys(path for path, _, _ in view.pairs if is_changelog(path)):
        lines = [new for one, old, new in view.pairs if one == path and new and not old]
        if not lines:
            continue
        entry: list[str] = []
        for line in lines:
            text = line.strip()
            begins = re.match(r"[-*+•]\s+", text)
            if entry and (begins or not text):
                break
            if begins or entry or len(_WORD.findall(text)) >= 3:
                entry.append(re.sub(r"^[-*+•]\s+", "", text))
        note = _clean_note(" ".join(entry))
        if len(note.split()) >= 3 and len(note) <= MAX_NOTE_LENGTH:
            yield note
            return


def _clean_note(text: str) -> str:
    text = _MARKUP.sub(lambda match: match[1] or match[2] or "", text)
    before = ""
    while before != text:
        before, text = text, _REFERENCE.sub("", text).rstrip()
    sentence = re.split(r"(?<=\w\w[.])\s", text, maxsplit=1)[0]
    return sentence.replace("`", "").strip().rstrip(".")


def _fit_note(note: str, wording: TeamWording, prefix: str) -> str:
    """An entry with the team's prefix, and its first letter in the usual case."""
    return prefix + wording.fit_case(note) + ("." if wording.has_full_stop else "")
