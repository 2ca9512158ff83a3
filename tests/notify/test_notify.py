"""Who is told of what: site.notify read, messages in their shapes, sent to loopback receivers, once for a launch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import results_case

from nano_exp import cli, files
from nano_exp.credentials import redact, refuse
from nano_exp.errors import UserError
from nano_exp.job import tell
from nano_exp.notify.message import Message
from nano_exp.notify.receivers import Receiver, receivers
from nano_exp.notify.send import send
from nano_exp.preflight import RULES
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.run import findings
from nano_exp.preflight.view import View
from nano_exp.store import runs

SECRET = "s3cret-part-of-the-address"
MESSAGE = Message("failed", "lr", "20260101-000000-abcd", "lr/r1 failed: <out of memory>", ("do: less",))


class Hook(HTTPServer):
    """A loopback receiver that keeps what was posted, and answers with `code`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posted: list[dict[str, Any]] = []
        self.code = 200
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.code)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    server = Hook()
    monkeypatch.setenv("A_WEBHOOK", server.address)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("section", "found", "fix"),
    [
        ({"webhook": "A"}, "site.notify={'webhook': 'A'}", "site.notify='[{webhook: SLACK_WEBHOOK, form: slack}]'"),
        ([1], "site.notify[0]=1", "[{webhook: SLACK_WEBHOOK, form: slack}]"),
        ([{"webhok": "A"}], "site.notify[0].webhok='A'", "webhook: ..."),
        ([{"command": "x", "email": "me@x.org"}], "site.notify[0]=", "[{webhook"),
        ([{"webhook": "A", "form": "slak"}], "site.notify[0].form='slak'", "form: slack"),
        ([{"email": "me"}], "site.notify[0].email='me'", "email: me@example.org"),
        ([{"email": "a@b.c", "on": ["ended"]}], "site.notify[0].on=['ended']", "on: [done, failed]"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said(section: Any, found: str, fix: str) -> None:
    with pytest.raises(UserError) as error:
        receivers(section)
    assert error.value.found.startswith(found)
    assert error.value.fix.startswith(fix)


def test_an_address_in_the_config_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError) as error:
        receivers([{"webhook": f"https://hooks.example.org/{SECRET}"}])
    assert SECRET not in str(error.value)
    assert "env.yaml" in error.value.fix


def test_each_form_of_webhook_has_its_shape(hook: Hook) -> None:
    forms = ("json", "slack", "discord", "teams")
    for form in forms:
        assert send(MESSAGE, [Receiver("webhook", "A_WEBHOOK", form)]) == []
    posted = dict(zip(forms, hook.posted, strict=True))
    assert posted["json"]["about"] == "failed" and posted["json"]["text"] == MESSAGE.text
    assert posted["slack"] == {"text": "lr/r1 failed: &lt;out of memory&gt;\ndo: less"}
    assert posted["discord"] == {"content": MESSAGE.text, "allowed_mentions": {"parse": []}}
    assert [block["text"] for block in posted["teams"]["attachments"][0]["content"]["body"]] == [
        MESSAGE.title,
        "do: less",
    ]


def test_a_command_and_sendmail_get_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f"#!/bin/sh\ncat > {tmp_path}/mail\n")
    sendmail.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    told = [Receiver("command", f"cat > {tmp_path}/json"), Receiver("email", "me@example.org")]
    assert send(MESSAGE, told) == []
    assert json.loads((tmp_path / "json").read_text())["title"] == MESSAGE.title
    mail = (tmp_path / "mail").read_text()
    assert "To: me@example.org" in mail and f"Subject: {MESSAGE.title}" in mail and "do: less" in mail


