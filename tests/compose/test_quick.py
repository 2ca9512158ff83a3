"""The quick way to compose one point gives what Hydra gives, or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from core_case import LAUNCH, config_loader, environment
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nano_exp.compose import freeze, kept, nearest, plain_values, quick, resolvers
from nano_exp.compose.plain_values import NotPlain, Resolver
from nano_exp.errors import UserError
from nano_exp.launch.hydra_plugins import _values
from nano_exp.launch.points import expanded

EXAMPLES = int(os.environ.get("NANO_EXP_EXAMPLES", "8"))
NINE = ("model=nano_9b", "cluster=1n8g")
#: Of hydra.launcher, what a launch does not read.
UNREAD = ("_target_", "name", "submitit_folder")


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    quick.allow()
    yield
    quick.allow(False)


def exact(config: Any) -> str:
    """All of it in its order, where 1, 1.0 and true are three values."""
    return json.dumps(config)


def slowly(words: Sequence[str]) -> list[Any]:
    """The one point of a launch by Hydra, nothing that is kept among it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "_off", True)
        found = expanded(words)
    [one] = found.frozen
    parameters = {key: value for key, value in found.parameters.items() if key not in UNREAD}
    return [one.name, one.digest, one.overrides, exact(one.config), dict(one.choices), parameters, found.notes]


def quickly(words: Sequence[str]) -> list[Any] | None:
    """The same without Hydra; None where it cannot be had so."""
    point = quick.point(words)
    if point is None:
        return None
    one = freeze.freeze(point, Path.cwd())
    found = [one.name, one.digest, one.overrides, exact(one.config), dict(one.choices), point.parameters]
    return [*found, list(point.notes)]


def after_keeping(words: Sequence[str]) -> list[Any] | None:
    quick.keep(config_loader(), words)
    return quickly(words)


PLAIN = {
    "nothing": (),
    "choices": NINE,
    "a recipe of another shape": ("model=nano_12b", "cluster=4n8g"),
    "values": (*NINE, "optimizer.lr=3e-6", "grpo.num_generations_per_prompt=8", "run.name=x1", "dry_run=true"),
    "in the place of an interpolation": (*NINE, "policy.megatron_cfg.optimizer.lr=1", "run.results=/a/b"),
    "forced": (*NINE, "++grpo.seed=7", "++cluster.num_nodes=2"),
    "a place": (*NINE, "site=minicluster", "site.timeout_min=99", "site.partition=fast"),
    "a layout and a stop rule": (*NINE, "parallelism=fsdp2", "generation=vllm_tp2", "stop=grpo", "stop.after=9"),
    "null": (*NINE, "policy.max_grad_norm=null", "budget=NULL"),
}


@pytest.mark.parametrize("words", PLAIN.values(), ids=PLAIN.keys())
def test_a_plain_point_needs_no_hydra_and_equals_hydras(words: tuple[str, ...]) -> None:
    assert after_keeping(words) == slowly(words)


def test_what_is_kept_of_options_serves_all_values() -> None:
    quick.keep(config_loader(), [*NINE, "grpo.seed=1"])
    for seed in "23":
        assert quickly([*NINE, f"grpo.seed={seed}"]) == slowly([*NINE, f"grpo.seed={seed}"])


SWEEPS = {
    "an axis": (*NINE, "optimizer.lr=1e-6,2e-6,0.1"),
    "two, and a range of one": ("grpo.seed=range(3,5)", *NINE, "optimizer.lr=1e-6,2e-6", "policy.precision=a,True"),
    "one value": (*NINE, "grpo.seed=range(0,1)", "++cluster.num_nodes=1,2"),
}


@pytest.mark.parametrize("words", SWEEPS.values(), ids=SWEEPS.keys())
def test_a_few_plain_points_need_no_hydra_and_equal_hydras(words: tuple[str, ...]) -> None:
    found = expanded(words)
    quick.keep(config_loader(), found.frozen[0].overrides)
    assert quick.points(words, several=False) is None
    points = quick.points(words, several=True)
    assert points is not None
    made = [freeze.freeze(point, Path.cwd()) for point in points]
    assert [(m.digest, m.overrides, exact(m.config)) for m in made] == [
        (f.digest, f.overrides, exact(f.config)) for f in found.frozen
    ]
    assert len(points) == len(found.frozen)
    read = {key: value for key, value in found.parameters.items() if key not in UNREAD}
    assert all(point.parameters == read for point in points)


