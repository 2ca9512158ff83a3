"""A line of a log without its prefixes: who printed it, on which node and rank, when, and how loud.

The prefixes, outermost first (all seen in public logs of NeMo RL, Ray 2.x, vLLM 0.10 to 0.20 and PyTorch 2.x):

    3:                                                            srun --label
    (MegatronPolicyWorker[rank=3] pid=812, ip=10.0.0.3)           Ray, for what a worker printed
    (raylet, ip=10.0.0.4)
    (EngineCore_DP0 pid=977)                                      vLLM's processes
    ERROR 11-23 10:20:03 [core.py:842]                            vLLM
    2025-11-23 10:20:03,241<tab>ERROR worker.py:421 --            Ray in Python
    [2025-11-23 10:20:03,206 E 393 393] (raylet) file.cc:3277:    Ray in C++
    [rank3]:[E1123 10:20:03.408271257 ProcessGroupNCCL.cpp:607]   PyTorch in C++
    [rank3]:                                                      PyTorch's own traceback
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

from nano_exp.text import FROM_WORKER, NOISE, plain

#: Longer lines are cut in the middle before any pattern sees them.
MAX_LINE = 4000

_LABEL = re.compile(r"^ {0,3}\d{1,4}: ")
_PID = re.compile(r"\bpid=(\w+)")
_IP = re.compile(r"\bip=([\w.:-]+)")
_RANK = re.compile(r"\[rank=?(\d+)\]|\brank=(\d+)\b")
_VLLM = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) (\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.\d+)? \[[^\]\[]*[\]\[]+ ?")
_RAY_PY = re.compile(
    r"^\d{4}-(\d\d-\d\d) (\d\d:\d\d:\d\d)(?:[,.]\d+)?[\t ]+(?:- )?"
    r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b(?:[\t ]\S+:\d+ -- )?"
)
_RAY_CC = re.compile(r"^\[\d{4}-(\d\d-\d\d) (\d\d:\d\d:\d\d),\d+ ([DIWEFC]) \d+ \d+\] (?:\(\w+\) )?(?:[\w./]+:\d+: ?)?")
_TORCH_CC = re.compile(r"^(?:\[rank(\d+)\]:)?\[([IWEF])(\d{1,2})(\d\d) (\d\d:\d\d:\d\d)\.\d+ [^\]]*\] ?")
_TORCH_CC_OLD = re.compile(r"^\[([IWEF]) \w+\.cpp:\d+\] ")
_TORCH_RANK = re.compile(r"^\[(?:rank|default)(\d+)\]:[ \t]?")
_LOGGING = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:")
_STAMP = re.compile(r"\b\d{4}-(\d\d-\d\d)[T ](\d\d:\d\d:\d\d)")
_LETTERS = {"D": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL", "C": "CRITICAL"}
_REPEATED = re.compile(r"\s*\[repeated \d+x across cluster\].*$")


@dataclass(frozen=True)
class Line:
    """One line.

    Parameters
    ----------
    n: its number in the stream, from 0
    text: the line without prefixes; its indentation is kept
    shown: what a diagnosis shows of it: without colours and without whose line it is (node and rank are said once)
    who, pid, ip, rank: from the prefixes, "" or None where they say nothing; who is "" for the driver
    level: "", DEBUG, INFO, WARNING, ERROR, CRITICAL
    time: seconds since the year's beginning by the log's own clock, or None
    """

    n: int
    text: str
    shown: str
    who: str = ""
    pid: str = ""
    ip: str = ""
    rank: int | None = None
    level: str = ""
    time: float | None = None
    repeated: bool = False

    @property
    def source(self) -> tuple[str, str]:
        """The process that printed it: lines of several processes are interleaved in one stream."""
        return (self.pid, self.ip) if self.pid else (self.who, self.ip)

    @property
    def noise(self) -> bool:
        return NOISE.search(self.text) is not None

    @property
    def indented(self) -> bool:
        return self.text[:1] in (" ", "\t") and bool(self.text.strip())


def seconds(month_day: str, clock: str) -> float:
    """ "11-23", "10:20:03" -> seconds since the year's beginning, months of 31 days: for comparing, not for dates."""
    month, day = (int(x) for x in month_day.split("-"))
    h, m, s = (int(x) for x in clock.split(":"))
    return float((((month * 31 + day) * 24 + h) * 60 + m) * 60 + s)


