"""Records whose machine code is still the same hold after a change of the sources."""

from __future__ import annotations

import dataclasses

import pytest

from edgeconv.tuning import keys, records, renewal
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.families import SCHEDULES, TWO_KERNELS, NoKnobs
from edgeconv.tuning.record import Record, from_line, knobs_from_json
from edgeconv.workload import PairTask
from tests.tuning.making import device, record, record_of, task

OLD = "0" * 16


@pytest.fixture(scope="module")
def known() -> Record:
    """A record with its kernel's digest."""
    found = renewal.renewed(record())
    assert found is not None
    return found


def test_digest_is_added_and_kept(known: Record) -> None:
    assert len(known.kernel) == keys.DIGEST
    assert dataclasses.replace(known, kernel="") == record()
    assert from_line(known.to_line().encode()) == known
    assert from_line(record().to_line().encode()).kernel == ""  # older files have none
    assert renewal.renewed(known) is known


def test_digest_tells_kernels_apart() -> None:
    on, family = device(), SCHEDULES["grouped_spatial_pack"]
    settings = list(family.candidates(task(), on))[:4]
    digests = [
        renewal.kernel_digest(task(), on, Candidate(family.name, knobs)) for knobs in settings
    ]
    assert len(set(digests)) == len(settings)
    again = renewal.kernel_digest(task(), on, Candidate(family.name, settings[0]))
    assert again == digests[0]


def test_names_of_variables_are_no_code() -> None:
    assembly = (
        '\t.text\n\tret\n\t.section\t.debug_str\n\t.asciz\t"i"\n\t.section\t.rodata\n\t.long\t1'
    )
    code = renewal.without_debug(assembly)
    assert ".asciz" not in code
    assert "ret" in code
    assert ".long" in code


def test_same_machine_code_renews(known: Record) -> None:
    old = dataclasses.replace(known, source=OLD)
    assert not records.is_current(old)
    assert renewal.renewed(old) == known


@pytest.mark.parametrize("change", [{"kernel": "f" * 16}, {"kernel": ""}, {"tvm": "0.1"}])
def test_other_machine_code_does_not(known: Record, change: dict[str, str]) -> None:
    assert renewal.renewed(dataclasses.replace(known, source=OLD, **change)) is None


def test_two_kernels_hold_for_the_sources_of_all_pairs() -> None:
    first = dataclasses.replace(task(kernel_size=(1, 1), padding=(0, 0, 0, 0)))
    pair = PairTask(first, task(groups=16))
    made = record_of(pair, device(), TWO_KERNELS, NoKnobs(), source=OLD, kernel="f" * 16)
    assert renewal.renewed(made) is None


def test_knobs_that_came_later_have_defaults() -> None:
    """A line of before depthwise kernels had parts is still a record."""
    values = {"lanes": 16, "rows": 1, "columns": 7, "unroll_kw": True}
    assert knobs_from_json("depthwise_blocks", values).parts == 1
    with pytest.raises(ValueError, match="unknown or missing: rows"):
        knobs_from_json("depthwise_blocks", {k: v for k, v in values.items() if k != "rows"})


def test_profiles_of_no_device_do_not_renew(known: Record) -> None:
    foreign = dataclasses.replace(known, source=OLD, profile={**known.profile, "sockets": 2})
    assert renewal.renewed(foreign) is None
