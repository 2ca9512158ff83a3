"""Signs of files, models, tokens, parsers and refused configs."""

from __future__ import annotations

import re

from nano_exp.triage import phases
from nano_exp.triage.loglines import Line, Stream
from nano_exp.triage.signs import Case, Reading, at, exception, final_sign, line_sign, survived
from nano_exp.triage.tracebacks import Raised

_PATH = re.compile(r"""['"]((?:/|\.{0,2}/|[\w.-]+/)[^'"]*|[^'"/]+\.\w{1,8})['"]""")
_STEP = re.compile(r"={10,} Step (\d{1,9})/\d+ ={10,}")
#: Places on a node's own disk or memory: full there, another node will do.
LOCAL = ("/tmp", "/dev/shm", "/var", "/run", "/local", "/scratch/local")
DATA = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv")


def _path(message: str) -> str:
    match = _PATH.search(message)
    return match[1] if match else ""


@line_sign("data_used_up", "Trajectory collection stopped")
def data_used_up(line: Line, stream: Stream) -> Reading | None:
    """Up to v0.7.0 the collector goes over the data once, and the trainer then looks into an empty buffer for ever
    (async_utils/trajectory_collector.py 252-304, grpo.py 3680-3702). After the last step it stops as well."""
    empty = [n for n in range(line.n + 1, len(stream)) if "Buffer empty or not enough groups" in stream.raw[n]]
    if not empty or any("Training Results:" in raw for raw in stream.raw[empty[-1] :]):
        return None
    if any("Error in trajectory collection" in raw for raw in stream.raw[: line.n]):
        return None
    steps = [match for n in range(empty[-1], -1, -1) if (match := _STEP.search(stream.raw[n]))][:1]
    finished = str(int(steps[0][1]) - 1) if steps else ""
    return Reading(f"after step {finished}" if finished else "", subject=finished, phase="generation")


@line_sign("disk_full", "No space left on device", "OutOfDiskError")
def no_space(line: Line, stream: Stream) -> Reading | None:
    """ENOSPC. Ray's early warning ("over 95% full") is none."""
    if survived(line):
        return None
    if exception(line, stream) is None and not re.search(r"No space left on device\s*$|Errno 28", line.text):
        return None
    if exception(line, stream) is None and line.level == "" and not _of_a_program(line):
        return None
    path = _path(line.text) or ("/dev/shm" if "/dev/shm" in line.text else "")
    return at(line, stream, path, subject=path, fault="infrastructure" if path.startswith(LOCAL) else None)


def _of_a_program(line: Line) -> bool:
    """`tool: message: No space left on device`, as shells and coreutils print it."""
    return re.match(r"^[\w./-]+: (?:line \d+: )?[^:]*:? ?.*: No space left on device\s*$", line.text) is not None


@line_sign("quota", "Disk quota exceeded")
def quota(line: Line, stream: Stream) -> Reading | None:
    if exception(line, stream) is None and not line.text.endswith("Disk quota exceeded"):
        return None
    path = _path(line.text)
    return at(line, stream, path, subject=path)


@line_sign(
    "stale_files",
    "Stale file handle",
    "Stale NFS file handle",
    "Errno 5] Input/output error",
    "Transport endpoint is not connected",
    "Cannot send after transport endpoint shutdown",
)
def stale(line: Line, stream: Stream) -> Reading | None:
    if exception(line, stream) is None or survived(line):
        return None
    path = _path(line.text)
    return at(line, stream, path, subject=path)


# --- models and tokens ----------------------------------------------------------------------------------------------

_REPO = re.compile(r"huggingface\.co/(?:api/models/|models/)?([\w.-]+/[\w.-]+?)(?:/|\.\s|\s|$)")
_NOT_A_MODEL = re.compile(r"^(\S+) is not a local folder and is not a valid model identifier")


def _repo(line: Line, stream: Stream) -> str:
    for other in [line, *stream.after(line, 6, reach=40)]:
        if match := _REPO.search(other.text):
            return match[1]
    return ""


@line_sign("model_gated", "GatedRepoError", "gated repo", "Access to model")
def gated(line: Line, stream: Stream) -> Reading | None:
    match = re.search(r"Access to model (\S+) is restricted", line.text)
    if exception(line, stream) is None and match is None and not line.text.startswith(("You are trying", "Cannot acc")):
        return None
    repo = match[1] if match else _repo(line, stream)
    return Reading(repo, phase="setup", subject=repo)


@line_sign(
    "model_missing", "RepositoryNotFoundError", "is not a valid model identifier", "does not appear to have a file"
)
def model_not_found(line: Line, stream: Stream) -> Reading | None:
    error = exception(line, stream)
    if error is None:
        return None
    match = _NOT_A_MODEL.match(error[1])
    repo = match[1] if match else _repo(line, stream)
    return Reading(repo, phase="setup", subject=repo)


