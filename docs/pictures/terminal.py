"""A picture (SVG) of what a command shows in a terminal.

    terminal.py OUT.svg COLUMNS LINES FIRST SECONDS -- COMMAND ...

The command runs in a terminal of that size. After SECONDS, or at its end, the FIRST lines of the screen are drawn.
"""

from __future__ import annotations

import contextlib
import html
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pyte

COLOURS = {
    "default": "#d7dde5",
    "black": "#5c6773",
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "yellow": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#56d4dd",
    "white": "#d7dde5",
}
WIDE, HIGH, EDGE = 8.0, 18, 14


def shown(command: list[str], columns: int, lines: int, seconds: float) -> pyte.Screen:
    """The screen after some seconds, or at the command's end."""
    screen = pyte.Screen(columns, lines)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), LINES=str(lines))
        os.execvp(command[0], command)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                stream.feed(os.read(terminal, 65536))
            except OSError:  # the command has ended
                break
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    return screen


def drawn(screen: pyte.Screen, title: str, first: int) -> str:
    """The screen's first lines as SVG; empty ones at their end are left out."""
    used = max((line for line in range(first) if screen.display[line].strip()), default=0) + 1
    width, height = screen.columns * WIDE + 2 * EDGE, (used + 1) * HIGH + 2 * EDGE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" role="img">',
        f'<title>{html.escape(title)}</title><rect width="100%" height="100%" rx="8" fill="#14171b"/>',
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13.3">',
        f'<text x="{EDGE}" y="{EDGE + 10}" fill="#8b949e">$ {html.escape(title)}</text>',
    ]
    for line in range(used):
        for start, text, style in runs_of(screen, line):
            place = f'x="{EDGE + start * WIDE:g}" y="{EDGE + 10 + (line + 1) * HIGH}"'
            length = f'textLength="{len(text) * WIDE:g}"'
            parts.append(f"<text {place} {length} {style}>{html.escape(text).replace(' ', '&#160;')}</text>")
    return "\n".join([*parts, "</g></svg>", ""])


def escaped(text: str) -> str:
    """Spaces that are not folded into one."""
    return html.escape(text).replace(" ", "&#160;")


def runs_of(screen: pyte.Screen, line: int) -> list[tuple[int, str, str]]:
    """Stretches of a line that look alike: where, text, attributes."""
    found: list[tuple[int, str, str]] = []
    for column in range(screen.columns):
        cell = screen.buffer[line][column]
        fore = COLOURS.get(cell.fg, f"#{cell.fg}" if len(cell.fg) == 6 else COLOURS["default"])
        style = f'fill="{COLOURS["blue"] if cell.reverse else fore}"' + (' font-weight="bold"' if cell.bold else "")
        if found and found[-1][2] == style:
            found[-1] = (found[-1][0], found[-1][1] + cell.data, style)
        else:
            found.append((column, cell.data, style))
    return [(start, text.rstrip(), style) for start, text, style in found if text.strip()]


if __name__ == "__main__":
    output, (columns, lines, first), seconds = sys.argv[1], map(int, sys.argv[2:5]), float(sys.argv[5])
    command = sys.argv[7:]
    screen = shown(command, columns, lines, seconds)
    Path(output).write_text(drawn(screen, " ".join(command), min(first, lines)), encoding="utf-8")
