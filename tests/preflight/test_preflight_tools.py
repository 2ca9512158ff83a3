"""Tool calls with NeMo Gym: parser, template, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_case import write_weights
from preflight_case import NINE, THIRTY, TWELVE, Case, assert_case, said

CHAT = "policy.generation.vllm_cfg.http_server_serving_chat_kwargs"
PLUGIN = "policy.generation.vllm_cfg.tool_parser_plugin"
THINKING = "env.nemo_gym.policy_model.responses_api_models.vllm_model.extra_body.chat_template_kwargs.enable_thinking"
#: As published: the name is only a field of the template's own.
PUBLISHED = (
    "{%- set ns = namespace(enable_thinking=true) %}{%- if ns.enable_thinking is false %}<think></think>{%- endif %}"
)
EDITED = PUBLISHED.replace("enable_thinking=true", "enable_thinking=false")
READS = "{%- if enable_thinking is defined and not enable_thinking %}<think></think>{%- endif %}"
PARSER = (f"{CHAT}.tool_parser=nemotron_json",)
CASES = [
    Case("tool_parser_on", NINE, (f"{CHAT}.enable_auto_tools=false",), (f"++{CHAT}.enable_auto_tools=true",)),
    Case("tool_parser_on", NINE, (f"~{CHAT}.tool_parser",), (f"++{CHAT}.tool_parser=nemotron_json",)),
    Case(
        "tool_parser_on",
        NINE,
        (f"{CHAT}.tool_parser=hermes",),
        (f"{CHAT}.tool_parser=nemotron_json",),
        severity="warning",
    ),
    Case("gym_validation_samples", NINE, ("grpo.max_val_samples=100",), ("grpo.max_val_samples=null",)),
    Case(
        "gym_overlong_filtering",
        NINE,
        ("grpo.overlong_filtering=true",),
        ("grpo.overlong_filtering=false",),
        version="v0.5.0",
    ),
    Case("thinking_off", NINE, (f"{THINKING}=true",), (f"++{THINKING}=false",)),
    Case("thinking_off", NINE, (f"~{THINKING}",), (f"++{THINKING}=false",)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_tool_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_math_needs_none_of_it() -> None:
    for case in CASES:
        assert not said(case.rule, TWELVE, (case.bad[0].lstrip("~"),) if "=" in case.bad[0] else ())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder as it was downloaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "nemotron_toolcall_parser_no_streaming.py").write_text("# a parser\n")
    return folder


def template(model: Path, text: str) -> tuple[str, ...]:
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
    return (f"policy.model_name={model}",)


def test_the_parser_of_a_downloaded_model_is_found(model: Path) -> None:
    assert not said("tool_parser_file", NINE, (f"policy.model_name={model}",))
    for path in model.glob("*.py"):
        path.unlink()
    (found,) = said("tool_parser_file", NINE, (f"policy.model_name={model}",))
    assert str(model) in found.cause
    assert PLUGIN in found.fix


def test_a_model_in_the_hubs_cache_is_found(tmp_path: Path) -> None:
    home = ("policy.model_name=org/name", f"site.hf_home={tmp_path}")
    (found,) = said("tool_parser_file", NINE, home)
    assert "nano-exp prepare" in found.fix
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "nemotron_toolcall_parser_no_streaming.py").write_text("")
    assert not said("tool_parser_file", NINE, home)


def test_weights_that_are_not_there_are_told_as_the_sites_network_allows(tmp_path: Path) -> None:
    home = ("policy.model_name=org/name", f"site.hf_home={tmp_path}")
    (found,) = said("model_there", TWELVE, home)
    typed = "nano-exp prepare model=nano_12b cluster=1n8g policy.model_name=org/name"
    assert found.severity == "warning" and found.fix.startswith(f"{typed} site.hf_home={tmp_path}, which downloads it")
    (found,) = said("model_there", TWELVE, (*home, "site.network=false"))
    assert found.severity == "error" and "no network" in found.cause
    assert not said("model_there", TWELVE, (*home, "site.network=true"))
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert said("model_there", TWELVE, (*home, "site.network=false")), "a config alone trains nothing"
    write_weights(snapshot)
    assert not said("model_there", TWELVE, (*home, "site.network=false"))
    last = snapshot / "model-00002-of-00002.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    (found,) = said("model_there", TWELVE, (*home, "site.network=true"))
    assert last.name in found.cause, "a file that is cut short is none"
    last.unlink()
    (found,) = said("model_there", TWELVE, (*home, "site.network=false"))
    assert found.severity == "error" and last.name in found.cause


def test_a_home_of_models_that_is_not_there_is_told(tmp_path: Path) -> None:
    (found,) = said("model_there", TWELVE, (f"site.hf_home={tmp_path / 'none'}", "site.network=false"))
    assert found.severity == "error" and found.found == f"site.hf_home={tmp_path / 'none'}"


def test_a_model_that_is_named_by_its_folder_is_looked_at_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (found,) = said("model_there", TWELVE, (f"policy.model_name={tmp_path}",))
    assert found.severity == "error" and "model.safetensors" in found.cause
    write_weights(tmp_path)
    assert not said("model_there", TWELVE, (f"policy.model_name={tmp_path}",))
    absent = f"policy.model_name={tmp_path}/none"
    assert said("model_there", THIRTY, (absent,))[0].severity == "warning"
    assert not said("model_there", THIRTY, (absent, "site.entry=pyxis")), "the container's own"


def test_a_parser_that_is_named_has_to_be_there(model: Path) -> None:
    assert said("tool_parser_file", NINE, (f"{PLUGIN}={model}/none.py",))
    assert not said("tool_parser_file", NINE, (f"{PLUGIN}={model}/nemotron_toolcall_parser_no_streaming.py",))
    assert not said("tool_parser_file", NINE, (f"{PLUGIN}=/in/the/image.py", "site.entry=pyxis"))


def test_vllms_own_parsers_need_no_file() -> None:
    assert not said("tool_parser_file", NINE, (f"{CHAT}.tool_parser=qwen3_coder",))


def test_thinking_is_off_by_an_argument_that_the_template_reads(model: Path) -> None:
    assert not said("thinking_off", NINE, template(model, READS))


def test_a_template_edited_by_the_guides_sed_is_as_good(model: Path) -> None:
    own = template(model, EDITED)
    assert not said("thinking_off", NINE, own)
    assert not said("thinking_off", NINE, (*own, f"~{THINKING}"))


def test_a_template_that_ignores_the_argument_is_told(model: Path) -> None:
    (found,) = said("thinking_off", NINE, template(model, PUBLISHED))
    assert found.severity == "warning"
    assert "does not read that argument" in found.cause


def test_another_template_file_wins_as_in_transformers(model: Path) -> None:
    (model / "chat_template.jinja").write_text(READS)
    assert not said("thinking_off", NINE, template(model, PUBLISHED))


def test_gyms_configs_are_looked_for_in_the_checkout(tmp_path: Path) -> None:
    checkout = (f"site.checkout={tmp_path}",)
    (found,) = said("gym_paths", NINE, checkout)
    assert "submodule update" in found.fix
    gym = tmp_path / "3rdparty" / "Gym-workspace" / "Gym"
    (gym / "responses_api_models/vllm_model/configs").mkdir(parents=True)
    (gym / "responses_api_models/vllm_model/configs/vllm_model_for_training.yaml").write_text("")
    (found,) = said("gym_paths", NINE, checkout)
    assert "workplace_assistant.yaml" in found.found
    (gym / "resources_servers/workplace_assistant/configs").mkdir(parents=True)
    (gym / "resources_servers/workplace_assistant/configs/workplace_assistant.yaml").write_text("")
    assert not said("gym_paths", NINE, checkout)


def test_data_that_a_path_names_is_there(tmp_path: Path) -> None:
    checkout = (
        f"site.checkout={tmp_path}",
        f"data.validation.data_path={tmp_path}/v.jsonl",
        "data.train.data_path=t.jsonl",
    )
    assert len(said("data_files", NINE, checkout)) == 2
    (tmp_path / "v.jsonl").write_text("")
    (tmp_path / "t.jsonl").write_text("")
    assert not said("data_files", NINE, checkout)
    assert not said("data_files", NINE), "without a checkout there is nothing to look into"
