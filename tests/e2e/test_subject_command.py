"""`sidecar subject` as people use it, on a customer whom a sidecar met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.processes import get, sidecar
from tests.e2e.test_control import ControlPlane, control  # noqa: F401  (a fixture)
from tests.e2e.test_customers import bearer, decide, headers, started, subject


def test_one_customer_from_all_sides(tmp_path: Path, control: ControlPlane) -> None:  # noqa: F811
    with headers() as upstream, started(tmp_path, upstream, control) as (running,):
        mail: dict[str, Any] = {"email": "a@b.c", "email_verified": True}
        assert get(f"{running.url}/me", bearer(**mail))[0] == 200
        subject(control, "set", "alice", "--attribute", 'city="Ulm"', "--segment", "gold")
        decide(control, "granted")
        decide(control, "withdrawn")
        known = json.loads(
            subject(control, "show", "alice", "--why", "--reason", "a call", "--output", "json")
        )
        assert known["segments"] == ["gold"]
        assert [(each["name"], each["value"]) for each in known["attributes"]] == [
            ("default/city", "Ulm")
        ]
        assert {each["kind"] for each in known["links"]} == {"created", "attached"}
        shown = subject(control, "show", "alice", "--why")
        assert known["customer"] in shown
        assert "a@b.c" in shown

        file = tmp_path / "export.json"
        subject(control, "export", "alice", "--to", str(file))
        assert file.stat().st_mode & 0o777 == 0o600
        whole = json.loads(file.read_text())
        looked = [(each["reader"], each["why"]) for each in whole["reads"]]
        assert ("operator", "a call") in looked
        assert ("operator", "export") in looked
        stands = sidecar("subject", "verify", str(file))
        assert (stands.returncode, stands.stdout.partition(";")[0].split()[0]) == (0, "2")
        whole["receipts"][0]["jws"] = whole["receipts"][1]["jws"]
        file.write_text(json.dumps(whole))
        forged = sidecar("subject", "verify", str(file))
        assert forged.returncode == 1
        assert "does not follow" in forged.stderr
        file.write_text("{}")
        assert sidecar("subject", "verify", str(file)).returncode == 2

        mails = [each for each in known["links"] if each["type"] == "email"]
        undone = sidecar("subject", "undo", mails[0]["id"], "--server", control.server)
        assert undone.returncode == 0, undone.stderr
        after = json.loads(subject(control, "show", "alice", "--output", "json"))
        assert [each["type"] for each in after["identifiers"]] == ["subject"]

        subject(control, "set", "alice", "--attribute", "city", "--segment", "", "--signal", "x",
                "--points", "40")  # fmt: skip
        bare = json.loads(subject(control, "show", "alice", "--output", "json"))
        assert (bare["attributes"], bare["segments"], bare["risk"]) == ([], [], 40.0)

        for argv, said in (
            (["show", "cus_nobody"], "there is no such customer"),
            (["grant", known["customer"], "no-such"], "there is no ConsentPurpose"),
            (["set", known["customer"], "--attribute", "city=Ulm"], "is no JSON"),
            (["erase", known["customer"]], "say --yes"),
            (["undo", "lnk_nothing"], "link"),
        ):
            done = sidecar("subject", *argv, "--server", control.server)
            assert (done.returncode, said in done.stderr) == (2, True), done.stderr