@line_sign("model_missing", "Error no file named")
def model_without_weights(line: Line, stream: Stream) -> Reading | None:
    error = exception(line, stream)
    match = re.match(r"Error no file named .* found in directory (\S+?)\.?$", error[1]) if error else None
    return Reading(f"no weights in {match[1]}", phase="setup", subject=match[1]) if match else None


@line_sign(
    "model_missing", "LocalEntryNotFoundError", "couldn't connect to 'https://huggingface.co'", "OfflineModeIsEnabled"
)
def model_not_in_cache(line: Line, stream: Stream) -> Reading | None:
    if exception(line, stream) is None:
        return None
    return Reading("not in HF_HOME, and the hub is out of reach", phase="setup", subject="offline")


@line_sign(
    "token_invalid",
    "Invalid user token",
    "401 Client Error",
    "403 Client Error",
    "api_key not configured",
    "API key you provided is either invalid",
    "Invalid credentials in Authorization header",
    "API key must be 40 characters",
)
def token(line: Line, stream: Stream) -> Reading | None:
    """Hugging Face or W&B say no. A 401 for an unknown or gated repository is those causes' own."""
    if exception(line, stream) is None and not line.text.startswith(("wandb: ERROR", "Invalid user token")):
        return None
    about = " ".join(other.text for other in [line, *stream.after(line, 15, reach=60)])
    if any(words in about for words in ("GatedRepo", "RepositoryNotFound", "Repository Not Found", "gated repo")):
        return None
    wandb = "wandb" in line.text or "api_key" in line.text or "API key" in line.text
    name = "WANDB_API_KEY" if wandb else "HF_TOKEN"
    return Reading(name, phase="setup", subject=name)


# --- servers outside ------------------------------------------------------------------------------------------------

_HOST = re.compile(r"host='([\w.-]+)'|https?://([\w.-]+)|Failed to resolve '([\w.-]+)'|host ([\w.-]+):\d+")
_REFUSED = re.compile(
    r"returned error 4(?:03|04)\b|permission denied|entity .* not found|project not found", re.IGNORECASE
)


def _host(text: str) -> str:
    match = _HOST.search(text)
    return next((group for group in match.groups() if group), "") if match else ""


@line_sign("wandb_unreachable", "CommError", "Run initialization has timed out")
def wandb_start(line: Line, stream: Stream) -> Reading | None:
    """wandb.init got no answer, or a refusal: a key or an entity that may not write there."""
    error = exception(line, stream)
    if error is None:
        return None
    if "error 429" in error[1]:
        return Reading("W&B", subject="api.wandb.ai", cause="rate_limited")
    if "error 401" in error[1]:
        return Reading("WANDB_API_KEY", phase="setup", subject="WANDB_API_KEY", cause="token_invalid")
    if _REFUSED.search(error[1]):
        return Reading(error[1].partition(": {")[0], phase="setup", cause="wandb_refused")
    return Reading(error[1].partition(". Please")[0], phase="setup")


@line_sign("wandb_service", "ServicePollForTokenError", "WandbService", "start wandb-core")
def wandb_service(line: Line, stream: Stream) -> Reading | None:
    """wandb-core, the process that W&B starts beside each program, gave no port in time or went away."""
    error = exception(line, stream)
    return Reading(error[1], phase="setup") if error else None


@line_sign("rate_limited", "429", "Too Many Requests", "RateLimitError")
def rate_limited(line: Line, stream: Stream) -> Reading | None:
    """Hugging Face's hub, or a judge's API, refuses more requests; what was tried again and went on is none."""
    error = exception(line, stream)
    if error is None or survived(line):
        return None
    if not re.search(
        r"\b429\b.*Too Many Requests|Too Many Requests.*\b429\b|Error code: 429\b|status=429\b", line.text
    ):
        return None
    host = _host(line.text)
    return at(line, stream, host, subject=host)


@line_sign(
    "network",
    "Max retries exceeded",
    "NameResolutionError",
    "name resolution",
    "Server Error",
    "Read timed out",
    "ConnectTimeout",
    "Network is unreachable",
)
def network(line: Line, stream: Stream) -> Reading | None:
    """No route, no name, no answer, or a server's own error (HTTP 5xx)."""
    error = exception(line, stream)
    if error is None or survived(line):
        return None
    if "Server Error" in line.text and not re.search(r"\b5\d\d Server Error: .* for url", line.text):
        return None
    host = _host(line.text)
    return at(line, stream, host, subject=host)