@pytest.mark.parametrize(
    "word",
    ["cluster=1n8g,2n8g", "site.timeout_min=5,6", "grpo.seed=range(1,1)", "grpo.seed=range(0,31)", "grpo.new=1,2"],
)
def test_other_sweeps_are_left_to_hydra(word: str) -> None:
    quick.keep(config_loader(), NINE)
    words = [word] if word.startswith("cluster") else ["cluster=1n8g", word]
    assert quick.points(["model=nano_9b", *words], several=True) is None


OTHER = {
    "a key that there is not": "grpo.num_prompt_per_step=3",
    "an option that there is not": "optimizer=adam",
    "a value of another kind": "site.timeout_min=long",
    "a word where a number is read": "grpo.num_prompts_per_step=many",
    "a section": "optimizer=3",
    "a list": "run.tags=[a]",
    "a value in the place of a list": "run.tags=a",
    "quotes": "run.name='a'",
    "several": "grpo.seed=1,2",
    "an interpolation": "grpo.seed=${cluster.num_nodes}",
    "a missing value": "grpo.seed=???",
    "added": "+grpo.new=1",
    "forced and new": "++grpo.new=1",
    "taken away": "~optimizer.eps",
    "twice": "cluster=1n8g",
    "Hydra's own": "hydra.launcher.mem_gb=1",
    "a sweep": "sweeps=lr",
    "a layout that is looked for": "parallelism=auto",
    "a recipe file": "recipe=a/b.yaml",
    "no recipe for it": "nemo_rl.recipe=null",
    "a secret": "run.name=hf_abcdefghijklmnopqrstuvwxyz",
    "a package": "optimizer@policy=adamw",
}


@pytest.mark.parametrize("word", OTHER.values(), ids=OTHER.keys())
def test_what_is_not_plain_or_a_mistake_is_left_to_hydra(word: str) -> None:
    assert after_keeping([*NINE, word]) is None


@pytest.mark.parametrize("words", [("model=nano_9b",), ("model=nano_9b", "cluster=local"), ("parallelism=fsdp2",)])
def test_a_pair_without_a_recipe_is_left_to_hydra(words: tuple[str, ...]) -> None:
    assert after_keeping(words) is None


def test_a_process_that_may_not_has_no_quick_way() -> None:
    assert after_keeping(NINE) is not None
    quick.allow(False)
    assert quickly(NINE) is None


def test_an_edit_counts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "own_folders", lambda: [LAUNCH.parent / "conf", tmp_path])
    names = set()
    for text in ("a: 1", "a: 2"):
        (tmp_path / "more.yaml").write_text(text)
        words = quick.words(NINE)
        assert words is not None
        names.add(quick._name(words))
    assert len(names) == 2


def test_an_environment_variable_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    quick.keep(config_loader(), NINE)
    for value in ("/one", "/two", ""):
        monkeypatch.setenv("NANO_EXP_RESULTS", value)
        if value:
            assert quickly(NINE) == slowly(NINE)
        else:
            with pytest.raises(UserError, match=r"run\.results"):
                quickly(NINE)


def test_a_damaged_file_has_no_quick_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path))
    assert after_keeping(NINE) is not None
    [file] = tmp_path.glob(f"*{quick.SUFFIX}")
    file.write_bytes(file.read_bytes()[:-1])
    assert quickly(NINE) is None


def test_a_launch_of_kept_options_loads_nothing_of_hydra(tmp_path: Path) -> None:
    code = (
        "import sys; from nano_exp import app; app.launch(); print(sorted({'hydra', 'omegaconf'} & set(sys.modules)))"
    )
    words = ("model=nano_12b", "cluster=2n8g", "site=minicluster", "optimizer.lr=2e-6", "dry_run=true")
    for _ in range(2):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(NANO_EXP_CACHE=str(tmp_path)), capture_output=True, text=True
        )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


# --- values and interpolations against the libraries themselves ---


TEXTS = st.one_of(
    st.text("0123456789_.eE+-", min_size=1, max_size=7),
    st.text("aAnNuUlLtTrReEfFsSiI1_-./@+", min_size=1, max_size=6),
    st.sampled_from(["null", "TRUE", "False", "inf", "-nan", "+.5", "1_0", "1__0", "1_", "01", "1n8g", "1e-6", "1.e5"]),
)


@given(TEXTS)
@settings(max_examples=EXAMPLES * 50, deadline=None, derandomize=EXAMPLES < 100)
def test_a_typed_value_is_read_as_hydra_reads_it(text: str) -> None:
    word = plain_values.word(f"a.b={text}")
    assert word is not None
    read = OverridesParser.create().parse_override(f"a.b={text}").value()
    assert repr(word.value) == repr(read)


