"""`gitpeft.redaction`: each kind of secret goes, ordinary lines stay. They are put together here."""

import json
import subprocess
import sys
import time
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitpeft.redaction import PLACEHOLDER, mask_secrets

MIXED = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA" * 4
LOWER = "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6"


def _jwt() -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": "1234567890", "name": "x"})
    head = ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{head}.{MIXED[:43]}"


FORMATS = {
    "aws key": "AKIA" + "Q3EGRPVHL2ZNXT7W",
    "github": "ghp_" + MIXED[:36],
    "github fine-grained": "github_pat_" + MIXED[:22] + "_" + MIXED[:59],
    "gitlab": "glpat-" + MIXED[:20],
    "slack": "xoxb-" + "123456789012-123456789012-" + MIXED[:24],
    "slack hook": "https://hooks.slack.com" + "/services/T0ABCDEFG/B0ABCDEFG/" + MIXED[:24],
    "stripe": "sk_live_" + MIXED[:24],
    "jwt": _jwt(),
    "openai": "sk-" + MIXED[:20] + "T3Blbk" + "FJ" + MIXED[:20],
    "anthropic": "sk-ant-" + "api03-" + MIXED[:40],
    "sendgrid": "SG." + MIXED[:22] + "." + MIXED[:43],
    "google": "AIza" + MIXED[:35],
    "hugging face": "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "npm": "npm_" + MIXED[:36],
    "pypi": "pypi-" + "AgEIcHlwaS5vcmc" + MIXED[:80],
    "twilio": "SK" + LOWER,
    "mailchimp": LOWER + "-us12",
    "telegram": "123456789:" + "AA" + MIXED[:33],
    "square": "sq0csp-" + MIXED[:43],
    "vault": "hvs." + MIXED[:24],
    "shopify": "shpat_" + LOWER,
    "digitalocean": "dop_v1_" + LOWER * 2,
    "age": "AGE-SECRET-KEY-1" + MIXED[:58].upper(),
    "google client": "GOCSPX-" + MIXED[:28],
    "google oauth": "ya29." + MIXED[:40],
    "slack app": "xapp-1-" + "A012ABCD-" + MIXED[:20],
    "grafana": "glsa_" + MIXED[:32],
    "linear": "lin_api_" + MIXED[:40],
    "stripe test": "sk_test_" + MIXED[:24],
}


