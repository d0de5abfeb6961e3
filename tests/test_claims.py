"""Every claim of a feature holds, in seconds; those of methods are tested with the methods."""

import pytest

from fallline.core.claims import FAMILIES
from fallline.core.errors import FalllineError
from fallline.lab.claims import all_claims, claims_of, run_claim

CLAIMS = [(family, claim) for family in FAMILIES for claim in claims_of(family)]


@pytest.mark.parametrize(("family", "claim"), CLAIMS, ids=[f"{f}-{c.subject}-{i}" for i, (f, c) in enumerate(CLAIMS)])
def test_claims_hold(family, claim):
    result = run_claim(claim.subject, claim)
    assert result.ok, result.detail
    assert claim.where


def test_claims_are_chosen_by_method_and_by_family():
    assert {subject for subject, _ in all_claims(["lion", "adamw"])} == {"lion", "adamw"}
    assert {subject for subject, _ in all_claims([], ["schedules"])} == {c.subject for c in claims_of("schedules")}
    everything = all_claims()
    assert len(everything) == len(all_claims([], ["methods"])) + len(CLAIMS)


def test_an_unknown_family_is_an_error():
    with pytest.raises(FalllineError, match="objectivs"):
        all_claims([], ["objectivs"])