@given(st.lists(TEXTS, min_size=2, max_size=4))
@settings(max_examples=EXAMPLES * 25, deadline=None, derandomize=EXAMPLES < 100)
def test_an_axis_is_expanded_as_hydra_expands_it(texts: list[str]) -> None:
    override = f"a.b={','.join(texts)}"
    assert plain_values.axis(override) == _values(OverridesParser.create().parse_override(override))


PIECES = st.sampled_from(
    [
        *("${a}", "${b.c}", "${l[0]}", "${l.1}", "${l}", "${b}", "${missing}", "${none}", "${t}", "${.x}", "${b.${t}}"),
        *("${mul:${a}, 2}", "${add:1,${b.c}}", "${ratio:${a},10}", "${max:1, ${mul:-1, ${a}}}", "${div:1,0}"),
        *(
            "${mul:${t},2}",
            "${mul:true,2}",
            "${mul:1}",
            "${oc.env:HOME}",
            "${oc.env:NO_SUCH,1e-6}",
            "${oc.env:NO_SUCH}",
        ),
        *(
            "${oc.env:NO_SUCH,null}",
            "${oc.env:NO_SUCH,'a b'}",
            "${oc.decode:1}",
            "${nothing:1}",
            "${x}",
            "${mul: 2 ,3 }",
        ),
        *("/", "x", " ", "$", "\\", "}", "{", "a b", "'", "???"),
    ]
)


@given(st.lists(PIECES, min_size=1, max_size=3).map("".join))
@settings(max_examples=EXAMPLES * 25, deadline=None, derandomize=EXAMPLES < 100)
def test_an_interpolation_is_computed_as_omegaconf_computes_it(text: str) -> None:
    resolvers.register()
    config = {"a": 3, "b": {"c": 0.5}, "l": [1, "${a}"], "none": None, "t": "c", "u": True, "x": text}
    try:
        computed = Resolver(config).resolved(config)
    except (NotPlain, RecursionError):
        return
    try:
        assert exact(computed) == exact(OmegaConf.to_container(OmegaConf.create(config), resolve=True))
    except OmegaConfBaseException as error:
        raise AssertionError(f"OmegaConf refuses {text}") from error


KEYS = (
    *("optimizer.lr", "optimizer.min_lr", "optimizer.betas", "optimizer.new", "grpo.num_generations_per_prompt"),
    *("grpo.adv_estimator", "grpo.normalize_rewards", "policy.train_global_batch_size", "policy.precision", "grpo"),
    *("policy.megatron_cfg.optimizer.lr", "cluster.num_nodes", "model.name", "run.name", "run.results", "site.env"),
    *("site.account", "site.partition", "site.timeout_min", "logger.log_dir", "init_from", "yes", "policy.scheduler"),
    *("data.train.seed", "checkpointing.enabled", "stop.after", "sweep.metric", "model.hf_id", "engine.name", "after"),
)
VALUES = ("1", "2.5", "1e-6", "true", "null", "word", "a/b", "0", "-3", "12_3", "/x/y", "1n8g", "a.b-c")
GROUPS = (
    *(
        "parallelism=fsdp2",
        "parallelism=megatron_tp2",
        "cluster=2n8g",
        "optimizer=tiny",
        "site=minicluster",
        "stop=grpo",
    ),
    *("engine=embedded", "generation=vllm_async", "nemo_rl=v0_6", "model=nano_12b", "model=nano_30b", "data=math"),
)
typed = st.builds("{}{}={}".format, st.sampled_from(["", "", "++"]), st.sampled_from(KEYS), st.sampled_from(VALUES))


@given(st.lists(st.one_of(typed, typed, st.sampled_from(GROUPS)), max_size=5), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 100, suppress_health_check=list(HealthCheck))
def test_whatever_is_typed_equals_hydras_own_composition_or_is_left_to_it(words: list[str], with_model: bool) -> None:
    if with_model and not any(word.startswith("model=") for word in words):
        words = [*NINE, *words] if not any(word.startswith("cluster=") for word in words) else [NINE[0], *words]
    try:
        quickly_made = after_keeping(words)
    except UserError as error:  # of freezing, which is the same for all
        quickly_made = [str(error)]
    if quickly_made is None:
        return
    try:
        assert quickly_made == slowly(words)
    except UserError as error:
        assert quickly_made == [str(error)]