@pytest.mark.parametrize("secret", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("line", ["+KEY = '{}'", "+  value: {}", '-f("{}", 1)', "see {} for more"])
def test_known_formats(secret: str, line: str) -> None:
    masked = mask_secrets(f"before\n{line.format(secret)}\nafter")
    assert masked == f"before\n{line.format(PLACEHOLDER)}\nafter"


HUNTER = "hunt" + "er2!x"

NAMED = [
    ("+password = '{}'", HUNTER),
    ('+    "db_password": "{}",', HUNTER),
    ('-DB_PASS => "{}"', HUNTER),
    ("+client_secret := `{}`", HUNTER),
    ('+connect(user="me", password="{}")', HUNTER),
    ('+if "{}" == password:', HUNTER),
    ("+API_KEY={}", MIXED[:24]),
    ("+export SECRET_KEY={}", MIXED[:24]),
    (" password: {}", "s3cr" + "et-Valu3!"),
    ('+aws_secret_access_key = "{}"', MIXED[:40]),
    ('+auth_token = "{}"', MIXED[:32]),
    ("+//registry.npmjs.org/:_authToken={}", "npm_" + MIXED[:36]),
    ("+url = 'postgres://me:{}@db.example.org/x'", HUNTER.replace("!", "")),
    ("+redis://:{}@localhost:6379", "hunt" + "er2x"),
    ("+Authorization: Bearer {}", HUNTER + "22"),
    ("+curl -H 'Authorization: Basic {}' https://example.org", "bWU6" + "aHVudGVyMg=="),
    ('+  "Authorization": "token {}",', HUNTER + "22"),
    ("+curl -s -u me:{} https://example.org", HUNTER),
    ("+Server=db;User=me;Password={};", HUNTER),
    ("+jdbc:mysql://db/x?user=me&password={}&ssl=true", "hunt" + "er2x"),
    ("+PGPASSWORD={} psql -h db", HUNTER),
    ("+DB_PASSWORD={}", "hunt" + "er2"),
    ("+MYSQL_PWD={} # of production", "s3cr" + "3t"),
    ("+ENCRYPTION_KEY={}", LOWER),
    ("+run: deploy --api-token={} now", HUNTER),
    ("+https://example.org/x?access_token={}", MIXED[:24]),
    ("+<password>{}</password>", HUNTER),
    ("+define('DB_PASSWORD', '{}');", HUNTER),
]


@pytest.mark.parametrize(("line", "secret"), NAMED)
def test_named_secrets(line: str, secret: str) -> None:
    assert mask_secrets(line.format(secret)) == line.format(PLACEHOLDER)


@pytest.mark.parametrize(
    "sign", ["", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW"]
)
def test_a_private_key_is_known_in_the_middle_of_its_lines(sign: str) -> None:
    """Where one takes the place of another, what begins and ends them is not in the hunk."""
    lines = [*([sign] if sign else []), MIXED[:70], MIXED[5:75], MIXED[9:33]]
    masked = mask_secrets(
        "\n".join([" key +3 -3", "#key", *(f"{mark}{line}" for mark in "-+" for line in lines)])
    )
    assert MIXED[:70] not in masked and MIXED[5:75] not in masked and masked.count(PLACEHOLDER) >= 4
    assert not sign or (sign not in masked and MIXED[9:33] not in masked)
    assert mask_secrets(masked) == masked


def test_private_keys() -> None:
    dashes = "-" * 5
    body = [MIXED[:64], MIXED[3:67], MIXED[:30] + "=="]
    key = [
        f"{dashes}BEGIN RSA PRIVATE " + f"KEY{dashes}",
        *body,
        f"{dashes}END RSA PRIVATE " + f"KEY{dashes}",
    ]
    text = "\n".join(f"+{line}" for line in ["x = 1", *key, MIXED[:64]])
    hidden = "\n".join(["+x = 1", f"+{key[0]}", *[f"+{PLACEHOLDER}"] * 3, f"+{key[-1]}", f"+{MIXED[:64]}"])
    assert mask_secrets(text) == hidden
    inline = f'+KEY = "{key[0]}' + "\\n".join(["", *body]) + '"'
    masked = mask_secrets(inline)
    assert PLACEHOLDER in masked
    assert MIXED[:30] not in masked


ORDINARY = [
    " gitpeft/redaction.py +12 -3",
    "+commit 4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "+sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'",
    '+      "integrity": "sha512-' + MIXED[:86] + '==",',
    "+github.com/x/y v1.2.3 h1:" + MIXED[:43] + "=",
    "+id: '123e4567-e89b-12d3-a456-426614174000'",
    "+session_token = '123e4567-e89b-12d3-a456-426614174000'",
    "+password = get_password(user)",
    "+password = os.environ['PASSWORD']",
    "+password: str | None = None,",
    "+password=password, token=token)",
    '+<input type="password" name="password">',
    '+{"password": "<password>", "token": "${TOKEN}"}',
    "+DB_PASSWORD=${DB_PASSWORD}",
    "+SECRET_KEY = '{{ cookiecutter.secret_key }}'",
    '+label = "Enter your password"',
    '+token = "identifier"',
    "+expect_token('EndTag')",
    "+raise ValueError('BEGIN PRIVATE KEY not found in the given file')",
    '+headers = {"Authorization": f"Bearer {token}"}',
    "+Authorization: Bearer $TOKEN",
    '+curl -u "$USER:$PASS" https://example.org',
    "+docker run -e DB_PASSWORD=$DB_PASSWORD --token=<token> x",
    "+    RETURN_TOKEN=1 \\",
    "+if PASSWORD==other:",
    "+<password>{{ password }}</password>",
    "+" + MIXED[:64],
    "+see https://example.org:8080/@user and https://example.org/a:b@c",
    "+git clone ssh://git@example.org:22/x.git",
    "+desk-organisation-of-the-whole-office = 1",
    "+SKIP_BACKWARDS_COMPATIBILITY_CHECKS = True",
    "+tls_private_key = 'server.key'",
    "fix: reset the password of a user whose secret token expired",
]


@pytest.mark.parametrize("secret", [*FORMATS.values(), HUNTER], ids=[*FORMATS, "named"])
@pytest.mark.parametrize("words", [150, 160, 170])
def test_a_secret_where_a_long_line_is_cut_up(secret: str, words: int) -> None:
    """Anywhere around the 1,000th character, whatever stands before it."""
    for shift in range(0, 60, 7):
        line = "word- " * words + "x" * shift + f" password = '{secret}' and more"
        assert mask_secrets(line) == line.replace(secret, PLACEHOLDER)


@pytest.mark.parametrize("line", ORDINARY)
def test_ordinary_lines_stay(line: str) -> None:
    assert mask_secrets(line) == line


PIECES = [
    *FORMATS.values(),
    *(line.format(secret) for line, secret in NAMED),
    *ORDINARY,
    "\n",
    " ",
    '"',
    "'",
    "=",
    ":",
]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=12)), max_size=8).map("".join))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once = mask_secrets(text)
    assert mask_secrets(once) == once
    assert once.count("\n") == text.count("\n")


def test_a_long_line_takes_no_time() -> None:
    start = time.monotonic()
    assert mask_secrets("secret" + "_x" * 500_000) == "secret" + "_x" * 500_000
    assert time.monotonic() - start < 5


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_ordinary_text_does_not_load_the_detector() -> None:
    ordinary = [line for line in ORDINARY if "token = '123" not in line]
    code = f"import sys; from gitpeft.redaction import mask_secrets; mask_secrets({chr(10).join(ordinary)!r})"
    assert python(code + "; print('detect_secrets' in sys.modules)") == "False"


def test_the_detector_cannot_reach_a_network() -> None:
    """D7, F6: detect-secrets would try keys out through `requests`, which is never loaded."""
    secret = FORMATS["stripe"]
    code = (
        "import sys, socket; socket.socket = None; from gitpeft.redaction import mask_secrets;"
        f"print(mask_secrets('k = {secret}'));"
        "print('detect_secrets' in sys.modules, 'requests' in sys.modules)"
    )
    assert python(code) == f"k = {PLACEHOLDER}\nTrue False"


def test_every_word_holds_a_stem() -> None:
    from gitpeft.redaction import _SECRET_NAME_PARTS, _SECRET_NAME_STEMS

    assert [word for word in _SECRET_NAME_PARTS if not any(stem in word for stem in _SECRET_NAME_STEMS)] == []
