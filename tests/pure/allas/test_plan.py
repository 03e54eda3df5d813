"""What is transferred, compared, left alone or deleted."""

from __future__ import annotations

import pytest

from airflow_provider_csc.allas.plan import Action, Item, check_compare, make_plan
from airflow_provider_csc.notation import NotationError

OLD = Item("k", 5, modified=100.0, etag="a" * 32)


@pytest.mark.parametrize(
    ("item", "existing", "compare", "action"),
    [
        (Item("k", 5), None, "checksum", Action.COPY),
        (Item("k", 5), None, "size", Action.COPY),
        (Item("k", 6), OLD, "checksum", Action.COPY),
        (Item("k", 6), OLD, "size", Action.COPY),
        (Item("k", 6), OLD, "time", Action.COPY),
        (Item("k", 5), OLD, "checksum", Action.COMPARE),
        (Item("k", 5, modified=200.0), OLD, "checksum", Action.COMPARE),
        (Item("k", 5, modified=200.0), OLD, "size", Action.SKIP),
        (Item("k", 5, modified=200.0), OLD, "time", Action.COPY),
        (Item("k", 5, modified=100.0), OLD, "time", Action.SKIP),
        (Item("k", 5, modified=50.0), OLD, "time", Action.SKIP),
        (Item("k", 5), OLD, "never", Action.COPY),
        (Item("k", 0), Item("k", 0), "size", Action.SKIP),
    ],
)
def test_one_path(item: Item, existing: Item | None, compare: str, action: Action) -> None:
    there = {"k": existing} if existing else {}
    (step,) = make_plan([item], there, compare=check_compare(compare))
    assert (step.action, step.item, step.existing) == (action, item, existing)


def test_what_the_source_has_not_is_deleted_only_on_request_and_last() -> None:
    there = {name: Item(name, 1) for name in ("z", "b", "a")}
    source = [Item("b", 1), Item("c", 1)]
    steps = make_plan(source, there, compare="size")
    assert [(each.item.path, each.action) for each in steps] == [
        ("b", Action.SKIP),
        ("c", Action.COPY),
    ]
    steps = make_plan(iter(source), there, compare="size", delete_extra=True)
    assert [(each.item.path, each.action) for each in steps] == [
        ("b", Action.SKIP),
        ("c", Action.COPY),
        ("a", Action.DELETE),
        ("z", Action.DELETE),
    ]


@pytest.mark.parametrize("value", ["md5", "", None, True, ["size"]])
def test_another_way_to_compare_is_refused(value: object) -> None:
    with pytest.raises(NotationError, match=r"compare: .* There are 'checksum'"):
        check_compare(value)
