"""Fixes told by a character, by the marks of communities, and in other languages than English."""

import pytest

from gitpeft.history import fix_detection
from gitpeft.history.fix_detection import MIN_MESSAGES, find_fix_evidence, learn_fix_conventions


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("🐛 accept an empty list", "type"),
        ("🚑️ stop the loop", "type"),
        ("🩹 accept an empty list", "type"),
        ("🔒️ escape paths", "type"),
        (":bug: accept an empty list", "type"),
        (":ambulance: stop the loop", "type"),
        ("🐛fix(parser): accept an empty list", "type"),
        ("fix: 🐛 accept an empty list", "type"),
        ("fix：accept an empty list", "type"),
        ("⏪️ take the cache back", "revert"),
        ("BUG: accept an empty list", "type"),
        ("BUG/PERF: accept an empty list", "type"),
        ("FIX accept an empty list", "type"),
        ("BF: accept an empty list", "type"),
        ("[FIX] web: accept an empty list", "type"),
        ("[BUGFIX] Accept an empty list", "type"),
        ("[Fix #12] Accept an empty list", "type"),
        ("Accept an empty list\n\nCloses-Bug: #12", "issue"),
        ("Accept an empty list\n\nBUG: 123456\nFIXED-IN: 5.2", "issue"),
        ("Accept an empty list\n\nFixed: 12345", "issue"),
        ("Absturz bei leerer Liste behoben", "word"),
        ("Fehlerbehebung: leere Liste", "word"),
        ("Corrige le plantage avec une liste vide", "word"),
        ("Corregido el error de la lista", "word"),
        ("Corrigido erro na lista", "word"),
        ("Correzione della lista vuota", "word"),
        ("Verholpen: lege lijst", "word"),
        ("Naprawiono listę", "word"),
        ("Opraveno pro prázdný seznam", "word"),
        ("Исправлена ошибка в списке", "word"),
        ("Виправлено список", "word"),
        ("修复空列表的崩溃", "word"),
        ("修正空列表", "word"),
        ("解决登录的问题", "word"),
        ("リストが空のときの不具合を修正", "word"),
        ("빈 목록 버그 고침", "word"),
        ("Boş liste hatası düzeltildi", "word"),
        ("Perbaiki daftar kosong", "word"),
    ],
)
def test_labels_miss_no_fix_that_a_person_sees(message: str, kind: str) -> None:
    assert find_fix_evidence(message) == kind


@pytest.mark.parametrize(
    "message",
    [
        "✨ add a list",
        "📝 fix the crash in the manual",
        "🎨 fix the layout of the code",
        "🚨 fix warnings",
        "💚 fix the build",
        "✏️ fix typo",
        "🐛 fix typo",
        "🐛 fix failing tests",
        ":memo: bug list",
        "feat：修复列表",
        "DOC: fix the example",
        "[FIX] typo in README",
        "Tippfehler korrigiert",
        "Corrige une faute de frappe",
        "修复错别字",
        "修正测试",
        "Исправлена опечатка",
        "ドキュメントを修正",
        "Add a list",
    ],
)
def test_what_repairs_no_code_is_none(message: str) -> None:
    assert find_fix_evidence(message) is None


def test_a_repository_of_emoji_is_a_typed_one() -> None:
    texts = [f"✨ thing {i}" for i in range(MIN_MESSAGES)] + ["🐛 accept an empty list", "Fix crash"]
    habits, counts = learn_fix_conventions(texts)
    assert habits.typed and counts == {"type": 1}
    assert find_fix_evidence("Fix crash", habits) is None


def test_a_cheap_look_misses_no_language_and_no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        "Backed out changeset 0a1b2c3", "Rollback of #12", "Undo 'x'", "Reland 'x'", ":rewind: x", "BF: x",
        ":ambulance: x", ":adhesive_bandage: x", ":lock: x", ":beetle: x", ":apple: x", ":penguin: x",
        ":checkered_flag: x", ":non-potable_water: x", "Behebt x", "Behoben", "Fehlerbehebung", "Repariert x",
        "Absturz", "Korrigiert", "Verhelp x", "Verholpen", "Hersteld", "Opgelost", "Foutmelding", "Rettet x",
        "Ordnet", "Corrige x", "Correccion", "Correcao", "Correzione", "Corretto", "Corregge", "Arregla x",
        "Solucionado", "Conserta x", "Ajuste de bug", "Sistemato", "Risolto", "Risolve", "Remediat",
        "Reparat", "Naprawa", "Poprawka", "Oprava x", "Ispravak", "Popravlja", "Korjaus", "Giderildi", "Hata",
        "Perbaiki", "Javitas", "Fixar", "x\n\nFixed-In: 5", "x\n\nBUG: 123456",
    ]  # fmt: skip
    seen = [find_fix_evidence(text) for text in texts]
    monkeypatch.setattr(fix_detection, "_FIX_HINTS", ("",))  # no look at all
    assert seen == [find_fix_evidence(text) for text in texts]
    assert seen.count(None) < 12
