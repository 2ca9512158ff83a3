"""Signs of GPUs, CUDA and NCCL: PyTorch 2.x, the kernel's NVRM lines, NVIDIA's Xid table, NCCL 2.2x."""

from __future__ import annotations

import re

from nano_exp.triage.loglines import Line, Stream
from nano_exp.triage.signs import Reading, at, exception, line_sign, survived

_TRIED = re.compile(r"Tried to allocate ([\d.]+ [KMGT]iB)")
#: Of a GPU that vLLM has for itself, and so finds when it starts, so much is free at the least (seen: 0.996).
EMPTY = 0.95
_FREE_ON_START = re.compile(r"Free memory on device.*?\(([\d.]+)/([\d.]+) GiB\) on startup is less than desired")
_PEER = re.compile(r"closed by remote peer|Connection reset by peer|Broken pipe")


@line_sign("cuda_oom", "out of memory", "OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED")
def cuda_out_of_memory(line: Line, stream: Stream) -> Reading | None:
    """torch.OutOfMemoryError, CUDA's own error 2, cuBLAS without a workspace; not host memory, not a warning."""
    error = exception(line, stream)
    if error is None or survived(line):
        return None
    kind, message = error
    by_torch = kind == "OutOfMemoryError" and "CUDA out of memory" in message
    by_cuda = re.match(r"CUDA (?:driver )?[Ee]rror: (?:out of memory|CUDA_ERROR_OUT_OF_MEMORY)", message)
    by_cublas = "CUBLAS_STATUS_ALLOC_FAILED" in message
    by_vllm = kind in ("RuntimeError", "ValueError") and "CUDA out of memory" in message[:200]
    if not (by_torch or by_cuda or by_cublas or by_vllm):
        return None
    request = _TRIED.search(message)
    return at(line, stream, f"tried to allocate {request[1]}" if request else "")


@line_sign("cuda_oom", "on startup is less than desired")
def vllm_finds_the_gpu_full(line: Line, stream: Stream) -> Reading | None:
    """NeMo RL starts vLLM before the policy, so the GPU is empty then, unless somebody else is on it."""
    error = exception(line, stream)
    match = _FREE_ON_START.search(error[1]) if error else None
    if match is None:
        return None
    free = float(match[1]) / float(match[2])
    detail = f"vLLM found {match[1]} of {match[2]} GiB free and wants more"
    shared = "gpu_shared" if free < EMPTY else ""
    return Reading(detail, phase="generation", cause=shared, subject=f"{int(free * 100) / 100:g}" if shared else "")


@line_sign("gpu_shared", "Error in memory profiling.")
def memory_came_back(line: Line, stream: Stream) -> Reading | None:
    """vLLM measures what its first pass takes, and found more free after it than before."""
    error = exception(line, stream)
    match = (
        re.search(r"Initial free memory ([\d.]+) GiB, current free memory ([\d.]+) GiB", error[1]) if error else None
    )
    if match is None:
        return None
    return Reading(f"free while vLLM measured: {match[1]} GiB, then {match[2]}", phase="generation")


@line_sign("vllm_mamba_blocks", "Mamba cache blocks")
def mamba_blocks(line: Line, stream: Stream) -> Reading | None:
    match = re.search(r"max_num_seqs \((\d{1,9})\) exceeds available Mamba cache blocks \((\d{1,9})\)", line.text)
    if match is None or not (line.who or exception(line, stream)):
        return None
    return Reading(f"{match[1]} sequences, {match[2]} blocks", phase="generation", subject=match[2])


@line_sign("vllm_no_kv_cache", "No available memory for the cache blocks", "KV cache is needed")
def no_kv_cache(line: Line, stream: Stream) -> Reading | None:
    if exception(line, stream) is None:
        return None
    length = re.search(r"max seq(?:uence)? len\w* \((\d{1,9})\)", line.text)
    fits = re.search(r"estimated maximum model length is (\d{1,9})", line.text)
    detail = f"one sequence of {length[1]} tokens does not fit" if length else ""
    return Reading(detail, phase="generation", subject=fits[1] if fits else "")


#: Xid numbers (NVIDIA's "XID errors" table) that are the hardware's: cause and words.
XIDS = {
    48: ("gpu_ecc", "double-bit ECC error"),
    63: ("gpu_ecc", "ECC page retirement or row remapping"),
    64: ("gpu_ecc", "ECC row remapping failed"),
    74: ("fabric", "NVLink error"),
    79: ("gpu_lost", "GPU has fallen off the bus"),
    92: ("gpu_ecc", "high rate of single-bit ECC errors"),
    94: ("gpu_ecc", "contained ECC error"),
    95: ("gpu_ecc", "uncontained ECC error"),
    109: ("gpu_lost", "context switch time-out"),
    119: ("gpu_lost", "GSP time-out"),
    120: ("gpu_lost", "GSP error"),
    140: ("gpu_ecc", "unrecovered ECC error"),
    145: ("fabric", "NVLink RLW error"),
    149: ("fabric", "NVLink NETIR error"),
}


