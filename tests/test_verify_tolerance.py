"""How far apart ``verify`` lets two models be, and how it finds out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bnfuse.proof.channels import channels, excess
from bnfuse.proof.deviation import ROUNDOFF, deviation, largest_magnitude, scales
from bnfuse.proof.observe import perturb
from bnfuse.proof.verdict import UNKNOWN_DEPTH, Scale, Verdict, judge, judge_exact, roundoff_of, tolerance_for
from bnfuse.results import Status
from tests.fake_runner import confront

EQUAL, DIFFERENT, INCONCLUSIVE = Status.EQUAL, Status.DIFFERENT, Status.INCONCLUSIVE


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_perturbation_is_one_or_two_units_in_the_last_place(dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    moved = perturb({"x": x}, 2.0 * ROUNDOFF[dtype], 0)["x"]
    steps = np.abs(moved - x) / np.spacing(np.abs(x))
    assert moved.dtype == x.dtype
    assert steps.min() >= 0.5
    assert steps.max() <= 2.0


def test_perturbation_is_mirrored_by_the_sign_and_reaches_zeros() -> None:
    x = np.array([1.0, -2.0, 0.0], np.float32)
    up, down = (perturb({"x": x}, step, 1)["x"] for step in (2.0**-10, -(2.0**-10)))
    assert np.array_equal(np.abs(up - x), np.array([2.0**-10, 2.0**-9, 2.0**-10]))
    assert np.array_equal(up - x, x - down)


def test_integers_are_not_perturbed() -> None:
    x = np.arange(3)
    assert perturb({"x": x}, 1e-3, 0)["x"] is x


def test_cancellation_shows_in_the_noise(tmp_path: Path) -> None:
    """A mean of a thousand subtracted: float32 loses 10 bits, and no input shows it by its own rounding."""
    weight = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)

    def subtracts(x: np.ndarray) -> np.ndarray:
        return np.asarray((x @ weight + np.float32(1000)) - np.float32(1000))

    found, _ = confront(tmp_path, subtracts, lambda x: np.asarray(x @ weight), shape=(50, 4))
    (output,) = found.outputs
    assert found.status is EQUAL
    assert output.max_rel > 1e-6  # more than the floor allows


def test_half_precision_behind_a_cast_is_recognised() -> None:
    values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    half = values.astype(np.float16).astype(np.float32)
    assert roundoff_of([values]) == 2.0**-24
    assert roundoff_of([half]) == 2.0**-11
    assert roundoff_of([values], "float16") == 2.0**-11
    assert roundoff_of([values.astype(np.float64)]) == 2.0**-53


def test_judgement_follows_noise_up_to_the_limit() -> None:
    reference = np.linspace(-1, 1, 50, dtype=np.float32)
    (scale,) = scales([largest_magnitude(reference)])
    assert scale == 1.0

    def status(error: float, noise: float) -> Status:
        found = deviation(reference, reference + np.float32(error), scale)
        return judge("y", [found], [noise], Scale(2.0**-24)).status

    assert status(5e-7, 0.0) is EQUAL  # below the floor of 4·√16·2⁻²⁴ = 9.5e-7
    assert status(1e-5, 0.0) is DIFFERENT
    assert status(5e-7, math.nan) is EQUAL  # not measured, since the floor suffices
    assert status(1e-5, math.nan) is DIFFERENT  # to be measured
    assert status(1e-5, 2e-6) is EQUAL  # explained by the noise
    assert status(2e-4, 1e-4) is INCONCLUSIVE  # explained, but beyond the limit
    assert status(1e-2, 1e-4) is DIFFERENT  # beyond what the noise explains


def test_unstable_sets_are_left_out_but_not_with_gross_errors() -> None:
    """One set is steady; on the other rounding alone moves the output by 1e-3, beyond a sixth of 1e-4."""
    reference = np.linspace(-1, 1, 50, dtype=np.float32)

    def verdict(error: float) -> Verdict:
        found = [deviation(reference, reference + np.float32(e), 1.0) for e in (0.0, error)]
        return judge("y", found, [1e-8, 1e-3], Scale(2.0**-24))

    assert (verdict(0.0).status, verdict(0.0).detail) == (EQUAL, "")
    assert verdict(9e-5).detail == ""
    assert "not compared on 1 of 2 input sets" in verdict(5e-2).detail
    assert verdict(5e-2).status is EQUAL
    assert verdict(5e-2).agreement.max_rel == 0.0
    assert verdict(0.1).status is DIFFERENT
    assert verdict(0.1).failing == (1,)
    assert verdict(0.1).agreement.max_rel == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("off", [0.0, 1e-6, 5.0])
@pytest.mark.parametrize("proved", [False, True])
def test_beside_an_output_of_zeros_only_the_folds_tell_what_is_small(off: float, proved: bool) -> None:
    reference = np.zeros((2, 50), np.float32)
    found = [deviation(reference, reference + np.float32(off), scale) for scale in scales([0.0, 0.0])]
    verdict = judge("y", found, [0.0, 0.0], Scale(2.0**-24, proved=proved))
    assert verdict.status is (EQUAL if proved or not off else DIFFERENT)
    assert verdict.agreement.max_abs == pytest.approx(off)
    if off:
        assert math.isnan(verdict.agreement.max_rel)
        assert f"is zero on all inputs, the other's is up to {off:.1e}" in verdict.detail


def test_in_a_tensor_of_zeros_channels_count_alike() -> None:
    """What rounding of the result's own weights makes of it is allowed, six times; a defect is not."""
    zeros, rng = np.zeros((1, 4, 100), np.float32), np.random.default_rng(0)
    own = [channels(zeros, zeros + 1e-6 * rng.standard_normal((1, 4, 1)))[0] for _ in range(4)]
    for size, fits in ((0.0, True), (1e-6, True), (1e-4, False)):
        other = zeros + np.float32(size) * rng.standard_normal((1, 4, 1)).astype(np.float32)
        worst = excess(channels(zeros, other)[0], 2.0**-24, own)
        assert worst is not None
        assert (worst.share <= 1.0) is fits


