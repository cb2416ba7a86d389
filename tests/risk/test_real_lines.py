"""Which changed lines of code say something, of a parsed change and of its stored form."""

import pytest

from gitpeft.diff.patch import parse_patch
from gitpeft.diff.stored import store_change
from gitpeft.risk.real_lines import measure_real_shares, measure_stored_shares, read_real_lines

PATCH = b"""diff --git a/src/a.py b/src/a.py
index 1111111..2222222 100644
--- a/src/a.py
+++ b/src/a.py
@@ -1,4 +1,6 @@ def run():
-    # an old comment
-    moved = 1
-    gone = 2
+    # a new comment
+
+    fresh = 3
+        moved = 1
 kept
diff --git a/README.md b/README.md
index 3333333..4444444 100644
--- a/README.md
+++ b/README.md
@@ -1 +1 @@
-old prose
+new prose
"""


def test_comments_blank_and_moved_lines_do_not_count_nor_does_prose() -> None:
    files = parse_patch(PATCH)
    assert measure_real_shares(files) == (1 / 4, 1 / 3)
    assert read_real_lines(store_change(files)) == (["fresh = 3"], ["gone = 2"])


def test_the_stored_form_gives_the_same_as_the_change() -> None:
    files = parse_patch(PATCH)
    assert measure_stored_shares(store_change(files)) == measure_real_shares(files)


@pytest.mark.parametrize("text", ["", " README.md +1 -1\n#README.md\n-old\n+new"])
def test_without_known_lines_of_code_everything_counts(text: str) -> None:
    assert measure_stored_shares(text) == (1.0, 1.0)


@pytest.mark.parametrize(
    "line, counts",
    [("#include <a.h>", True), ("*p = 0;", True), ("* text", False), ("--i;", True), ("-- note", False)],
)
def test_what_only_looks_like_a_comment_counts(line: str, counts: bool) -> None:
    assert bool(read_real_lines(f"=\n#a.c\n+{line}")[0]) is counts
