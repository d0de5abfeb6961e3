"""Findings are pure functions of the record: each rule fires where it should, with its numbers, and is silent elsewhere."""

import math

import pytest

from fallline.dynamics import Record, Trouble, explain


def record(steps=100, **series):
    """A run of falling loss, with the given series at every tenth step."""
    made = Record(batch_size=32, steps=steps)
    for t in range(1, steps + 1):
        made.add(t, {"loss": 2.0 * math.exp(-t / steps) + 0.01 * (-1) ** t})
    for name, values in series.items():
        for k, value in enumerate(values):
            made.add(10 * (k + 1), {name.replace("__", "/"): value})
    return made


def kinds(made):
    return [f.kind for f in explain(made)]


def probed(share, rates=None):
    n = len(share)
    return record(share=share, threshold=[100.0] * n, sharpness=[100 * s for s in share], lr=rates or [1.0] * n)


def test_nothing_is_concluded_from_few_steps_or_probes():
    found = explain(record(steps=10))
    assert [f.kind for f in found] == ["little data"]
    assert "10 steps" in found[0].text
    assert "taken 2 times" in explain(probed([1.0, 1.0]))[0].text


def test_a_quiet_run_has_no_findings():
    assert kinds(record()) == ["fine"]


@pytest.mark.parametrize(("share", "kind"), [(3.0, "unstable"), (1.0, "edge"), (0.3, "stable"), (0.02, "room")])
def test_where_the_rate_stands_against_the_threshold(share, kind):
    found = explain(probed([9.0] + [share] * 4))  # the first probe, before warm-up, does not count
    assert found[0].kind == kind
    assert f"{share:.2g} times the 100" in found[0].text


def test_the_rate_to_try_follows_from_the_share():
    assert explain(probed([4.0] * 4))[0].factors == {"lr": 0.25}
    assert explain(probed([0.25] * 4))[0].factors == {}


def test_only_probes_at_a_high_rate_count():
    falling = probed([0.1, 2.0, 2.0, 0.001, 0.001], rates=[0.1, 1.0, 0.8, 0.01, 0.0])
    assert explain(falling)[0].kind == "unstable"


def test_trouble_comes_first_and_says_where():
    made = probed([1.0] * 4)
    made.trouble = Trouble(37, "the loss is not finite", ("the output of blocks.1",), 37)
    first = explain(made)[0]
    assert (first.kind, first.weight) == ("diverged", 3)
    assert "step 37 (batch 37): the loss is not finite, first in the output of blocks.1" in first.text


def test_a_loss_that_rises_and_one_that_stays():
    rising, stuck = Record(steps=100), Record(steps=100)
    for t in range(1, 101):
        rising.add(t, {"loss": 1.0 + abs(t - 40) / 40 + 0.001 * (-1) ** t})
        stuck.add(t, {"loss": 2.3 + 0.05 * (-1) ** t})
    assert kinds(rising) == ["rising"]
    assert kinds(stuck) == ["stuck"]


def test_spikes_are_counted_once_each():
    made = record()
    made._values["loss"][1][50:53] = [9.0, 8.0, 7.0]
    (found,) = explain(made)
    assert found.kind == "spikes"
    assert "1 loss spike " in found.text
    assert "step 51" in found.text


def test_tensors_that_move_unlike_the_others_are_named():
    usual = {f"update_ratio__{name}": [1e-3] * 4 for name in "abc"}
    text = explain(record(**usual, update_ratio__fast=[0.2] * 4, update_ratio__dead=[1e-7] * 4))
    assert "far more" in text[0].text
    assert "fast (0.2 of its norm a step)" in text[0].text
    assert "far less" in text[1].text
    assert "dead" in text[1].text


def test_all_tensors_moving_too_much():
    (found,) = explain(record(**{f"update_ratio__{name}": [0.1] * 4 for name in "abc"}))
    assert found.kind == "large steps"
    assert "in about 10 steps" in found.text
    assert found.factors["lr"] == pytest.approx(0.03)


def test_the_noise_scale_beside_the_batch():
    (small,) = explain(record(noise_scale=[4.0] * 4))
    assert "a smaller batch would learn as much" in small.text
    (large,) = explain(record(noise_scale=[640.0] * 4))
    assert "20 times the batch of 32" in large.text
    (endless,) = explain(record(noise_scale=[math.inf] * 4))
    assert "cancel almost wholly" in endless.text


def test_attention_that_saturates():
    (found,) = explain(record(attention_logit=[1.0, 30.0, 90.0], attention_entropy=[2.0, 1.0, 0.1]))
    assert "from 1 to 90" in found.text
    assert kinds(record(attention_logit=[1.0, 2.0, 3.0], attention_entropy=[2.0] * 3)) == ["fine"]


def test_refused_steps_are_reported():
    made = record()
    made.skipped = 30
    (found,) = explain(made)
    assert (found.kind, found.weight) == ("skipped", 3)
