"""NeMo RL's stdout, in the format of v0.7.0, read into metrics rows."""

import math

import pytest

from nano_exp.engines.nemo_rl.stdout import follow, stop_notice

BAR = "=" * 25


def step(k: int, n: int, reward: float = 0.25, extra: str = "") -> str:
    return (
        f"\n{BAR} Step {k}/{n} {BAR}\n▶ Preparing batch...\n▶ Generating responses for batch of size 1024...\n"
        "▶ Processing rewards...,\n▶ Computing advantages...\n▶ Training policy...\n"
        + extra
        + "\n📊 Training Results:\n"
        "  • Loss: -0.0123\n  • Generation KL Error: 0.0007\n"
        f"  • Avg Reward: {reward:.4f}\n  • Mean Generation Length: 211.5312\n"
        "\n⏱️  Timing:\n  • Total step time: 181.42s\n  • generation: 92.11s (50.8%)\n"
        "  • prepare_for_generation/total: 9.01s (5.0%)\n"
        "\n🔍 Performance Metrics:\n  • Mean Total Tokens per Sample: 1801.22\n  • Throughputs (per GPU):\n"
        "    - E2E (Samples/sec/gpu): 0.71\n"
    )


def validation(at: int, accuracy: float = 0.3125) -> str:
    return (
        f"▶ Starting validation at step {at}...\n\n📊 Validation Results:\n    • Accuracy: {accuracy:.4f}\n"
        "    • Average response length: 180.4 tokens\n    • Samples processed: 64\n"
        "\n  ⏱️  Validation Timing:\n    • Total validation time: 41.07s\n"
    )


def rows(text: str) -> list[dict]:
    return list(follow(text.splitlines(keepends=True), clock=lambda: 5.0))


def steps(text: str) -> list[int]:
    return [row["step"] for row in rows(text)]


def test_training_row_has_the_names_nemo_rl_logs() -> None:
    assert rows(f"\n{BAR} Epoch 1/1 {BAR}\n" + step(1, 30, 0.4375)) == [
        {
            "step": 1,
            "time": 5.0,
            "train/loss": -0.0123,
            "train/gen_kl_error": 0.0007,
            "train/reward": 0.4375,
            "train/mean_gen_tokens_per_sample": 211.5312,
            "timing/train/total_step_time": 181.42,
            "timing/train/generation": 92.11,
            "timing/train/prepare_for_generation/total": 9.01,
        }
    ]


def test_validation_row_comes_at_its_last_line() -> None:
    text = "\n🔍 Running initial validation...\n" + validation(0)
    assert rows(text) == [
        {
            "step": 0,
            "time": 5.0,
            "validation/accuracy": 0.3125,
            "validation/avg_length": 180.4,
            "timing/validation/total_validation_time": 41.07,
        }
    ]


def test_validation_inside_a_step_leaves_that_step_whole() -> None:
    found = rows(f"{BAR} Epoch 1/1 {BAR}\n" + step(10, 30, extra=validation(10)))
    assert [(row["step"], "train/loss" in row) for row in found] == [(10, False), (10, True)]


def test_rows_come_as_lines_arrive_not_at_the_end() -> None:
    lines = iter([*(f"{BAR} Epoch 1/1 {BAR}\n" + step(1, 2)).splitlines(keepends=True), "never read\n"])
    assert next(follow(lines))["step"] == 1
    assert "never read\n" in list(lines)


def test_several_epochs_count_on() -> None:
    text = f"{BAR} Epoch 1/2 {BAR}\n" + step(1, 2) + step(2, 2) + f"{BAR} Epoch 2/2 {BAR}\n" + step(1, 2)
    assert steps(text) == [1, 2, 3]


def test_a_run_resumed_in_its_second_epoch_counts_over_the_run() -> None:
    assert steps(f"{BAR} Epoch 2/3 {BAR}\n" + step(4, 10) + step(5, 10)) == [14, 15]


