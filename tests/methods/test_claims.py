"""The claim runner: failures carry their numbers, and nothing passes by accident."""

import torch

from fallline import METHODS
from fallline.core.claims import Claim
from fallline.lab.claims import ClaimLab, run_claim, run_claims

LAB = ClaimLab()


def result(check):
    return run_claim("adam", Claim("text", "where", check))


def test_a_wrong_claim_fails_with_its_numbers():
    def wrong(lab):
        yield lab.close(lab.one_step(METHODS["adam"], lr=0.01).abs(), 0.02)
        yield lab.ratio(1.0, 2.0, equals=0.7)
        yield lab.less(3.0, 2.0)

    failed = result(wrong)
    assert not failed.ok
    assert "largest difference 0.01" in failed.detail
    assert "= 0.5, claimed 0.7" in failed.detail
    assert "3 < 2" in failed.detail


def test_a_claim_without_outcome_or_with_an_error_fails():
    assert not result(lambda lab: iter(())).ok
    assert "ZeroDivisionError" in result(lambda lab: iter([1 / 0])).detail


def test_checks():
    assert LAB.equal(torch.ones(3), 1.0).ok
    assert not LAB.equal(torch.ones(3), 1.0 + 1e-9).ok
    assert not LAB.close(float("nan"), 1.0).ok


def test_selection_by_name():
    assert {r.subject for r in run_claims(["lion", "adamw"])} == {"lion", "adamw"}
