"""Sending a message. A receiver that is dead, slow or wrong costs some seconds and a line in the log, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from threading import Thread

from nano_exp.credentials import redact
from nano_exp.notify.message import SHAPES, Message
from nano_exp.notify.receivers import Receiver

#: Seconds for one receiver, and for all of them together.
EACH_S, ALL_S = 10.0, 15.0
#: Where sendmail lies when it is not on the path.
SENDMAIL = ("/usr/sbin/sendmail", "/usr/lib/sendmail")


def send(message: Message, receivers: Sequence[Receiver], environ: Mapping[str, str] | None = None) -> list[str]:
    """Send to all of them at once, and wait a little.

    Returns
    -------
    A line for each that did not take it; empty when all did.
    """
    values = os.environ if environ is None else environ
    problems = dict.fromkeys(receivers, f"no answer within {ALL_S:g} s")

    def one(receiver: Receiver) -> None:
        problems[receiver] = redact(_one(message, receiver, values))

    threads = [Thread(target=one, args=(receiver,), daemon=True) for receiver in receivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ALL_S)
    return [f"{receiver}: {problem}" for receiver, problem in dict(problems).items() if problem]


def _one(message: Message, receiver: Receiver, environ: Mapping[str, str]) -> str:
    """Empty when it was taken, else why not."""
    try:
        if receiver.way == "command":
            return _command(receiver.where, message)
        if receiver.way == "email":
            return _email(receiver.where, message)
        return _webhook(receiver, message, environ)
    except Exception as error:  # whatever a receiver does is no fault of the run
        return f"{type(error).__name__}: {error}"


def _command(line: str, message: Message) -> str:
    """The message as JSON on its standard input; NANO_EXP_TITLE and NANO_EXP_ABOUT for what needs no more."""
    values = {**os.environ, "NANO_EXP_TITLE": message.title, "NANO_EXP_ABOUT": message.about}
    return _piped(["/bin/sh", "-c", line], json.dumps(SHAPES["json"](message)), values)


def _email(mailbox: str, message: Message) -> str:
    sendmail = shutil.which("sendmail") or next((path for path in SENDMAIL if os.access(path, os.X_OK)), None)
    if sendmail is None:
        return "sendmail is not installed here"
    mail = EmailMessage()
    mail["To"] = mailbox
    mail["Subject"] = " ".join(message.title.split())
    mail.set_content(message.text)
    return _piped([sendmail, "-t", "-i"], mail.as_string(), None)


def _piped(command: Sequence[str], text: str, environ: Mapping[str, str] | None) -> str:
    try:
        done = subprocess.run(
            command, input=text, env=environ, capture_output=True, text=True, timeout=EACH_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end within {EACH_S:g} s"
    said = done.stderr.strip().splitlines()
    return f"exit code {done.returncode}" + (f": {said[-1]}" if said else "") if done.returncode else ""


def _webhook(receiver: Receiver, message: Message, environ: Mapping[str, str]) -> str:
    """Its address is a secret: it is never part of what is said."""
    address = environ.get(receiver.where, "")
    if not address.startswith(("https://", "http://")):
        return f"{receiver.where} is not set" if not address else f"{receiver.where} holds no address"
    body = json.dumps(SHAPES[receiver.form](message)).encode()
    request = urllib.request.Request(
        address, data=body, headers={"Content-Type": "application/json", "User-Agent": "nano-exp"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=EACH_S) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        return f"it answered {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"it cannot be reached: {error.reason}"
    except (OSError, ValueError) as error:
        return f"it cannot be reached: {type(error).__name__}"
    return ""
