from __future__ import annotations

from typing import Any

from tests.autobahn.compare import differences, summary, table


def case(behavior: str = "OK", close: str = "OK", code: int | None = 1000) -> dict[str, Any]:
    return {"behavior": behavior, "behaviorClose": close, "remoteCloseCode": code, "duration": 1}


def test_what_is_alike_makes_no_difference() -> None:
    assert differences({"1.1.1": case()}, {"1.1.1": {**case(), "duration": 9}}) == []


def test_every_difference_is_found_in_order() -> None:
    direct = {"1.1.10": case(), "1.1.2": case(), "2.1": case()}
    through = {"1.1.10": case("FAILED"), "1.1.2": case(close="UNCLEAN", code=None)}
    found = differences(direct, through)
    assert found == [
        ("1.1.2", "behaviorClose", "OK", "UNCLEAN"),
        ("1.1.10", "behavior", "OK", "FAILED"),
        ("2.1", "behavior", "OK", None),  # a case that one of them lacks
        ("2.1", "behaviorClose", "OK", None),
    ]
    assert table(found[:1]).splitlines() == [
        "case   what           directly  through the sidecar",
        "1.1.2  behaviorClose  OK        UNCLEAN",
    ]


def test_the_summary_counts() -> None:
    assert summary({"1": case(), "2": case("NON-STRICT"), "3": case()}) == "NON-STRICT 1, OK 2"