@pytest.mark.parametrize(
    "named", ["Saving checkpoint for step 17...\n", "Logged data to /r/logs/exp_002/train_data_step17.jsonl\n"]
)
def test_the_number_that_nemo_rl_names_wins(named: str) -> None:
    # Dynamic sampling drops batches, so the first epoch had 13 steps instead of 20.
    assert steps(f"{BAR} Epoch 2/3 {BAR}\n" + step(4, 20, extra=named) + step(5, 20)) == [17, 18]


def test_a_batch_dropped_by_dynamic_sampling_is_no_step() -> None:
    again = f"\n{BAR} Step 3/20 {BAR}\n▶ Preparing batch...\n"
    assert steps(f"{BAR} Epoch 1/1 {BAR}\n" + step(2, 20) + again + again + step(3, 20)) == [2, 3]


def test_dynamic_sampling_has_two_rewards() -> None:
    text = step(1, 9).replace(
        "  • Avg Reward: 0.2500\n", "  • Avg Filtered Reward: 0.5000\n  • Avg Total Reward: 0.2500\n"
    )
    (row,) = rows(text)
    assert (row["train/filtered_reward"], row["train/reward"]) == (0.5, 0.25)


def test_async_prints_no_epoch_and_two_more_numbers() -> None:
    text = step(7, 30).replace(
        "  • Mean Generation Length: 211.5312\n", "  • Buffer Size: 12\n  • Avg Trajectory Age: 1.00 steps\n"
    )
    (row,) = rows(text)
    assert (row["step"], row["train/buffer_size"], row["train/avg_trajectory_age"]) == (7, 12.0, 1.0)


def test_noise_between_the_lines_changes_nothing() -> None:
    clean = f"{BAR} Epoch 1/1 {BAR}\n" + step(1, 2, extra=validation(1)) + step(2, 2)
    noise = [
        "(VllmAsyncGenerationWorker pid=4711, ip=10.0.0.7) INFO 11-23 • Loss: 99.0\n",
        f"\x1b[36m(MegatronPolicyWorker[rank=0] pid=12)\x1b[0m {BAR} Step 9/9 {BAR}\n",
        "INFO:nemo_rl.utils.venv:venv.py:88: • Loss 12\n",
        "  • unheard of: 3.5\n",
        "\n",
    ]
    noisy = "".join(line + noise[i % len(noise)] for i, line in enumerate(clean.splitlines(keepends=True)))
    assert rows(noisy) == rows(clean)


def test_colours_and_progress_bars_around_a_line() -> None:
    text = (
        step(1, 2).replace("  • Loss", "\x1b[32m  • Loss").replace("\n📊 Training", "\n 50%|##\r100%|####\r📊 Training")
    )
    assert rows(text) == rows(step(1, 2))


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_pieces_of_lines_give_the_same_rows(size: int) -> None:
    text = "starting\n" + f"{BAR} Epoch 1/1 {BAR}\n" + step(1, 2, extra=validation(1)) + step(2, 2)
    head, rest = text[:9], text[9:]
    pieces = [head, *(rest[i : i + size] for i in range(0, len(rest), size))]
    assert list(follow(pieces, clock=lambda: 5.0)) == rows(text)


def test_lines_without_newlines_are_whole() -> None:
    text = f"{BAR} Epoch 1/1 {BAR}\n" + step(1, 2)
    assert list(follow(text.split("\n"), clock=lambda: 5.0)) == rows(text)


def test_a_cut_off_number_is_not_believed() -> None:
    text = step(1, 2)
    cut = text[: text.index("Avg Reward: 0.25") + len("Avg Reward: 0.2")]
    (row,) = rows(cut)
    assert "train/loss" in row and "train/reward" not in row


def test_nan_is_a_number_here() -> None:
    (row,) = rows(step(1, 2).replace("Loss: -0.0123", "Loss: nan"))
    assert math.isnan(row["train/loss"])


@pytest.mark.parametrize(
    ("tail", "notice"),
    [
        ("Timeout has been reached, stopping training early\nwandb: done\n", "timeout"),
        ("Max number of steps has been reached, stopping training early\n", "max_steps"),
        ("❌ Error in async loop: boom\nAsync GRPO training complete!\n", "async_error"),
        (step(3, 3), None),
    ],
)
def test_stop_notice(tail: str, notice: str | None) -> None:
    assert stop_notice(tail) == notice
