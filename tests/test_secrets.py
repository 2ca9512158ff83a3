"""Secrets: what is refused, what is not, and that a value never appears in the refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from core_case import ROOT, config_loader, frozen, point, standin
from omegaconf import OmegaConf

from nano_exp import credentials
from nano_exp.advice import mistakes
from nano_exp.compose import compose, freeze, nearest
from nano_exp.errors import UserError

CANARY = "canary-5f1d0c"
TOKENS = {
    "Hugging Face": "hf_abcdefghijklmnopqrstuvwxyz",
    "W&B": "wandb_v1_abcdefghijklmnopqrstuvwx",
    "NVIDIA": "nvapi-abcdefghijklmnopqrstuvwx",
    "OpenAI": "sk-abcdefghijklmnopqrstuvwx",
    "GitHub": "ghp_abcdefghijklmnopqrstuvwx",
    "GitHub, fine-grained": "github_pat_abcdefghijklmnopqrstuvwx",
    "AWS": "AKIAABCDEFGHIJKLMNOP",
}
HEX40 = "0123456789abcdef0123456789abcdef01234567"


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        credentials.refuse(config)
    return str(caught.value)


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS.keys())
def test_a_token_is_known_by_its_look_wherever_it_stands(token: str) -> None:
    for config in ({"a": {"b": token}}, {"a": ["x", f"y {token}"]}, {"a": [{"deep": [{"er": f"--key={token}"}]}]}):
        said = refusal(config)
        assert token not in said
        assert "looks like a secret" in said


@pytest.mark.parametrize(
    "key",
    [
        "api_key",
        "wandb_api_key",
        "apikey",
        "password",
        "secret",
        "client_secret",
        "aws_secret_access_key",
        "token",
        "hf_token",
        "auth_token",
        "credentials",
        "HF_TOKEN",
        "MY_TOKEN",
        "WANDB_API_KEY",
        "private_key",
    ],
)
def test_a_key_that_is_named_for_a_secret_is_refused_whatever_it_holds(key: str) -> None:
    said = refusal({"site": {"env": {key: CANARY}}})
    assert f"site.env.{key}" in said
    assert CANARY not in said


def test_forty_hex_digits_are_a_wandb_key_only_where_one_could_be() -> None:
    assert HEX40 not in refusal({"logger": {"wandb": {"x": HEX40}}})
    credentials.refuse({"nemo_rl": {"commit": HEX40}, "data": {"revision": HEX40}})


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HF_TOKEN}",
        "${oc.env:WANDB_API_KEY,none}",
        "${ oc.env : 'MY_SECRET' }",
        "x-${oc.env:DB_PASSWORD}",
        "${oc.decode:${oc.env:hf_token}}",
    ],
)
def test_a_secret_is_not_even_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MY_SECRET", "DB_PASSWORD", "hf_token"):
        monkeypatch.setenv(name, CANARY)
    for config in ({"a": {"b": text}}, {"a": [text]}, {"a": [{"b": text}]}):
        said = refusal(config)
        assert "oc.env" in said
        assert CANARY not in said


@pytest.mark.parametrize(
    "line",
    [
        f"export HF_TOKEN={CANARY}",
        f"WANDB_API_KEY='{CANARY}' true",
        f"export WANDB_API_KEY={HEX40}",
        f"api_key: {CANARY}",
    ],
)
def test_a_secret_assigned_inside_a_line_is_refused(line: str) -> None:
    said = refusal({"site": {"setup": ["module load cuda", line]}})
    assert CANARY not in said
    assert HEX40 not in said


HARMLESS: dict[str, Any] = {
    "policy": {
        "tokenizer": {"name": "nvidia/x", "chat_template": "{{ token }}", "pad_token": "<pad>", "eos_token": "</s>"},
        "generation": {"stop_token_ids": [11], "stop_strings": ["token"], "max_new_tokens": 512},
        "sequence_packing": {"train_mb_tokens": "${mul:1,2}", "logprob_mb_tokens": 1024},
    },
    "nemo_rl": {"commit": HEX40},
    "checkpointing": {"keep_top_k": "3", "metric_name": "val:accuracy"},
    "data": {"tokenizer_path": "${oc.env:TOKENIZER_PATH,/x}", "input_key": "input", "output_key": "answer"},
    "logger": {"wandb": {"api_key": None, "password": ""}},
    "env": {"judge": {"api_key": "${oc.env:JUDGE_URL}"}},
    "site": {
        "env": {"HF_TOKEN_PATH": "/home/me/token", "TOKENIZERS_PARALLELISM": "${oc.env:TOKENIZERS_PARALLELISM,false}"},
        "setup": ["export HF_TOKEN=$(cat ~/.token)", 'export WANDB_API_KEY="$MY_KEY"', "unset HF_TOKEN"],
    },
}


def test_what_only_sounds_like_a_secret_passes() -> None:
    credentials.refuse(HARMLESS)


def shipped() -> list[tuple[str, str]]:
    return nearest.recipes("v0_7")


@pytest.mark.parametrize(("model", "cluster"), shipped())
def test_every_shipped_recipe_passes(tmp_path: Path, model: str, cluster: str) -> None:
    frozen(tmp_path, f"model={model}", f"cluster={cluster}")


def test_every_recipe_was_tried() -> None:
    files = {p.stem for p in (ROOT / "conf" / "nemo_rl" / "v0_7").glob("*.yaml")}
    assert {f"{m}_{c}" for m, c in shipped()} == files
    assert len(files) >= 7


# --- through freezing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [
        f"++logger.wandb.api_key={CANARY}",
        "++x=${oc.env:HF_TOKEN}",
        f"++x={TOKENS['Hugging Face']}",
        f"site.env.HF_TOKEN={CANARY}",
        "+env.list=[{token:${oc.env:HF_TOKEN}}]",
        f"+env.list=[{{token:{CANARY}}}]",
        f"++logger.wandb={{api_key:{CANARY}}}",
    ],
)
def test_a_secret_in_an_override_is_refused_before_freezing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    with pytest.raises(UserError) as caught:
        freeze.freeze(point(*standin(), override.replace("site.env.HF", "+site.env.HF")), tmp_path)
    assert CANARY not in str(caught.value)
    assert TOKENS["Hugging Face"] not in str(caught.value)
    assert "env.yaml" in caught.value.fix


@pytest.mark.parametrize(
    ("override", "value"),
    [("++x=${oc.env:HARMLESS_NAME}", TOKENS["W&B"]), ("++a.api_key=${oc.env:HARMLESS_NAME}", CANARY)],
)
def test_a_secret_behind_a_harmless_name_is_refused_once_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, value: str
) -> None:
    monkeypatch.setenv("HARMLESS_NAME", value)
    with pytest.raises(UserError) as caught:
        frozen(tmp_path, override)
    assert value not in str(caught.value)


def test_a_config_file_that_reads_a_secret_is_refused_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where neither the key nor the value gives it away, the variable's name does."""
    monkeypatch.setenv("HF_TOKEN", CANARY)
    cfg = point().cfg.copy()
    OmegaConf.update(cfg, "data.header", "bearer ${oc.env:HF_TOKEN}", force_add=True)
    with pytest.raises(UserError) as caught:
        freeze.freeze(compose.Point((), cfg), tmp_path)
    assert "data.header in the config reads ${oc.env:HF_TOKEN}" in caught.value.found