def test_where_all_weights_are_one_number_their_roundings_add_up() -> None:
    """Of a sum of 1000 terms so many are allowed; of weights that differ, the usual few."""
    rng, u = np.random.default_rng(0), 2.0**-24
    reference = rng.uniform(1.0, 2.0, (1, 4, 100))
    found = channels(reference, reference * (1.0 + 500.0 * u))[0]
    for terms, fits in ((0, False), (100, False), (2000, True)):
        worst = excess(found, u, terms=terms)
        assert worst is not None
        assert (worst.share <= 1.0) is fits


BASES = [
    ([0.0], Scale(2.0**-24, 9), 16 * 3 * 2.0**-24, "16 × √9 roundings of float32 (6.0e-08), as for 9 folds"),
    ([0.0], Scale(2.0**-24, 1), 16 * 2.0**-24, "as for 1 fold"),
    ([], Scale(2.0**-24, 4), 16 * 2 * 2.0**-24, "as for 4 folds in a row"),
    ([1e-6, 2e-6], Scale(2.0**-24, 4), 1.2e-5, "6 × 2.0e-06, how far rounding alone moves the original"),
    ([1e-4], Scale(2.0**-24, 4), 1e-4, "the most that is ever called equal in float32"),
    ([0.0], Scale(2.0**-11, 100), 2e-2, "the most that is ever called equal in float16"),
    ([0.0], Scale(2.0**-53, 4), 16 * 2 * 2.0**-53, "roundings of float64"),
    ([1e-6], Scale(2.0**-24, 4, 3e-5), 3e-5, "what the proof of the whole result allowed"),
]


@pytest.mark.parametrize(("noises", "scale", "value", "basis"), BASES)
def test_a_tolerance_says_where_it_comes_from(
    noises: list[float], scale: Scale, value: float, basis: str
) -> None:
    found = tolerance_for(noises, scale)
    assert found.value == pytest.approx(value, rel=1e-12)
    assert basis in found.basis


def test_the_rms_is_over_all_elements_of_all_sets() -> None:
    reference = np.zeros((2, 50), np.float32)
    one = deviation(reference, reference + np.float32(3), 1.0)
    two = deviation(reference[0], reference[0] + np.float32(0), 1.0)
    agreement = judge("y", [one, two], [0.0, 0.0], Scale(2.0**-24)).agreement
    assert agreement.rms == pytest.approx(math.sqrt(9 * 100 / 150))
    exact = deviation(np.array([1, 5, 5]), np.array([1, 2, 5]), 1.0)
    assert judge_exact("y", [exact], [0.0]).agreement.rms == pytest.approx(math.sqrt(3))


def test_the_page_tells_how_many_folds_are_taken_where_they_are_not_known() -> None:
    page = (Path(__file__).parents[1] / "docs" / "verify.md").read_text(encoding="utf-8")
    assert f"of two files, whose folds are not known, n = {UNKNOWN_DEPTH};" in page
