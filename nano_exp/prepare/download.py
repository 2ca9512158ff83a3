"""The model of the hub: its files, its tool parser, and its chat template."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.nemo_rl import checkout, model_files
from nano_exp.prepare.step import MISSING, PARTLY, THERE, UNKNOWN, Look, Step, locks
from nano_exp.terminal.progress_line import Live
from nano_exp.text import Say, duration, size

#: Beside the weights no run needs a second format of them.
IGNORED = ("*.pth", "*.gguf", "original/*", "consolidated*")
#: A download that nobody has written to for so long, seconds, was cut off.
LEFT_OVER_S = 3600.0
#: How long threads that download may take to see Ctrl-C, seconds.
CTRL_C_S = 10.0
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Model(Step):
    """A model's snapshot in the hub's cache.

    Parameters
    ----------
    repository: org/name, or the folder of a model that is not the hub's
    revision: the branch, tag or commit that is wanted; empty: the one that is there, or the newest
    """

    name = "model"
    repository: str
    revision: str = ""

    @property
    def folder(self) -> Path:
        return self.place.hf_home / "hub" / f"models--{self.repository.replace('/', '--')}"

    @property
    def own(self) -> bool:
        """Whether it is a folder of the user's."""
        return self.repository.startswith(("/", ".", "~"))

    def look(self) -> Look:
        snapshot = checkout.snapshot(self.repository, str(self.place.hf_home))
        if snapshot is None:
            if self.own:
                return Look(UNKNOWN, f"{self.repository} is no folder on this host")
            return Look(MISSING, f"nothing of {self.repository} in {self.place.hf_home}")
        lacking = model_files.lacking(snapshot)
        commit = f" at {snapshot.name[:12]}" if COMMIT.fullmatch(snapshot.name) else ""
        if lacking:
            names = ", ".join(lacking[:2]) + (f" and {len(lacking) - 2} more" if len(lacking) > 2 else "")
            return Look(PARTLY, f"{self.repository}{commit} without {names}")
        if self.revision and commit and self._commit(self.revision) != snapshot.name:
            return Look(PARTLY, f"{self.repository}{commit}, and not at {self.revision[:12]}")
        bytes_there = sum(path.stat().st_size for path in snapshot.glob("*") if path.is_file())
        return Look(THERE, f"{self.repository}{commit}, {size(bytes_there)} in {self.place.hf_home}")

    def command(self) -> str:
        if self.own:
            return ""
        revision = ["--revision", self.revision] if self.revision else []
        return f"HF_HOME={self.place.hf_home} hf download {' '.join([self.repository, *revision])}"

    def hindered(self) -> str:
        if self.own:
            return "it is a folder of yours, which nobody but you can mend"
        try:
            import huggingface_hub  # noqa: F401
        except ImportError:
            return "huggingface_hub is not installed: pip install 'nano-exp[prepare]'"
        return ""

    def lock_folder(self) -> Path:
        return locks(self.place.hf_home) / self.folder.name

    def make(self, say: Say) -> None:
        """Download what is not there. The revision stays the one that is there, if none is asked for."""
        from huggingface_hub import HfApi, snapshot_download, utils

        utils.disable_progress_bars()
        files.make_dir(self.folder / "blobs", self.option)
        token, endpoint = os.environ.get("HF_TOKEN") or None, os.environ.get("HF_ENDPOINT") or None
        with self._in_words():
            api = HfApi(endpoint=endpoint, token=token)
            asked = self.revision or self._commit("main") or "main"
            info = api.model_info(self.repository, revision=asked, files_metadata=True)
            commit = str(info.sha)
            total = sum(int(one.size or 0) for one in info.siblings or () if not _ignored(one.rfilename))
            self._remove_left_over(say)
            self._require_space(total)
            say(f"{self.repository} at {commit[:12]}, {size(total)}, to {self.place.hf_home}")
            with _progress(self.folder / "blobs", total), _ended_by_ctrl_c() as bar:
                snapshot_download(
                    self.repository,
                    revision=commit,
                    cache_dir=self.place.hf_home / "hub",
                    token=token,
                    endpoint=endpoint,
                    ignore_patterns=list(IGNORED),
                    tqdm_class=bar,
                )
        # Runs name no revision: they take the one that refs/main has, and with HF_HUB_OFFLINE=1 no newer one.
        for name in {"main", asked} - {commit}:
            path = self.folder / "refs" / name
            files.make_dir(path.parent, self.option)
            files.write_text(path, commit)

    def _commit(self, revision: str) -> str:
        """The commit that a branch or a tag was when it was downloaded; empty where it was not."""
        if COMMIT.fullmatch(revision):
            return revision
        try:
            commit = (self.folder / "refs" / revision).read_text().strip()
        except (OSError, ValueError):
            commit = ""
        return commit if COMMIT.fullmatch(commit) else ""

    def _remove_left_over(self, say: Say) -> None:
        """Parts of files that were cut off: huggingface_hub begins those files anew, and never removes the parts."""
        for path in (self.folder / "blobs").glob("*.incomplete"):
            if time.time() - path.stat().st_mtime > LEFT_OVER_S:
                say(f"removed {path.name}, {size(path.stat().st_size)} that a download left when it was cut off")
                path.unlink(missing_ok=True)

    def _require_space(self, total: int) -> None:
        there = _bytes(self.folder / "blobs")
        free = shutil.disk_usage(self.folder).free
        if total - there > free:
            raise UserError(
                f"{self.repository} needs {size(total - there)} more, and {self.place.hf_home} has {size(free)} free",
                "all of its files have to be there",
                "free space there, or site.hf_home=/a/larger/disk; quotas are not known here",
            )

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """What the hub and the network say, as an error that tells what to type."""
        try:
            yield
        except UserError:
            raise
        except InterruptedError:
            raise KeyboardInterrupt from None
        except Exception as error:
            raise _user_error(self, error) from error


