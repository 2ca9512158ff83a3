from __future__ import annotations

from nano_exp.engines.embedded import task


def test_160_different_requests_and_tokens_for_all_of_them() -> None:
    words = task.Vocabulary()
    every = task.examples()
    assert len({example.request for example in every}) == len(every) == 160
    assert max(len(words.prompt(example)) for example in every) == task.longest_prompt()
    for example in every:
        answer = words.answer(example.tool, example.argument)
        assert len(answer) == task.ANSWER_TOKENS
        assert words.text(answer) == example.call


def test_the_example_of_the_description() -> None:
    [ana] = [example for example in task.examples() if example.request == "book an hour with ana"]
    assert ana.call == "<tool_call>calendar(ana)</tool_call>"


def test_split_holds_out_a_fixed_quarter() -> None:
    train, held_out = task.split(0.25, 42)
    assert (len(train), len(held_out)) == (120, 40)
    assert not {e.request for e in train} & {e.request for e in held_out}
    assert task.split(0.25, 42) == (train, held_out)
    assert task.split(0.25, 43) != (train, held_out)


def test_reward_is_for_the_exact_and_finished_call_only() -> None:
    example = task.examples()[0]
    assert task.reward(example, example.call, True) == 1.0
    assert task.reward(example, example.call, False) == 0.0
    assert task.reward(example, example.call + "(", True) == 0.0
    assert task.reward(example, "", True) == 0.0


def test_an_epoch_visits_every_request_once_and_drops_the_incomplete_batch() -> None:
    train, _ = task.split(0.25, 42)
    epoch = [e for step in range(120 // 7) for e in task.batch(train, step, 7, 1, True)]
    assert len(epoch) == len(set(epoch)) == 119
    following = task.batch(train, 120 // 7, 7, 1, True)
    assert len(following) == 7 and following != task.batch(train, 0, 7, 1, True)
    assert task.batch(train, 0, 7, 1, False) == train[:7]
    assert task.batch(train, 3, 7, 2, True) != task.batch(train, 3, 7, 1, True)


def test_text_of_ids_beyond_the_words() -> None:
    words = task.Vocabulary()
    assert words.text([words.pad, len(words) + 1, words.end]) == f"<{len(words) + 1}>"
