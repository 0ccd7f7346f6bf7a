"""`sidecar run --workers 3` as processes: they die, learn, count and stop together."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.casebook import jwks, token
from tests.e2e.processes import Sidecar, get, nginx, sidecar, until
from tests.e2e.test_control import ControlPlane
from tests.e2e.test_run import DOCUMENTS, bearer, write_policies

WORKERS = 3
EITHER = re.compile(r"sidecar_requests_total\{.*?\} (\S+)")
HOME = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec: {rules: [{name: home, match: {paths: [/, /PATH]}, auth: none}]}
"""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx(tmp_path_factory.mktemp("upstream")) as address:
        yield address


class Provider:
    """An issuer's key set over HTTP; counts who asks."""

    def __init__(self) -> None:
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                body = json.dumps(jwks()).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}/jwks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    found = Provider()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(scope="module")
def running(
    upstream: str, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("workers")
    documents = DOCUMENTS.replace("{file: keys.jwks}", f'{{uri: "{provider.uri}"}}')
    started = start(folder, upstream, "--policies", str(write_policies(folder, documents)))
    yield started
    assert started.stop() == 0, started.said


def start(folder: Path, upstream: str, *arguments: str) -> Sidecar:
    return Sidecar(folder, upstream, "--workers", str(WORKERS), *arguments).ready()


def workers(running: Sidecar) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(get(f"{running.admin}/snapshot")[2])["workers"]
    return found


def pids(running: Sidecar) -> list[int]:
    return [worker["pid"] for worker in workers(running)]


def answered(running: Sidecar) -> float:
    return sum(map(float, EITHER.findall(get(f"{running.health}/metrics")[2].decode())))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Connection:
    """One connection that is kept, and the worker at its other end."""

    def __init__(self, running: Sidecar) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        self.http.connect()
        self.sent = 0

    def get(self, path: str = "/", headers: dict[str, str] | None = None) -> int:
        self.http.request("GET", path, headers=headers or {})
        self.sent += 1
        answer = self.http.getresponse()
        answer.read()
        return answer.status

    def owner(self, pids: list[int]) -> int:
        """The worker's pid."""
        ours = self.http.sock.getsockname()[1]
        theirs = self.http.sock.getpeername()[1]
        inode = next(
            parts[9]
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if (parts := line.split())[1].endswith(f":{theirs:04X}")
            and parts[2].endswith(f":{ours:04X}")
        )
        for pid in pids:
            for each in Path(f"/proc/{pid}/fd").iterdir():
                if each.is_symlink() and os.readlink(each) == f"socket:[{inode}]":
                    return pid
        pytest.fail(f"nobody of {pids} holds socket {inode}")


@contextmanager
def connections(running: Sidecar, least: int = 2) -> Iterator[dict[int, list[Connection]]]:
    """Connections by worker, at least so many to each."""
    known = pids(running)
    found: dict[int, list[Connection]] = {pid: [] for pid in known}
    made = []
    try:
        while min(map(len, found.values())) < least:
            connection = Connection(running)
            made.append(connection)
            assert connection.get() == 200
            found[connection.owner(known)].append(connection)
            assert len(made) < 200, "some worker gets no connection"
        yield found
    finally:
        for connection in made:
            connection.http.close()


class Load(threading.Thread):
    """Requests over one connection, one after the other, until told to stop or to close."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.errors: list[str] = []
        self.enough = threading.Event()
        self.done = 0
        self.start()

    def run(self) -> None:
        connection = self.connection.http
        try:
            while not self.enough.is_set():
                connection.request("GET", "/")
                answer = connection.getresponse()
                closing = answer.will_close
                if answer.status != 200 or answer.read() != b"hello from nginx\n":
                    self.errors.append(f"status {answer.status}")
                self.done += 1
                if closing:
                    return
        except (OSError, http.client.HTTPException) as error:
            self.errors.append(repr(error))

    def finish(self) -> list[str]:
        self.enough.set()
        self.join(timeout=30)
        assert not self.is_alive()
        return self.errors


def test_all_serve_and_are_counted_together(running: Sidecar) -> None:
    before = answered(running)
    with connections(running) as by_worker:
        sent = sum(each.sent for found in by_worker.values() for each in found)
    assert answered(running) == before + sent
    each = [
        running.metric(f'sidecar_worker_requests_total{{worker="{number}"}}')
        for number in range(WORKERS)
    ]
    assert min(each) > 0
    assert sum(each) == before + sent
    assert running.metric('sidecar_workers{state="serving"}') == WORKERS
    assert running.metric("sidecar_snapshot_ready") == 1
    assert running.metric("sidecar_request_duration_seconds_count") == before + sent
    assert running.metric("process_resident_memory_bytes") > 0
    assert all(worker["current"] for worker in workers(running))
    decisions = json.loads(get(f"{running.admin}/decisions")[2])["decisions"]
    times = [record["time"] for record in decisions]
    assert len(times) == min(200, before + sent)
    assert times == sorted(times)
    assert json.loads(get(f"{running.admin}/config")[2])["workers"] == WORKERS


def test_keys_are_fetched_once_for_all(running: Sidecar, provider: Provider) -> None:
    with connections(running) as by_worker:
        all_ = [each for found in by_worker.values() for each in found]
        assert [each.get("/files/none", bearer()) for each in all_] == [404] * len(all_)
        assert provider.asked == 1
        unknown = token(time.time(), {"scope": "files"}, {"kid": "unknown"})
        flood = [
            threading.Thread(
                target=each.get, args=("/files/x", {"Authorization": f"Bearer {unknown}{n}"})
            )
            for n, each in enumerate(all_)
        ]
        for thread in flood:
            thread.start()
        for thread in flood:
            thread.join()
        assert [each.get("/files/x", {"Authorization": f"Bearer {unknown}"}) for each in all_] == [
            401
        ] * len(all_)
    assert provider.asked <= 2, "the second only once the cool-down was over"
    assert running.metric("sidecar_key_fetches_total") == provider.asked


def test_one_is_killed_and_the_others_go_on(running: Sidecar) -> None:
    with connections(running) as by_worker:
        victim, *others = by_worker
        loads = {pid: [Load(each) for each in found] for pid, found in by_worker.items()}
        until(lambda: all(load.done > 20 for found in loads.values() for load in found), "load")
        seen = [answered(running)]
        restarts = running.metric("sidecar_worker_restarts_total")
        os.kill(victim, signal.SIGKILL)

        def mended() -> bool:
            seen.append(answered(running))
            return (
                running.metric("sidecar_worker_restarts_total") == restarts + 1
                and running.metric('sidecar_workers{state="serving"}') == WORKERS
            )

        until(mended, f"a new worker: {running.said}")
        for load in loads[victim]:
            load.finish()
        assert [load.finish() for pid in others for load in loads[pid]] == [[]] * sum(
            len(loads[pid]) for pid in others
        )
        assert seen == sorted(seen), "what is counted never goes backwards"
    now = pids(running)
    assert victim not in now
    assert set(others) < set(now)
    with connections(running, least=1) as by_worker:  # the new one serves, with policy and keys
        for found in by_worker.values():
            assert found[0].get("/files/none", bearer()) == 404
            assert found[0].get("/files/none") == 401


def test_a_second_sidecar_cannot_join_in_silence(
    running: Sidecar, upstream: str, tmp_path: Path
) -> None:
    for count in ("1", "2"):
        done = sidecar(
            "run", "--upstream", upstream, "--policies", str(write_policies(tmp_path)),
            "--workers", count, "--listen", f"127.0.0.1:{running.port}",
            "--health=127.0.0.1:0", "--admin=127.0.0.1:0", "--decision-log=off",
        )  # fmt: skip
        assert done.returncode == 2
        assert f"--listen: cannot listen on 127.0.0.1:{running.port}" in done.stderr
        assert "choose another" in done.stderr


def test_sighup_reaches_all_of_them(running: Sidecar) -> None:
    old = running.decisions.with_suffix(".1")
    with connections(running) as by_worker:
        running.decisions.rename(old)
        running.process.send_signal(signal.SIGHUP)

        def reopened() -> bool:
            for found in by_worker.values():
                found[0].get(f"/files/{found[0].owner(list(by_worker))}")
            if not running.decisions.exists():
                return False
            text = running.decisions.read_text()
            return all(f"/files/{pid}" in text for pid in by_worker)

        until(reopened, "all log in the new file")
    for file in (old, running.decisions):
        for line in file.read_text().splitlines():
            json.loads(line)  # whole, whoever wrote it


def test_after_an_apply_nobody_decides_with_the_old_release(upstream: str, tmp_path: Path) -> None:
    control = ControlPlane(tmp_path)
    control.start()
    folder = tmp_path / "policies"
    folder.mkdir()
    running = Sidecar(
        tmp_path, upstream, "--workers", str(WORKERS), "--control-plane", control.server,
        "--state", str(tmp_path / "state"),
    )  # fmt: skip
    try:
        (folder / "p.yaml").write_text(HOME.replace("PATH", "one"))
        until(lambda: get(f"{running.health}/healthz")[0] == 200, "up")
        assert get(f"{running.url}/")[0] == 503, "nothing is admitted without a release"
        assert control.apply(folder, "--wait")[0] == 0
        running.ready()
        with connections(running) as by_worker:
            loads = [Load(found[0]) for found in by_worker.values()]
            for name in ("two", "three"):
                (folder / "p.yaml").write_text(HOME.replace("PATH", name))
                code, said = control.apply(folder, "--wait")
                assert code == 0, said
                for found in by_worker.values():
                    assert found[1].get(f"/{name}") == 404, "the new path passes, at nginx it ends"
                    assert found[1].get("/one") == 401
            assert [load.finish() for load in loads] == [[]] * WORKERS
        restarted = pids(running)[0]
        os.kill(restarted, signal.SIGKILL)
        until(lambda: restarted not in pids(running) and running.ready(), "replaced")
        with connections(running, least=1) as by_worker:
            assert {found[0].get("/three") for found in by_worker.values()} == {404}
        control.kill()
        assert running.stop() == 0
        running = start(
            tmp_path, upstream, "--control-plane", control.server,
            "--state", str(tmp_path / "state"),
        )  # fmt: skip
        with connections(running, least=1) as by_worker:  # from the last-known-good
            assert {found[0].get("/three") for found in by_worker.values()} == {404}
    finally:
        control.kill()
        running.stop()


def test_a_stop_under_load_finishes_everything(upstream: str, tmp_path: Path) -> None:
    running = start(tmp_path, upstream, "--policies", str(write_policies(tmp_path)))
    with connections(running) as by_worker:
        loads = [Load(each) for found in by_worker.values() for each in found]
        slow = Connection(running)
        slow.http.putrequest("PUT", "/files/late")
        slow.http.putheader("Authorization", bearer()["Authorization"])
        slow.http.putheader("Content-Length", "8")
        slow.http.endheaders(b"half")
        until(lambda: all(load.done > 20 for load in loads), "load")
        # As from a terminal or a container: everybody gets it.
        for pid in (*by_worker, running.process.pid):
            os.kill(pid, signal.SIGTERM)
        for load in loads:
            load.join(timeout=30)  # each is told `connection: close`
        assert [load.errors for load in loads] == [[]] * len(loads)
        slow.http.send(b"half")
        answer = slow.http.getresponse()
        assert answer.status in (201, 204)
        assert answer.getheader("connection") == "close"
        answer.read()
        slow.http.close()
    assert running.process.wait(timeout=30) == 0, running.said
    assert not any(alive(pid) for pid in by_worker)
    statuses = Counter(
        json.loads(line)["status"] for line in running.decisions.read_text().splitlines()
    )
    sent = sum(each.sent for found in by_worker.values() for each in found)
    assert statuses[200] == sent + sum(load.done for load in loads)


def test_without_a_supervisor_no_worker_stays(upstream: str, tmp_path: Path) -> None:
    running = start(tmp_path, upstream, "--policies", str(write_policies(tmp_path)))
    with connections(running) as by_worker:
        running.stop(signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in by_worker), "no worker survives", 20)
    assert get(f"{running.url}/")[0] == 0, "and nobody listens"
