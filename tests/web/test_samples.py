"""Rates and curves, from what was seen when somebody looked."""

from __future__ import annotations

from atomq.web.samples import APART_MS, HEIGHT, WIDTH, Sample, Samples, Seen


def seen(*samples: tuple[int, int, int, int]) -> Seen:
    kept = Samples()
    for sample in samples:
        last = kept.note({"q": Sample(*sample)})["q"]
    return last


def test_one_look_tells_no_rate_and_no_curve() -> None:
    assert seen((1000, 5, 100, 90)) == Seen(None, None, "", 5, 0)


def test_rates_are_those_of_the_last_minute() -> None:
    last = seen((0, 0, 0, 0), (100_000, 0, 1000, 1000), (110_000, 5, 1050, 1020))
    assert (last.put, last.done) == (5.0, 2.0)


def test_the_curve_goes_from_left_to_right_and_is_as_high_as_the_backlog() -> None:
    last = seen((0, 0, 0, 0), (5_000, 10, 10, 0), (10_000, 5, 10, 5))
    points = [tuple(map(float, each.split(","))) for each in last.curve.split()]
    assert points[0] == (1.0, HEIGHT - 2)
    assert points[1] == (WIDTH / 2, 2.0)
    assert points[2] == (WIDTH - 1.0, HEIGHT / 2)
    assert (last.most, last.seconds) == (10, 10)


def test_two_who_look_at_once_make_one_sample() -> None:
    kept = Samples()
    for ms in range(0, 10 * APART_MS, 100):
        last = kept.note({"q": Sample(ms, 1, ms, 0)})["q"]
    assert len(last.curve.split()) <= 11
    assert round(last.put or 0) == 1000


def test_a_queue_that_began_anew_has_no_past() -> None:
    assert seen((0, 5, 100, 90), (10_000, 1, 1, 0)).put is None
    assert seen((10_000, 5, 100, 90), (0, 5, 100, 90)).put is None


def test_what_is_kept_is_bounded() -> None:
    kept = Samples()
    for at in range(5_000):
        kept.note({f"q{at}": Sample(at, 1, 0, 0)})
    for ms in range(0, 1_000 * APART_MS, APART_MS):
        last = kept.note({"q": Sample(ms, 1, 0, 0)})["q"]
    assert len(kept._queues) == 2_000
    assert len(last.curve.split()) <= 61