@line_sign("gpu_lost", "Xid (", any_level=True)
def xid(line: Line, _stream: Stream) -> Reading | None:
    """The kernel's report. Xids of a program's own faults (13, 31, 43, 45) are left to the program's message."""
    match = re.search(r"NVRM: Xid \((?:PCI:)?([\w:.]+)\): (\d{1,4})\b", line.text)
    if match is None or int(match[2]) not in XIDS:
        return None
    cause, words = XIDS[int(match[2])]
    host = re.match(r"^(?:\[[^\]]*\] )?\w{3} +\d+ \d\d:\d\d:\d\d ([\w.-]+) kernel:", line.text)
    return Reading(f"Xid {match[2]}, {words}, at {match[1]}", node=host[1] if host else "", cause=cause)


#: A CUDA error's words -> cause. Out of memory has its own sign.
CUDA_ERRORS = (
    ("GPU is lost", "gpu_lost"),
    ("GPU has fallen off the bus", "gpu_lost"),
    ("uncorrectable ECC error", "gpu_ecc"),
    ("uncorrectable NVLink error", "fabric"),
    ("system not yet initialized", "fabric"),
    ("initialization error", "cuda_init"),
    ("CUDA unknown error", "cuda_init"),
    ("no CUDA-capable device is detected", "cuda_init"),
    ("No CUDA GPUs are available", "cuda_init"),
    ("CUDA-capable device(s) is/are busy or unavailable", "cuda_init"),
    ("CUDA driver initialization failed", "cuda_init"),
    ("Found no NVIDIA driver on your system", "cuda_init"),
    ("driver/library version mismatch", "cuda_init"),
    ("device-side assert triggered", "cuda_assert"),
    ("an illegal memory access was encountered", "cuda_error"),
    ("misaligned address", "cuda_error"),
    ("an illegal instruction was encountered", "cuda_error"),
    ("unspecified launch failure", "cuda_error"),
    ("no kernel image is available", "cuda_error"),
)


@line_sign("cuda_error", *(words for words, _ in CUDA_ERRORS))
def cuda_error(line: Line, stream: Stream) -> Reading | None:
    error = exception(line, stream)
    if error is None or survived(line):
        return None
    for words, cause in CUDA_ERRORS:
        if words in error[1]:
            return at(line, stream, words, cause=cause)
    return None


# --- NCCL -----------------------------------------------------------------------------------------------------------


@line_sign("nccl_timeout", "Watchdog caught collective operation timeout")
def watchdog(line: Line, _stream: Stream) -> Reading | None:
    """PyTorch's watchdog: some rank did not come to a collective."""
    if "ProcessGroupNCCL" not in line.shown and "DistBackendError" not in line.text:
        return None
    what = re.search(r"OpType=(\w+)", line.text)
    after = re.search(r"ran for (\d{1,12}) milliseconds", line.text)
    rank = re.search(r"\[Rank (\d{1,9})\]", line.text)
    detail = f"{what[1]} after {int(after[1]) // 1000} s" if what and after else ""
    return Reading(detail, rank=int(rank[1]) if rank else None)


@line_sign("nccl_error", "ncclSystemError", "ncclInternalError", "ncclInvalidUsage", "ncclUnhandledCudaError")
def nccl_error(line: Line, stream: Stream) -> Reading | None:
    """The second line of a DistBackendError; the lines after it say "Last error:" and what it was."""
    match = re.match(r"^(nccl\w+Error|ncclInvalidUsage): ", line.text)
    if match is None:
        return None
    last = ""
    for other in stream.after(line, 3, reach=60):
        if not other.level and not other.indented and not other.text.startswith("Last error"):
            last = other.text.strip()
            break
    if "out of memory" in last:
        return at(line, stream, last, cause="cuda_oom")
    if "/dev/shm" in last:
        return at(line, stream, last, cause="disk_full", subject="/dev/shm", fault="infrastructure")
    if _PEER.search(last):
        return at(line, stream, last, cause="nccl_peer_lost")
    return at(line, stream, f"{match[1]}{': ' + last if last else ''}")


# --- NaN ------------------------------------------------------------------------------------------------------------
