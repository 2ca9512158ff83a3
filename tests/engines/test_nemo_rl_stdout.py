"""NeMo RL's stdout, in the format of v0.7.0, read into metrics rows."""

import math

import pytest

from nano_exp.engines.nemo_rl.stdout import Reader, read

BAR = "=" * 25
TIMEOUT = "Timeout has been reached, stopping training early\n"
MAX_STEPS = "Max number of steps has been reached, stopping training early\n"
REACHED = "Validation accuracy reached the early-stop threshold (0.9123 >= 0.9); stopping training\n"


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


def rows(text: str, resumes_from: int = 0) -> list[dict]:
    reader = Reader(resumes_from, clock=lambda: 5.0)
    found = [row for line in text.splitlines(keepends=True) for row in reader.feed(line)]
    return [*found, *reader.flush()]


def steps(text: str, resumes_from: int = 0) -> list[int]:
    return [row["step"] for row in rows(text, resumes_from)]


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
    found = rows(f"{BAR} Epoch 1/1 {BAR}\n" + step(10, 30, extra=validation(10)), resumes_from=9)
    assert [(row["step"], "train/loss" in row) for row in found] == [(10, False), (10, True)]


def test_a_row_comes_with_the_first_line_after_it() -> None:
    reader = Reader()
    for line in step(1, 2).splitlines():
        if found := list(reader.feed(line)):
            assert "Performance Metrics" in line and found[0]["step"] == 1
            return
    pytest.fail("no row before the end")


def test_several_epochs_count_on() -> None:
    text = f"{BAR} Epoch 1/2 {BAR}\n" + step(1, 2) + step(2, 2) + f"{BAR} Epoch 2/2 {BAR}\n" + step(1, 2)
    assert steps(text) == [1, 2, 3]


def test_a_run_resumed_in_its_second_epoch_counts_over_the_run() -> None:
    # Dynamic sampling drops batches: the first epoch had 13 steps instead of 20, and NeMo RL names no step here.
    assert steps(f"{BAR} Epoch 2/3 {BAR}\n" + step(4, 20) + step(5, 20), resumes_from=16) == [17, 18]


def test_a_batch_dropped_by_dynamic_sampling_is_no_step() -> None:
    again = f"\n{BAR} Step 3/20 {BAR}\n▶ Preparing batch...\n"
    assert steps(f"{BAR} Epoch 1/1 {BAR}\n" + step(2, 20) + again + again + step(3, 20), 1) == [2, 3]


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
    (row,) = rows(text, resumes_from=6)
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


def test_nan_is_a_number_here() -> None:
    (row,) = rows(step(1, 2).replace("Loss: -0.0123", "Loss: nan"))
    assert math.isnan(row["train/loss"])


ANYTHING = (
    f"{BAR} Step 9/9 {BAR}\n{BAR} Epoch 7/7 {BAR}\n📊 Training Results:\n  • Loss: 9.0\n  • Avg Reward: 9.0\n"
    "\n⏱️  Timing:\n  • Total step time: 9.00s\n🔍 Performance Metrics:\n▶ Starting validation at step 9...\n"
    f"{TIMEOUT}📊 Using log directory: /elsewhere/exp_099\n    • Total validation time: 9.00s\n"
)


def test_what_the_model_says_in_a_validation_is_not_taken_for_nemo_rls_words() -> None:
    said = validation(1).replace("...\n", "...\n" + ANYTHING, 1)
    before, after = f"{BAR} Epoch 1/2 {BAR}\n", step(2, 2)
    assert rows(before + step(1, 2, extra=said) + after) == rows(before + step(1, 2, extra=validation(1)) + after)
    reader = read((before + step(1, 2, extra=said) + after).splitlines())
    assert (reader.notice, reader.log_dir, reader.at_end_of_epochs(False)) == (None, "", False)


def test_words_inside_a_line_are_nobodys() -> None:
    inside = "".join(f"│ {line} │\n" for line in (f"{BAR} Step 9/9 {BAR}", TIMEOUT.strip(), "📊 Training Results:"))
    reader = read((step(1, 2) + inside).splitlines())
    assert reader.notice is None and steps(step(1, 2) + inside + step(2, 2)) == [1, 2]


def test_the_folder_of_the_attempts_logs_is_the_first_that_is_said() -> None:
    text = "📊 Using log directory: /r/lr/r1234/logs/exp_007\n📊 Using log directory: /other/exp_009\n"
    assert read(text.splitlines()).log_dir == "exp_007"


@pytest.mark.parametrize(
    ("tail", "notice"),
    [
        (TIMEOUT + "wandb: done\n", "timeout"),
        (MAX_STEPS, "max_steps"),
        ("❌ Error in async loop: boom\nAsync GRPO training complete!\n", "async_error"),
        (REACHED + step(3, 3).partition("Training policy...\n")[2], "threshold"),
        ("Initial v" + REACHED.removeprefix("V"), "threshold"),
        (TIMEOUT + step(3, 3), None),  # an earlier one: training went on
        (step(3, 3), None),
    ],
)
def test_why_it_said_that_it_stops(tail: str, notice: str | None) -> None:
    assert read(tail.splitlines()).notice == notice


@pytest.mark.parametrize(
    ("text", "drops", "whole"),
    [
        (f"{BAR} Epoch 1/1 {BAR}\n" + step(19, 20) + step(20, 20), False, True),
        (f"{BAR} Epoch 1/1 {BAR}\n" + step(19, 20), False, False),
        (f"{BAR} Epoch 1/1 {BAR}\n" + step(19, 20) + f"{BAR} Step 20/20 {BAR}\n", False, False),
        (f"{BAR} Epoch 1/2 {BAR}\n" + step(20, 20), False, False),
        (f"{BAR} Epoch 2/2 {BAR}\n" + step(20, 20), False, True),
        (f"{BAR} Epoch 2/2 {BAR}\n" + step(13, 20) + f"{BAR} Step 14/20 {BAR}\n", True, True),
        (f"{BAR} Epoch 1/2 {BAR}\n" + step(13, 20), True, False),
        (f"{BAR} Epoch 2/2 {BAR}\n", False, True),
        ("SETUP COMPLETE\n", False, False),
    ],
)
def test_whether_the_last_epochs_last_step_was_finished(text: str, drops: bool, whole: bool) -> None:
    assert read(text.splitlines()).at_end_of_epochs(drops) is whole
