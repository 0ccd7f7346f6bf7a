"""Rollouts with processes: a control plane, sidecars beside an upstream, callers who come all the time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Sidecar, get, nginx, sidecar, until
from tests.e2e.test_control import ControlPlane

POLICY = """apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {{name: p}}
spec:
  rules:
  - {{name: r, auth: none, match: {{methods: [GET], paths: [{paths}]}}}}
"""
BOTH, HOME_ALONE = "/, /index.html", "/"
AT_ONCE = ("--bake", "1s", "--min-requests", "5", "--timeout", "40s", "--wait")


class House:
    """Three sidecars, one with two workers, and what is applied to them."""

    def __init__(self, folder: Path, control: ControlPlane, sidecars: list[Sidecar]) -> None:
        self.folder = folder
        self.control = control
        self.sidecars = sidecars

    def run(self, *argv: str) -> tuple[int, str]:
        done = sidecar(*argv, "--server", self.control.server)
        return done.returncode, done.stdout + done.stderr

    def apply(self, paths: str, *more: str) -> tuple[int, str]:
        file = self.folder / "policy.yaml"
        file.write_text(POLICY.format(paths=paths))
        return self.run("apply", "-f", str(file), *more)

    def json(self, *argv: str) -> Any:
        code, said = self.run(*argv, "--output", "json")
        assert code == 0, said
        return json.loads(said)

    def answers(self, path: str) -> list[int]:
        return [get(f"{each.url}{path}")[0] for each in self.sidecars]

    def metric(self, line: str) -> float:
        page = get(f"http://127.0.0.1:{self.control.http_port}/metrics")[2].decode()
        found = [each for each in page.splitlines() if each.startswith(f"{line} ")]
        return float(found[0].split()[-1]) if found else -1.0

    @contextmanager
    def callers(self, path: str = "/index.html") -> Iterator[None]:
        """Come one after the other to every sidecar, until it is over."""
        over = threading.Event()

        def call() -> None:
            while not over.is_set():
                self.answers(path)

        caller = threading.Thread(target=call)
        caller.start()
        try:
            yield
        finally:
            over.set()
            caller.join()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("rollouts")
    with ExitStack() as ends:
        upstream = ends.enter_context(nginx(folder))
        control = ControlPlane(folder)
        control.start()
        ends.callback(lambda: control.running and control.running.stop())
        sidecars = []
        for name, zone, more in (
            ("a", "a", ()), ("b", "b", ()), ("c", "b", ("--workers", "2")),
        ):  # fmt: skip
            each = Sidecar(
                folder, upstream, "--control-plane", control.server, "--state",
                str(folder / f"state-{name}"), "--label", f"zone={zone}", *more, name=name,
            )  # fmt: skip
            ends.callback(each.stop)
            sidecars.append(each)
        found = House(folder, control, sidecars)
        code, said = found.apply(BOTH, "--wait", "--timeout", "30s")
        assert code == 0, said
        for each in sidecars:
            each.ready()
        until(lambda: len(found.json("status")["sidecars"]) == 3, "all are connected")
        yield found


@pytest.fixture(autouse=True)
def as_before(house: House) -> Iterator[None]:
    """Each test begins with everybody admitting both."""
    yield
    house.run("rollout", "abort", "default")
    code, said = house.apply(BOTH, "--wait")
    assert code == 0, said


def test_one_that_fares_well_is_everybodys(house: House) -> None:
    with house.callers("/"):
        code, said = house.apply(HOME_ALONE, "--canary", "30%", *AT_ONCE)
    assert code == 0, said
    assert "completed: every stage went well" in said
    # 30% of three, rounded up; then half; then all.
    assert [f"running at {stage}" in said for stage in ("30% (1 of 3)", "50% (2 of 3)")] == [
        True
    ] * 2
    assert house.answers("/index.html") == [401] * 3
    until(lambda: house.metric('sidecar_control_changes{outcome="completed"}') >= 2, "is counted")


def test_one_that_refuses_too_much_takes_itself_back(house: House) -> None:
    before = house.metric('sidecar_control_changes{outcome="rolled_back"}')
    with house.callers("/index.html"):
        code, said = house.apply(HOME_ALONE, "--canary", "50%", *AT_ONCE)
    assert code == 1, said
    assert "rolled back: it refuses 100% of" in said
    assert "the old release 0% of" in said
    until(lambda: house.answers("/index.html") == [200] * 3, "everybody admits it again")
    newest = house.json("history")[0]
    assert newest["inForce"] is False
    assert newest["rollout"]["state"] == "rolled_back"
    until(
        lambda: house.metric('sidecar_control_changes{outcome="rolled_back"}') == before + 1,
        "it counts as a failure",
    )
    until(lambda: house.json("rollout", "status", "--all")[0]["settled"], "and everybody is back")
    code, said = house.run("audit", "verify")
    assert code == 0, said


def test_by_labels_and_by_hand(house: House) -> None:
    with house.callers("/"):
        code, said = house.apply(HOME_ALONE, "--canary", "zone=b", "--bake", "10m")
        assert code == 0, said
        assert "running at zone=b (1 of 2)" in said
        until(
            lambda: house.answers("/index.html") == [200, 401, 401], "zone b has it, and a has not"
        )
        # The one with two workers reports for both, and once.
        until(
            lambda: house.json("rollout")[0]["candidate"]["requests"] > 10, "they say how it goes"
        )
        [shown] = house.json("rollout")
        assert (shown["assigned"], shown["live"], shown["refused"]) == (2, 2, 0)
        assert shown["control"]["requests"] > 0
        code, said = house.run("rollout", "pause", "default", "-m", "look at it")
        assert (code, "paused at zone=b" in said) == (0, True), said
        line = 'sidecar_control_rollout_stage_percent{namespace="default",state="paused"}'
        assert house.metric(line) == 0.0
        code, said = house.apply("/other")
        assert (code, "one at a time" in said) == (1, True), said
        code, said = house.run("rollout", "resume", "default")
        assert (code, "running at zone=b" in said) == (0, True), said
        code, said = house.run("rollout", "resume", "default")
        assert (code, "running at 100% (2 of 2)" in said) == (0, True), said
        until(lambda: house.answers("/index.html") == [401] * 3, "on to the next stage")
        code, said = house.run("rollout", "abort", "default", "-m", "not today")
        assert (code, "aborted: not today" in said) == (0, True), said
        until(lambda: house.answers("/index.html") == [200] * 3, "everybody has the old one")


def test_back_in_one_step(house: House) -> None:
    code, said = house.apply(HOME_ALONE, "--wait")
    assert code == 0, said
    assert house.answers("/index.html") == [401] * 3
    code, said = house.run("rollback", "default", "--wait", "-m", "it is missed")
    assert (code, "live on 3 of 3" in said) == (0, True), said
    assert house.answers("/index.html") == [200] * 3
    assert house.json("history")[0]["message"] == "it is missed"
    # Also out of the middle of a rollout.
    code, said = house.apply(HOME_ALONE, "--canary", "50%", "--bake", "10m")
    assert code == 0, said
    code, said = house.run("rollback", "default", "--wait")
    assert (code, "live on 3 of 3" in said) == (0, True), said
    assert house.answers("/index.html") == [200] * 3


def test_a_trial_ends_by_itself(house: House) -> None:
    code, said = house.apply(HOME_ALONE, "--ttl", "1s", "--wait")
    assert code == 0, said
    until(lambda: house.answers("/index.html") == [200] * 3, "its time is over")
    newest = house.json("history")[0]
    assert newest["author"] == "control-plane"
    assert "is over" in newest["message"]


def test_a_rollout_outlives_the_control_plane(house: House) -> None:
    with house.callers("/"):
        code, said = house.apply(HOME_ALONE, "--canary", "zone=a", "--bake", "10m")
        assert code == 0, said
        until(lambda: house.answers("/index.html") == [401, 200, 200], "zone a has it")
        house.control.kill()
        assert house.answers("/index.html") == [401, 200, 200]
        house.control.start()
        until(lambda: len(house.json("status")["sidecars"]) == 3, "all are back")
        [shown] = house.json("rollout")
        assert (shown["state"], shown["stages"]) == ("running", ["zone=a", "100%"])
        until(lambda: house.json("rollout")[0]["live"] == 1, "and enforce what they did")
        assert house.answers("/index.html") == [401, 200, 200]
