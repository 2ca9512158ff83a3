"""An exported folder sent with the real huggingface_hub, to a hub on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hub_case
import pytest
from hub_case import Hub
from huggingface_hub import constants

from nano_exp.after.export import upload
from nano_exp.errors import UserError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_case.hub() as the_hub:
        monkeypatch.setattr(constants, "ENDPOINT", the_hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", the_hub.token)
        yield the_hub


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "export" / "step_7"
    folder.mkdir(parents=True)
    hub_case.write_weights(folder)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n")
    return folder


def test_a_folder_is_uploaded_whole(hub: Hub, exported: Path) -> None:
    said: list[str] = []
    for _ in range(2):  # a repository that is there already takes it again
        upload(exported, "me/mine", said.append)
    assert hub.taken["me/mine"] == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert len(hub.large) == len(hub_case.SHARDS), "weights came by LFS"
    assert said == [f"uploaded: {hub.url}/me/mine/commit/{hub_case.COMMIT}"] * 2


@pytest.mark.parametrize(
    ("token", "repository", "words"),
    [("hf_wrongWrongWrongWrongWrongWrongWr", "me/mine", "401"), ("", "org/tiny", "403"), ("", "other/new", "403")],
)
def test_what_the_hub_does_not_take_is_said_without_the_token(
    hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch, token: str, repository: str, words: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token or hub.token)
    with pytest.raises(UserError) as caught:
        upload(exported, repository, print)
    assert f"--upload {repository}: " in str(caught.value) and words in caught.value.found
    assert caught.value.fix.startswith("export HF_TOKEN=" if token else "a repository of yours")
    assert (token or hub.token) not in str(caught.value)
    assert not hub.taken.get(repository)