# --- the tool parser ------------------------------------------------------------------------------------------------


@line_sign("tool_parser", "tool call parser", "ool parser", "toolcall_parser", "tool_parser")
def tool_parser(line: Line, stream: Stream) -> Reading | None:
    """vLLM does not know the parser's name, or its file does not import (vllm-project/vllm#42065)."""
    text = line.text
    if match := re.search(r"KeyError: ['\"]+(?:invalid tool call parser: |Tool parser ')([\w.-]+)", text):
        return Reading(f"{match[1]} is not registered", phase="setup", subject=match[1])
    if match := re.search(r"Failed to load module '?([\w./-]*parser[\w./-]*)'? from", text):
        why = next((x.text for x in stream.after(line, 40, reach=120) if re.match(r"^\w*Error: ", x.text)), "")
        return Reading(why or match[1], phase="setup", subject=match[1])
    error = exception(line, stream)
    if error is None:
        return None
    in_parser = any(re.search(r'File "[^"]*tool_?call_?parser[^"]*\.py"', x.text) for x in stream.before(line, 12))
    if error[0] in ("ModuleNotFoundError", "ImportError") and "vllm" in error[1] and in_parser:
        return Reading(error[1], phase="setup")
    if error[0] == "FileNotFoundError" and re.search(r"parser\w*\.py", error[1]):
        return Reading(_path(error[1]), phase="setup", subject=_path(error[1]))
    return None


# --- what ended the driver ------------------------------------------------------------------------------------------


@final_sign("config_refused", "ValidationError")
def refused_by_types(error: Raised, case: Case) -> Reading | None:
    """pydantic: "1 validation error for MasterConfig", then a key and its fault for each."""
    head, *rest = error.message.split("\n")
    if "validation error" not in head:
        return None
    keys = [text.strip() for text in rest if re.match(r"^[A-Za-z_][\w.\[\]-]*$", text)]
    faults = [text.split(" [type=", 1)[0].strip() for text in rest if " [type=" in text]
    detail = "; ".join(f"{k}: {f}" for k, f in zip(keys, faults, strict=False)) or head
    return Reading(detail, phase="setup", subject=keys[0] if keys else "")


@final_sign(
    "config_refused",
    "ConfigAttributeError", "ConfigKeyError", "MissingMandatoryValue", "InterpolationKeyError",
    "ConfigCompositionException", "OverrideParseException",
)  # fmt: skip
def refused_by_omegaconf(error: Raised, case: Case) -> Reading | None:
    return Reading(error.message.split("\n", 1)[0], phase="setup")


@final_sign("config_refused", "AssertionError", "ValueError", "NotImplementedError", "KeyError")
def refused_by_a_rule(error: Raised, case: Case) -> Reading | None:
    """One of NeMo RL's own checks: raised in its files, with words. After set-up only assertions (batch sizes)."""
    if "/nemo_rl/" not in error.file or "/environments/" in error.file or not error.message.strip():
        return None
    if case.setup_done and error.kind != "AssertionError":
        return None
    message = error.message.split("\n", 1)[0]
    if error.kind == "KeyError":
        message = f"the key {message} is missing"
    return Reading(message, phase=phases.of(error.functions, error.call) or "setup")


@final_sign("data_missing", "DatasetNotFoundError", "DataFilesNotFoundError", "EmptyDatasetError")
def dataset_not_found(error: Raised, case: Case) -> Reading | None:
    return Reading(error.message.split("\n", 1)[0], phase="data")


@final_sign("file_missing", "FileNotFoundError")
def file_not_found(error: Raised, case: Case) -> Reading | None:
    path = _path(error.message)
    phase = phases.of(error.functions, error.call)
    if path.endswith(DATA) or "data file" in error.message or phase == "data":
        return Reading(path or error.message.split("\n", 1)[0], phase="data", subject=path, cause="data_missing")
    return Reading(path or error.message.split("\n", 1)[0], phase=phase, subject=path)


@final_sign("permission", "PermissionError")
def permission(error: Raised, case: Case) -> Reading | None:
    path = _path(error.message)
    return Reading(path, phase=phases.of(error.functions, error.call), subject=path)


@final_sign("permission", "OSError")
def read_only(error: Raised, case: Case) -> Reading | None:
    if "Read-only file system" not in error.message:
        return None
    return Reading(f"{_path(error.message)} is read-only", phase=phases.of(error.functions, error.call))


@final_sign("import_error", "ModuleNotFoundError", "ImportError")
def not_importable(error: Raised, case: Case) -> Reading | None:
    name = re.search(r"No module named '([\w.]+)'", error.message)
    return Reading(error.message.split("\n", 1)[0], phase="setup", subject=name[1] if name else "")