@pytest.mark.parametrize("override", [f"++a.api_key={CANARY}", f"a.api_key={CANARY}", f"+a.b=x=HF_TOKEN={CANARY}"])
def test_explaining_a_failed_composition_does_not_show_it_either(override: str) -> None:
    said = str(mistakes.explain(ValueError("x"), config_loader(), ["model=nano_9", override]))
    assert CANARY not in said


# --- what this process knows of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "MY_SECRET", "DB_PASSWORD", "hf_token"])
def test_a_variable_that_sounds_like_a_secret_holds_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, CANARY)
    assert credentials.known()[CANARY] == name
    assert credentials.redact(f"401 for {CANARY}.") == f"401 for {credentials.REMOVED}."


@pytest.mark.parametrize("name", ["HF_TOKEN_PATH", "TOKENIZERS_PARALLELISM", "SECRET_FILE", "HF_HOME"])
def test_a_variable_that_says_where_a_secret_lies_holds_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, CANARY)
    assert credentials.redact(CANARY) == CANARY
    credentials.refuse({"a": CANARY})


def test_the_path_of_a_file_with_a_secret_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"/{CANARY}/no/file")
    credentials.refuse({"site": {"container": {"mounts": [f"{tmp_path}:{tmp_path}"]}}})
    assert credentials.redact(f"{tmp_path} /{CANARY}/no/file") == f"{tmp_path} {credentials.REMOVED}"


def test_short_values_and_parts_of_longer_ones_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_TOKENS", "31999")
    monkeypatch.setenv("A_TOKEN", CANARY)
    monkeypatch.setenv("B_TOKEN", f"{CANARY}-and-more")
    assert (
        credentials.redact(f"31999 {CANARY}-and-more {CANARY}") == f"31999 {credentials.REMOVED} {credentials.REMOVED}"
    )


ADDRESS = "http://me:pa55word@proxy.example:3128"


def test_a_password_in_an_address_is_refused_and_redacted() -> None:
    assert "pa55word" not in refusal({"site": {"env": {"http_proxy": ADDRESS}}})
    assert credentials.redact(f"+{ADDRESS}") == f"+http://me:{credentials.REMOVED}@proxy.example:3128"


@pytest.mark.parametrize(
    "address",
    [
        "http://proxy.example:3128",
        "git@example.org:me/x.git",
        "docker://me@nvcr.io#nvidia/nemo-rl:v0.7.0",
        "docker://nemo-rl:v0.7.0@sha256:0123",
        "http://me:${oc.env:PROXY_PART}@proxy",
    ],
)
def test_an_address_without_a_password_passes(address: str) -> None:
    credentials.refuse({"site": {"address": address}})
    assert credentials.redact(address) == address


# --- redaction ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS.keys())
def test_redact_takes_tokens_out_and_leaves_the_rest(token: str) -> None:
    text = f"+key = '{token}'\n-stop_token_ids: [11]\n"
    assert credentials.redact(text) == "+key = '[secret removed]'\n-stop_token_ids: [11]\n"


def test_an_assignment_loses_its_value_in_logs_and_diffs() -> None:
    key = "ab" * 20
    assert key not in credentials.redact(f"+export WANDB_API_KEY={key}\n")
    assert credentials.redact("MAX_TOKENS=4096 HF_TOKEN=$MINE") == "MAX_TOKENS=4096 HF_TOKEN=$MINE"