def clean(raw: str) -> str:
    """Without colours, without what a progress bar left before a carriage return, and not endless."""
    if len(raw) > MAX_LINE:
        raw = raw[: MAX_LINE - 1000] + " ... " + raw[-900:]
    return plain(raw)


def parse(n: int, raw: str) -> Line:
    """Read one line. Never raises."""
    text = clean(raw)
    repeated = "[repeated " in text
    if repeated:
        text = _REPEATED.sub("", text)
    who = pid = ip = level = ""
    rank: int | None = None
    time: float | None = None
    if match := _LABEL.match(text):
        text = text[match.end() :]
    for _ in range(3):
        match = FROM_WORKER.match(text)
        if match is None:
            break
        inner, text = match[1], text[match.end() :]
        name = re.split(r"[\s,]", inner.strip(), maxsplit=1)[0]
        who = who or ("worker" if name.startswith("pid=") else name)
        found_pid, found_ip, found_rank = _PID.search(inner), _IP.search(inner), _RANK.search(inner)
        pid = found_pid[1] if found_pid else pid  # the innermost process raised it
        ip = ip or (found_ip[1] if found_ip else "")
        if found_rank:
            rank = int((found_rank[1] or found_rank[2])[:9])
    shown = text
    for _ in range(3):
        if match := _VLLM.match(text):
            level, time = match[1], _seconds(match[2], match[3], time)
        elif match := _RAY_PY.match(text):
            level, time = match[3], _seconds(match[1], match[2], time)
        elif match := _RAY_CC.match(text):
            level, time = _LETTERS[match[3]], _seconds(match[1], match[2], time)
        elif match := _TORCH_CC.match(text):
            level, time = _LETTERS[match[2]], _seconds(f"{match[3]}-{match[4]}", match[5], time)
            rank = int(match[1][:9]) if match[1] else rank
        elif match := _TORCH_CC_OLD.match(text):
            level = _LETTERS[match[1]]
        elif match := _TORCH_RANK.match(text):
            rank = int(match[1][:9])
            who = who or f"rank{rank}"
        elif match := _LOGGING.match(text):
            level = match[1]
        else:
            break
        text = text[match.end() :]
    if time is None and (match := _STAMP.search(shown)):
        time = _seconds(match[1], match[2], None)
    return Line(n, text, shown, who.partition("[")[0], pid, ip, rank, level, time, repeated)


def _seconds(month_day: str, clock: str, otherwise: float | None) -> float | None:
    try:
        return seconds(month_day, clock)
    except ValueError:  # digits of another script
        return otherwise


class Stream:
    """A log, its lines parsed only where somebody looks."""

    def __init__(self, name: str, text: str, node: str = "") -> None:
        self.name, self.node = name, node
        self.raw = text.split("\n") if text else []
        self._parsed: dict[int, Line] = {}

    def __len__(self) -> int:
        return len(self.raw)

    def line(self, n: int) -> Line:
        parsed = self._parsed.get(n)
        if parsed is None:
            parsed = self._parsed[n] = parse(n, self.raw[n])
        return parsed

    def before(self, line: Line, most: int, reach: int = 400) -> list[Line]:
        """Up to `most` lines of the same process before this one, nearest first, looking back at most `reach`."""
        return self._same_process(line, range(line.n - 1, max(line.n - reach, 0) - 1, -1), most)

    def after(self, line: Line, most: int, reach: int = 200) -> list[Line]:
        """The same, onwards."""
        return self._same_process(line, range(line.n + 1, min(line.n + reach, len(self))), most)

    def _same_process(self, line: Line, numbers: range, most: int) -> list[Line]:
        others = (other for n in numbers if (other := self.line(n)).source == line.source)
        return list(islice(others, most))

    def time_near(self, n: int) -> float | None:
        """When a line was printed: its own time, or that of the nearest line before it, or else after it."""
        for m in [*range(n, max(n - 300, -1), -1), *range(n + 1, min(n + 100, len(self)))]:
            time = self.line(m).time
            if time is not None:
                return time
        return None
