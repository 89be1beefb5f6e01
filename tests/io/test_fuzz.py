"""Damaged files give a LazyvolError or an array, in little time and memory."""

import os
import warnings

import pytest

from lazyvol.io.probe import probe
from tests.io.mutations import BYTES, SECONDS, SHAPE, damage, seeds

ROUNDS = 60
SEEDS = seeds()
#: damaged copies per format of the campaign: 35,000 for a million files
CAMPAIGN_ROUNDS = int(os.environ.get("LAZYVOL_MUTANTS", "35000"))


@pytest.mark.parametrize("kind", SEEDS)
def test_damage_is_an_error_of_the_tree(tmp_path, kind, capfd):
    seed = SEEDS[kind]
    assert probe(seed.write(tmp_path)).source.shape[-2:] in (SHAPE[-2:], (5, 7))
    outcome = damage(seed, tmp_path, ROUNDS)
    assert outcome.slowest < SECONDS
    assert outcome.grown < BYTES + 2 * len(seed.content)
    assert outcome.read < ROUNDS
    assert capfd.readouterr() == ("", "")


@pytest.mark.campaign
@pytest.mark.parametrize("kind", SEEDS)
def test_campaign_of_damaged_files(tmp_path, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = damage(SEEDS[kind], tmp_path, CAMPAIGN_ROUNDS, 1)
    print(kind, CAMPAIGN_ROUNDS, outcome)
    assert outcome.slowest < SECONDS
    assert outcome.grown < BYTES + 2 * len(SEEDS[kind].content)
