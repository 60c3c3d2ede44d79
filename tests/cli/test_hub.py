"""``doorstep hub``: started with other keys, rules and limits; its backup and restore."""

from __future__ import annotations

import json
import re
import shlex
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jwt
import pytest

from doorstep.testing.deadlines import SCALE

from .conftest import Doorstep

SECRET = "a secret that a conformance suite brings along"
RULES = """
[[topics]]
role = "anon"
topic = "lobby"
extensions = ["broadcast"]
allow = ["write"]
"""


def ask(url: str, path: str, key: str, body: object = None) -> tuple[int, Any]:
    """Status and JSON body of one request."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"apikey": key, "Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=10) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def run(doorstep: Doorstep, *arguments: str) -> str:
    """What a command that ends well prints."""
    ended = doorstep.run(*arguments)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()


def url_of(line: str) -> str:
    found = re.search(r"http://[\w.:]+", line)
    assert found is not None
    return found[0]


def test_other_keys_rules_and_limits(doorstep: Doorstep, tmp_path: Path) -> None:
    secret, rules, service = (tmp_path / name for name in ("secret", "rules.toml", "service"))
    secret.write_text(SECRET + "\n")
    rules.write_text(RULES)
    service.write_text("sb_secret_suite")
    hub = doorstep.start(
        "hub",
        "--port=0",
        f"--jwt-secret-file={secret}",
        "--anon-key=sb_publishable_suite",
        f"--service-key-file={service}",
        f"--rules={rules}",
        "--limits=connections=0",
        "--no-signup",
    )
    url = url_of(hub.line("listens", within=30 * SCALE))
    anon = jwt.encode({"role": "anon", "exp": 4_000_000_000}, SECRET)
    for topic, status in (("lobby", 202), ("attic", 403)):
        path = f"/realtime/v1/api/broadcast/{topic}/events/e?private=true"
        assert ask(url, path, anon, {})[0] == status
    assert ask(url, "/auth/v1/admin/users", "sb_secret_suite")[0] == 200
    assert ask(url, "/auth/v1/admin/users", "sb_publishable_suite")[0] == 403
    signup = {"email": "a@example.test", "password": "long enough"}
    assert ask(url, "/auth/v1/signup", anon, signup)[1]["error_code"] == "signup_disabled"
    assert run(doorstep, "link").startswith(f"{url}/#token_hash=")
    printed = run(doorstep, "hub", "keys", f"--jwt-secret-file={secret}")
    keys = dict(assignment.split("=", 1) for assignment in shlex.split(printed))
    assert keys["JWT_SECRET"] == SECRET
    assert ask(url, "/auth/v1/admin/users", keys["SERVICE_ROLE_KEY"])[0] == 200
    assert hub.end(within=10 * SCALE) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rules={tmp}/bad"], "rule 1 of [[topics]] ('x'): Object missing required field `role`"),
        (["--limits=connection=5"], "connection is not a limit"),
        (["--limits={tmp}/nothing"], "No such file"),
        (["--jwt-secret-file={tmp}/bad"], "at least 32 characters"),
        (["--jwks-file={tmp}/bad"], "a key's file"),
        (["--anon-key=nonsense"], "the anon key is not accepted"),
        (["backup", "{tmp}/bad"], "there is no hub in"),
        (["restore", "{tmp}/bad"], "is not a backup"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    doorstep: Doorstep, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "bad").write_text('[[topics]]\ntopic = "x"\n')
    ended = doorstep.run("hub", *(each.format(tmp=tmp_path) for each in arguments))
    assert ended.returncode in (1, 2)
    assert said in ended.stderr.decode()
    assert "Traceback" not in ended.stderr.decode()


def test_backup_and_restore(doorstep: Doorstep, tmp_path: Path) -> None:
    hub = doorstep.start("hub", "--port=0")
    url = url_of(hub.line("listens", within=30 * SCALE))
    printed = run(doorstep, "hub", "keys")
    file, other = tmp_path / "hub.backup", tmp_path / "other"
    run(doorstep, "hub", "backup", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert doorstep.run("hub", "restore", str(file)).returncode == 1
    assert hub.end(within=10 * SCALE) == 0
    assert ask_users(url, printed) is None
    restored = run(doorstep, "hub", f"--state-dir={other}", "restore", str(file))
    assert str(other) in restored
    assert run(doorstep, "hub", "keys", f"--state-dir={other}") == printed
    again = doorstep.start("hub", "--port=0", f"--state-dir={other}")
    users = ask_users(url_of(again.line("listens", within=30 * SCALE)), printed)
    assert users == ["owner@doorstep.local"]
    assert again.end(within=10 * SCALE) == 0


def ask_users(url: str, keys: str) -> list[str] | None:
    found = re.search("SERVICE_ROLE_KEY=(.*)", keys)
    assert found is not None
    try:
        return [user["email"] for user in ask(url, "/auth/v1/admin/users", found[1])[1]["users"]]
    except urllib.error.URLError:
        return None
