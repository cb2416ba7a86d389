"""How fixes are marked outside plain English: by emoji, by the marks of communities, in other languages.

Emoji are those of gitmoji.dev, as characters or `:codes:`. The marks are those of large projects: NumPy and
pandas (`BUG:`), scikit-learn (`FIX`), Odoo and TYPO3 (`[FIX]`, `[BUGFIX]`), NiPy (`BF:`), OpenStack
(`Closes-Bug:`), KDE (`BUG: 123456`) and Chromium (`Fixed: 123`).
"""

from gitpeft.lazy import lazy_pattern

FIX_EMOJI = (
    *("🐛", "🐞", "🚑", "🩹", "🔒", "🍎", "🐧", "🏁", "🚱"),
    *(
        ":bug:",
        ":beetle:",
        ":ambulance:",
        ":adhesive_bandage:",
        ":lock:",
        ":apple:",
        ":penguin:",
        ":checkered_flag:",
    ),
    ":non-potable_water:",
)
OTHER_EMOJI = (
    *(
        "✨",
        "📝",
        "📚",
        "🎨",
        "⚡",
        "🔥",
        "🚀",
        "💄",
        "🎉",
        "✅",
        "🔐",
        "🔖",
        "🚨",
        "🚧",
        "💚",
        "⬇",
        "⬆",
        "📌",
        "👷",
        "📈",
        "♻",
    ),
    *(
        "➕",
        "➖",
        "🔨",
        "🌐",
        "✏",
        "💩",
        "🔀",
        "📦",
        "🚚",
        "📄",
        "🍱",
        "💡",
        "🔊",
        "🔇",
        "👥",
        "📱",
        "🤡",
        "🙈",
        "📸",
    ),
    *("🏷", "🌱", "🚩", "💫", "🗑", "🧪", "🧱", "🧑", "💸", "🧵", "🦺", "🛂", "🧐", "⚰", "👔", "🩺"),
    *(
        ":sparkles:",
        ":memo:",
        ":art:",
        ":zap:",
        ":fire:",
        ":rocket:",
        ":lipstick:",
        ":tada:",
        ":white_check_mark:",
    ),
    *(
        ":bookmark:",
        ":rotating_light:",
        ":construction:",
        ":green_heart:",
        ":arrow_up:",
        ":arrow_down:",
        ":pushpin:",
    ),
    *(
        ":construction_worker:",
        ":recycle:",
        ":heavy_plus_sign:",
        ":heavy_minus_sign:",
        ":hammer:",
        ":pencil2:",
    ),
    *(
        ":truck:",
        ":page_facing_up:",
        ":bulb:",
        ":package:",
        ":label:",
        ":wastebasket:",
        ":test_tube:",
        ":see_no_evil:",
    ),
)
REVERT_EMOJI = ("⏪", ":rewind:")

EMOJI_START = lazy_pattern(
    r"\s*(?P<emoji>:[a-z0-9_+-]+:|[\u2190-\u2bff\U0001f000-\U0001faff]+)[\ufe0e\ufe0f\u200d]*\s*"
)
"""An emoji or its code at the start of a subject, with the white space behind it."""

FIX_MARK = lazy_pattern(
    r"(?:BUG|BUG-?FIX|FIX(?:E[DS])?|HOT-?FIX)(?:/[A-Z]+)*(?:\([^()\n]*\))?"
    r"(?::\s*|\s+[-|]\s+|\s+(?=[^\d\s#]))|BF: "
    r"|\[(?:[\w-]+[:/ ])?(?i:bug-?fix|hot-?fix|fix(?:e[ds])?|bug)(?:[ :,-][^\]\n]*)?\][:\s]*"
)
"""A mark at the start of a subject that says that it is a fix."""

FIX_TRAILER = lazy_pattern(
    r"(?im)^(?:closes-bug|partial-bug|fixes-bug|fixed|bugfix(?:es)?):? *#?\d+\b|^BUG: *(?:\d{4,}|https?://\S+)"
    r"|^fixed-in: *\S"
)
"""A trailer that closes a bug: OpenStack, Chromium, KDE, Samba."""

