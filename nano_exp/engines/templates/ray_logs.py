"""Keep Ray's logs of an attempt that failed or stalled: `python ray_logs.py RAY_TMPDIR OUT.tgz`, on each node.

Imports nothing of nano-exp: it may lie in a container that has Python and nothing else. Of each log the beginning
and the end are kept, the newest logs first, up to a size in all. The values of variables that sound like secrets are
taken out: NeMo RL hands its whole environment to Ray, which writes it into the logs of its workers' environments.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

#: Bytes kept of a log's beginning and of its end, and of all logs of a node before compression.
HEAD, TAIL, MOST = 64 * 1024, 1024 * 1024, 48 * 1024 * 1024
_SECRET = re.compile(
    r"(TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)", re.IGNORECASE
)
_LOOKS_SECRET = re.compile(
    rb"\b(hf_[A-Za-z0-9]{20,}|wandb_v\d_[A-Za-z0-9_]{16,}|nvapi-[A-Za-z0-9_-]{20,}|sk-[A-Za-z0-9_-]{20,}|"
    rb"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|AKIA[0-9A-Z]{16})"
)
REMOVED = b"[secret removed]"


def logs(folder: Path) -> Iterator[Path]:
    """Ray's logs below its folder: what is worth most first, then the newest."""
    found = [path for path in folder.glob("ray/session_2*/logs/**/*") if path.is_file() and not path.is_symlink()]
    first = ("raylet", "gcs_server", "python-core-driver", "worker-")

    def rank(path: Path) -> tuple[int, float]:
        place = next((n for n, name in enumerate(first) if path.name.startswith(name)), len(first))
        return place, -path.stat().st_mtime

    yield from sorted((path for path in found if path.stat().st_size), key=rank)


def cut(path: Path) -> bytes:
    """A log's beginning and end."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= HEAD + TAIL:
            return file.read(HEAD + TAIL)
        head = file.read(HEAD)
        file.seek(-TAIL, os.SEEK_END)
        return head + f"\n... {size - HEAD - TAIL} bytes are left out ...\n".encode() + file.read(TAIL)


def without_secrets(text: bytes, environ: Mapping[str, str]) -> bytes:
    held = [value for name, value in environ.items() if _SECRET.search(name) and len(value) >= 8 and value[:1] != "/"]
    for value in sorted(held, key=len, reverse=True):
        text = text.replace(value.encode(), REMOVED)
    return _LOOKS_SECRET.sub(REMOVED, text)


def keep(folder: Path, target: Path, environ: Mapping[str, str], most: int = MOST) -> int:
    """Write the logs below Ray's folder to a compressed archive; nothing where there are none. Returns how many.

    Raises OSError where the archive cannot be written.
    """
    kept, room = 0, most
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with tarfile.open(aside, "w:gz", compresslevel=6) as archive:
            for path in logs(folder):
                try:
                    content = without_secrets(cut(path), environ)
                    about = tarfile.TarInfo(str(path.relative_to(folder / "ray")))
                    about.mtime = int(path.stat().st_mtime)
                except OSError:  # it was removed meanwhile
                    continue
                if len(content) > room:
                    continue
                about.size, about.mode = len(content), 0o600
                archive.addfile(about, io.BytesIO(content))
                kept, room = kept + 1, room - len(content)
        if kept:
            aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return kept


if __name__ == "__main__":
    keep(Path(sys.argv[1]), Path(sys.argv[2]), os.environ)