def _user_error(model: Model, error: Exception) -> UserError:
    """An error of huggingface_hub for the user; raises those that are nobody's mistake."""
    from huggingface_hub import errors

    name, has_token = model.repository, bool(os.environ.get("HF_TOKEN"))
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    again = "then the same command again: what is there is kept"
    if isinstance(error, errors.GatedRepoError):
        if not has_token:
            return UserError(
                f"{name} is gated, and HF_TOKEN is not set",
                "the hub gives it to those alone who accepted its terms",
                f"accept them at {hub}/{name}, put HF_TOKEN into env.yaml (chmod 600) or the environment, {again}",
            )
        return UserError(
            f"{name} is gated, and the owner of HF_TOKEN may not read it",
            "its terms were not accepted, or the token has no right to read gated repositories",
            f"accept them at {hub}/{name} with the account of that token, {again}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(
            f"{name} has no revision {model.revision or 'main'}",
            "a revision is a branch, a tag or a whole commit",
            f"see {hub}/{name}/commits/main, then --revision COMMIT, or no --revision for the newest",
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        private = "" if has_token else ", or it is private and HF_TOKEN is not set"
        return UserError(
            f"{hub} has no model {name}",
            f"the name is another one{private}",
            "policy.model_name=ORG/NAME as the model's page has it"
            + ("" if has_token else "; for a private one HF_TOKEN in env.yaml (chmod 600) or the environment"),
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UserError(
            "HF_HUB_OFFLINE is set", "the hub may not be asked, and the model is not there", "unset HF_HUB_OFFLINE"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401 or (status == 403 and has_token):
        return UserError(
            f"{hub} refuses HF_TOKEN (HTTP {status})" if has_token else f"{hub} wants to know who asks (HTTP {status})",
            "it has expired, was revoked, or is of another service" if has_token else "HF_TOKEN is not set",
            f"a new one from {hub}/settings/tokens as HF_TOKEN in env.yaml (chmod 600) or the environment, {again}",
        )
    if status is not None:
        return UserError(f"{hub} answers HTTP {status} for {name}", "it cannot give it now", f"later, {again}", 1)
    if isinstance(error, OSError) and error.errno:
        return files.unwritable(model.folder, error, model.option)
    if _of_the_network(error):
        return UserError(
            f"{hub} cannot be reached from this host, or not for long enough ({type(error).__name__})",
            f"{name} has to be downloaded once",
            f"on a host with a network: {model.command()}, with that folder on the shared file system; "
            "behind a proxy: export HTTPS_PROXY=...; of a mirror: export HF_ENDPOINT=...",
            1,
        )
    raise error


def _of_the_network(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is one of a connection."""
    seen = 0
    while error is not None and seen < 8:
        module = type(error).__module__.split(".")[0]
        connection = module.startswith(("httpx", "httpcore", "requests", "urllib3"))  # httpx2 too
        if connection or isinstance(error, ConnectionError | TimeoutError):
            return True
        if type(error).__name__ in ("LocalEntryNotFoundError", "FileMetadataError", "XetDownloadError"):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def _ignored(name: str) -> bool:
    return any(Path(name).match(pattern) for pattern in IGNORED)


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


@contextmanager
def _progress(folder: Path, total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """How much of a download is in its folder, on one line that changes, or now and then in a log."""
    live, over = Live(), threading.Event()
    began, first = clock(), _bytes(folder)

    def show() -> None:
        while not over.wait(1.0):
            there, seconds = _bytes(folder), clock() - began
            rate = (there - first) / seconds if seconds > 3 else 0.0
            left = f"  {size(rate)}/s  {duration((total - there) / rate)} left" if rate > 0 and there < total else ""
            live.show(f"  {size(there)} of {size(total)}{left}")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        live.clear()


@contextmanager
def _ended_by_ctrl_c() -> Iterator[Any]:
    """A progress bar for huggingface_hub, whose threads would go on to the last file after Ctrl-C: it ends them at
    their next piece, or this process where they do not come to one."""
    from huggingface_hub.utils import tqdm

    over = threading.Event()

    class Bar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
        def update(self, n: Any = 1) -> Any:
            if over.is_set():
                raise InterruptedError("Ctrl-C")
            return super().update(n)

    def interrupt(number: int, frame: object) -> None:
        over.set()
        last = threading.Timer(CTRL_C_S, os._exit, [130])
        last.daemon = True
        last.start()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield Bar
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield Bar
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Parser(Step):
    """The file that reads the model's tool calls for vLLM, where vLLM has no parser of that name itself."""

    name = "parser"
    model: Model
    plugin: str = ""

    def look(self) -> Look:
        if self.plugin:
            path = Path(self.plugin).expanduser()
            here = path.is_file() or self.place.contained
            return Look(THERE if here else MISSING, f"{self.plugin}{'' if here else ' is not there'}")
        snapshot = checkout.snapshot(self.model.repository, str(self.place.hf_home))
        found = sorted(snapshot.glob(checkout.PARSER_PATTERN)) if snapshot else []
        if not found:
            return Look(MISSING, f"no {checkout.PARSER_PATTERN} in {snapshot or 'the model, which is not there yet'}")
        return Look(THERE, found[0].name)

    def hindered(self) -> str:
        return "it comes with the model's files: that step first; or name one: " + PLUGIN


PLUGIN = "++policy.generation.vllm_cfg.tool_parser_plugin=/path/to/parser.py"
THINKING = "env.nemo_gym.policy_model.responses_api_models.vllm_model.extra_body.chat_template_kwargs.enable_thinking"


@dataclass(frozen=True)
class Thinking(Step):
    """The chat template's thinking, which is off where tools are called.

    Parameters
    ----------
    off: whether the config switches it off by the template's argument
    reads: whether a template reads the argument
    edited: whether a template was edited to the same end
    """

    name = "thinking"
    model: Model
    off: bool
    reads: Callable[[str], Any]
    edited: Callable[[str], Any]

    def look(self) -> Look:
        snapshot = checkout.snapshot(self.model.repository, str(self.place.hf_home))
        text = template(snapshot) if snapshot else None
        if text is None:
            return Look(UNKNOWN, "the chat template comes with the model")
        if self.edited(text):
            return Look(
                THERE,
                "off by the sed on tokenizer_config.json of NeMo Gym's guide: it holds, and the hub's file would undo "
                "it" + ("" if self.off else f"; the supported way: ++{THINKING}=false"),
            )
        if not self.off:
            return Look(MISSING, f"the config leaves it on; off: ++{THINKING}=false")
        if self.reads(text):
            return Look(THERE, "off by chat_template_kwargs.enable_thinking=false, which the template reads")
        return Look(MISSING, "the template does not read enable_thinking: /no_think in the data's system messages")

    def hindered(self) -> str:
        return "it is the launch's to say: a key of the config, or the data"


def template(folder: Path) -> str | None:
    """The chat template's text; transformers reads the first of these that is there."""
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        try:
            return (folder / name).read_text()
        except (OSError, UnicodeDecodeError):
            continue
    return None
