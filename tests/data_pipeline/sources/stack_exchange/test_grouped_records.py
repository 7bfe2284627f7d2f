"""Grouping on disk equals grouping in memory."""

from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.sources.stack_exchange.grouped_records import Group, GroupedRecords


def grouped(records: list[tuple[int, str]], max_bytes: int) -> list[Group]:
    groups = GroupedRecords(max_bytes)
    for key, text in records:
        groups.add(key, (key, text, None))
    result = list(groups.groups())
    groups.close()
    return result


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-(2**62), 2**62) | st.integers(0, 20), st.text(max_size=30))),
    st.integers(400, 3000),
)
def test_groups_are_those_of_a_dictionary(records: list[tuple[int, str]], max_bytes: int) -> None:
    expected: dict[int, list[tuple[int, str, None]]] = {}
    for key, text in records:
        expected.setdefault(key, []).append((key, text, None))
    found = grouped(records, max_bytes)
    assert len(found) == len(expected)
    for group in found:
        records_of_key = expected[group.key]
        assert len(group.records) + group.num_left_out == len(records_of_key)
        if not group.num_left_out:
            assert group.records == records_of_key
        else:  # a single group that is larger than all the memory
            assert sum(64 + len(text) for _, text, _ in records_of_key) > max_bytes


def test_order_depends_on_keys_alone() -> None:
    records = [(key, "text" * 10) for key in range(200)]
    orders = [[g.key for g in grouped(given, 2000)] for given in (records, records[::-1])]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(200))
    assert [g.key for g in grouped(records[::-1], 1 << 20)] == list(range(200))


def test_equal_hashes_end_in_one_group_each() -> None:
    """Keys that agree in all bits that are looked at."""
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
    keys = [(inverse * bits) % 2**64 for bits in range(12)]
    records = [(key - 2**64 if key >= 2**63 else key, "x" * 100) for key in keys]
    assert sum(len(g.records) + g.num_left_out for g in grouped(records, 500)) == 12