def test_a_dead_receiver_is_said_without_its_address(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    hook.code = 404
    monkeypatch.setenv("CLOSED", f"http://127.0.0.1:9/{SECRET}")
    dead = [Receiver("webhook", name) for name in ("A_WEBHOOK", "CLOSED", "NOT_SET")]
    problems = send(MESSAGE, [*dead, Receiver("command", "echo no >&2; exit 3")])
    assert [problem.split(":")[0] for problem in problems] == [
        "webhook A_WEBHOOK",
        "webhook CLOSED",
        "webhook NOT_SET",
        "command echo no >&2; exit 3",
    ]
    assert "404" in problems[0] and "is not set" in problems[2] and problems[3].endswith("exit code 3: no")
    assert SECRET not in "".join(problems)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return results_case.make(tmp_path, steps=10)


SITE = {"notify": [{"webhook": "A_WEBHOOK"}]}


def end_all(store: Path) -> list[str]:
    """Every run of the launch tells of its end. Returns what was said of it."""
    launch = runs.launch_dir(store, results_case.LAUNCH)
    said: list[str] = []
    for folder in sorted((store / results_case.NAME).iterdir()):
        tell.end(launch, files.read_json(launch / "manifest.json"), SITE, folder, said.append)
    return said


def test_of_a_launch_the_first_failure_of_a_cause_is_told_once(store: Path, hook: Hook) -> None:
    assert end_all(store) == []
    assert [(one["about"], one["title"].split("/")[0]) for one in hook.posted] == [("failed", "lr_sweep")]
    assert "do: policy.train_micro_batch_size=1" in hook.posted[0]["lines"]
    assert end_all(store) == []
    assert len(hook.posted) == 1


def test_its_end_is_told_once_with_causes_and_cost(store: Path, hook: Hook) -> None:
    lost = next(folder for folder in (store / results_case.NAME).iterdir() if not any(folder.rglob("end.json")))
    runs.record_event(lost, "cancel", why="scancel")
    end = {"kind": "cancelled", "why": "scancel", "attempt": 1, "seconds": 1.0}
    files.write_json(runs.attempts(lost)[-1].dir / "end.json", end)
    assert end_all(store) == []
    (told,) = hook.posted
    assert told["about"] == "done"
    assert told["title"] == "lr_sweep: 24 runs ended: 21 done, 2 cancelled, 1 failed"
    assert told["lines"][0] == "1 failed: out of GPU memory in training; do: policy.train_micro_batch_size=1"
    assert told["lines"][1].endswith("GPU-hours") and told["lines"][-1] == "nano-exp compare lr_sweep"


def test_only_what_a_receiver_wants_is_told(store: Path, hook: Hook) -> None:
    launch = runs.launch_dir(store, results_case.LAUNCH)
    wants_ends = {"notify": [{"webhook": "A_WEBHOOK", "on": "done"}]}
    said: list[str] = []
    tell.budget(launch, wants_ends, "lr", "spent", said.append)
    assert hook.posted == [] and said == []


def test_of_a_launch_the_first_stall_is_told(store: Path, hook: Hook) -> None:
    said: list[str] = []
    for folder in sorted((store / results_case.NAME).iterdir())[:2]:
        tell.stall(folder, SITE, "no step for 31 min", said.append)
    assert said == []
    (told,) = hook.posted
    assert told["about"] == "stalled" and told["title"] == "lr_sweep/r0000000001 stalls: no step for 31 min"


def test_nothing_that_goes_wrong_ends_a_run(store: Path) -> None:
    launch = runs.launch_dir(store, results_case.LAUNCH)
    said: list[str] = []
    for site in ({"notify": 5}, {"notify": [{"webhook": "NOT_SET"}]}, {}):
        folder = store / results_case.NAME / "r0000000009"
        tell.end(launch, {"arrays": 3}, site, folder, said.append)
    assert len(said) == 2 and all(line.startswith("nobody was told: ") for line in said)


def test_preflight_looks_at_entries_and_variables(hook: Hook) -> None:
    rules = [RULES[name] for name in ("notify_entries", "notify_variables")]

    def said(section: Any, names: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
        view = View({"site": {"notify": section}}, facts=Facts(env_names=names))
        return [(one.rule, one.cause) for one in findings(view, rules)]

    assert said([{"webhook": "A_WEBHOOK"}]) == said([{"webhook": "NOT_SET"}], frozenset({"NOT_SET"})) == []
    unset = "NOT_SET is not set here, so nobody is told there"
    assert said([{"webhook": "NOT_SET"}]) == [("notify_variables", unset)]
    assert said([{"webhook": "A", "form": "slak"}]) == [
        ("notify_entries", "of a webhook one of json, slack, discord, teams")
    ]


@pytest.mark.parametrize(
    "address",
    [
        "https://hooks.slack.com/services/T0000/B0000/abcdefgh",
        "https://discord.com/api/webhooks/123456/abcdefgh",
        "https://prod-1.westus.logic.azure.com:443/workflows/abcdefgh",
    ],
)
def test_a_webhooks_address_is_a_secret_anywhere(address: str) -> None:
    assert address.rpartition("/")[2] not in redact(f"posting to {address} failed")
    with pytest.raises(UserError):
        refuse({"site": {"notify": [{"webhook": address}]}})


def test_the_test_message_says_what_came_of_it(hook: Hook, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["notify", "site.notify=[{webhook: A_WEBHOOK}, {webhook: NOT_SET}]"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "webhook A_WEBHOOK: told",
        "webhook NOT_SET: NOT_SET is not set",
    ]
    assert hook.posted[0]["title"].startswith("nano-exp: a test message of ")
    assert cli.main(["notify"]) == 2
    assert "site.notify='[{webhook: SLACK_WEBHOOK, form: slack}]'" in capsys.readouterr().err