FOREIGN_FIX = lazy_pattern(
    r"(?i)\b(?:"
    # German, Dutch, Swedish, Norwegian, Danish
    r"behebt|behoben|behebe|bug ?behoben|fehler ?(?:behoben|behebung|korrigiert|beseitigt|korrektur)"
    r"|fehlerbehebung(?:en)?|repariert?|absturz|korrigiert?|verhelpt?|verholpen|hersteld?|opgelost|foutmelding"
    r"|fixa(?:r|de|t)?|åtgärda[rdt]*|rätta[rdt]*|retter|rettet|ordnet|løst"
    # French, Spanish, Portuguese, Italian, Catalan, Romanian
    r"|corrig(?:e|é|ée|és|ées|er|ir|ido|ida|idos|iendo|indo|eix)?|corrige[sz]?|corriger|corrección|correção"
    r"|correcao|correzione|corrett[oaie]|correg[gi]\w*|corrections? (?:d['’]|du |de |des )\w*"
    r"|réparation|répare"
    r"|arregl(?:a|o|ar|ado|ada|ando|os)|soluciona(?:do|da|r|ndo)?|conserta(?:do|r|ndo)?|ajuste de bug"
    r"|sistemat[oaie]|risolt[oaie]|risolve|risolto|remediat|repar(?:at|ă|ado|ar)"
    # Polish, Czech, Slovak, Croatian, Slovenian, Hungarian, Finnish, Turkish, Vietnamese, Indonesian
    r"|napraw\w+|popraw(?:iono|ka|ki|ił|iłem|ić|a)\b|oprav\w+|ispravlj\w+|ispravak|ispravi\w*|popravlj\w+"
    r"|javít(?:ás|va|ott)\w*|hibajavítás|korjaa|korjattu|korjaus|düzelt\w+|giderildi|hata(?:sı|lar)?\b"
    r"|sửa lỗi|khắc phục|perbaik(?:i|an)|memperbaiki"
    r")\b"
    # Russian, Ukrainian, Belarusian, Bulgarian; Greek; Arabic, Hebrew, Persian
    r"|\b(?:исправ|пофикс|фикс|починил|починка|устран[еи]|виправ|полагодж|поправк|оправи|коригира|баг|ошибк)\w*"
    r"|διόρθω\w*|διορθώ\w*|إصلاح|تصحيح|תיקון|תוקן|رفع (?:باگ|مشکل|خطا)"
    # Chinese, Japanese, Korean, Hindi, Thai
    r"|修复|修復|修正|修补|修補|解决.{0,20}(?:问题|錯誤|错误|崩溃)|解決.{0,20}(?:問題|錯誤)|不具合|バグ|直した|直す|改修"
    r"|버그|오류|에러|고침|고쳤|해결|ठीक|แก้(?:บั๊ก|ไข)"
)
FOREIGN_TRIVIAL = lazy_pattern(
    r"(?i)typos?\b|tippfehler|rechtschreib|schreibfehler|fautes? (?:de frappe|d.orthographe)|coquille"
    r"|orthograph"
    r"|ortografía|ortografia|errata|refuso|literówk|překlep|preklep|опечат|орфограф|помилк[аи] в тексті"
    r"|документац|коммент|комментар|\bтест|\bтесты|错别字|錯字|拼写|文档|文檔|注释|註解|测试|測試|格式"
    r"|誤字|脱字|タイポ|ドキュメント|コメント|テスト|오타|주석|문서|테스트|yazım|kommentar|dokument|documenta|\btests?\b"
    r"|readme|changelog|merge"
)
"""In such a subject the fix is one of words, of documents, or of tests."""


FOREIGN_HINTS = (
    *(
        "beheb",
        "behob",
        "fehler",
        "repar",
        "absturz",
        "korrig",
        "verh",
        "herstel",
        "opgelost",
        "foutmeld",
        "rette",
    ),
    *(
        "ordnet",
        "corrig",
        "corre",
        "arregl",
        "solucion",
        "conserta",
        "ajuste",
        "sistemat",
    ),
    *(
        "risol",
        "remediat",
        "napraw",
        "popraw",
        "oprav",
        "isprav",
        "javit",
        "korja",
        "giderildi",
        "hata",
        "perbaik",
    ),
)
"""Substrings of which an ASCII subject that `FOREIGN_FIX` matches contains one."""


def find_emoji_meaning(subject: str) -> tuple[str, str]:
    """What the emoji at the start of a subject says (`fix`, `revert`, `other`, "" for none), and the rest."""
    found = EMOJI_START.match(subject)
    if found is None:
        return "", subject
    emoji, rest = found["emoji"], subject[found.end() :]
    for meaning, known in (("revert", REVERT_EMOJI), ("fix", FIX_EMOJI), ("other", OTHER_EMOJI)):
        if emoji.startswith(known):
            return meaning, rest
    return "", rest


def is_foreign_fix(subject: str) -> bool:
    """Whether a subject in another language than English speaks of a repair, not of words or tests alone."""
    return FOREIGN_FIX.search(subject) is not None and FOREIGN_TRIVIAL.search(subject) is None
