"""Settings: flag over environment over file over default; every mistake at once."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from sidecar import config
from sidecar.config import Address
from sidecar.errors import Misuse
from sidecar.facts.server import Server
from sidecar.inject.terms import Resources


def settings(arguments: list[str], environ: dict[str, str] | None = None) -> config.RunSettings:
    parser = argparse.ArgumentParser()
    config.add_flags(parser, config.RUN)
    return config.run_settings(parser.parse_args(arguments), environ or {})


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    return ["--upstream", "http://127.0.0.1:8080", "--policies", str(tmp_path)]


def test_defaults(base: list[str], tmp_path: Path) -> None:
    found = settings(base)
    assert found.listen == Address("127.0.0.1", 7400)
    assert found.health == Address("127.0.0.1", 7401)
    assert found.admin == Address("127.0.0.1", 7402)
    assert (found.namespace, found.labels, found.workers) == ("default", {}, 1)
    assert found.policies == tmp_path
    assert found.control_plane is None
    assert found.drain == 20.0


def test_flag_over_environment_over_file(base: list[str], tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("listen: 127.0.0.1:1\nhealth: 127.0.0.1:2\nadmin: 127.0.0.1:3\nlabel: {a: b}\n")
    environ = {
        "SIDECAR_CONFIG": str(file),
        "SIDECAR_LISTEN": "127.0.0.1:10",
        "SIDECAR_HEALTH": "127.0.0.1:20",
    }
    found = settings([*base, "--listen", "127.0.0.1:100"], environ)
    assert [found.listen.port, found.health.port, found.admin.port] == [100, 20, 3]
    assert found.labels == {"a": "b"}


@pytest.mark.parametrize("listen", ["0.0.0.0:7400", "[::]:7400"])
def test_the_upstream_may_be_where_callers_were_going(listen: str, tmp_path: Path) -> None:
    found = settings(
        ["--upstream", "original-destination", "--policies", str(tmp_path), "--listen", listen]
    )
    assert found.upstream == "original-destination"


def test_labels(base: list[str]) -> None:
    assert settings([*base, "--label", "a=1", "--label", "b=x=y"]).labels == {"a": "1", "b": "x=y"}
    assert settings(base, {"SIDECAR_LABEL": "a=1,b=2"}).labels == {"a": "1", "b": "2"}


def test_every_mistake_at_once(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("lisen: x\nnamespace: [a]\n")
    with pytest.raises(Misuse) as caught:
        settings(
            ["--upstream", "x", "--control-plane", "y", "--label", "z", "--drain", "soon",
             "--config", str(file), "--admin", "127.0.0.1:7401"],
        )  # fmt: skip
    said = "\n".join(caught.value.mistakes)
    for part in (
        "--upstream: 'x' is not http://HOST:PORT", "--control-plane: 'y' is not HOST:PORT",
        "--label: 'z' is not a label", "--drain: 'soon' is not a duration",
        "unknown setting 'lisen'", "namespace has a value of the wrong shape",
        "--admin: 127.0.0.1:7401 is already --health's",
    ):  # fmt: skip
        assert part in said, said


GOOD = {"upstream": "http://h:1", "policies": "/"}


def mistakes(
    given: dict[str, str], how: str, tmp_path: Path, arguments: tuple[str, ...] = ()
) -> list[str]:
    flags: list[str] = [*arguments]
    environ: dict[str, str] = {}
    if how == "flag":
        flags += [part for key, value in given.items() for part in (f"--{key}", value)]
    elif how == "environment":
        environ = {f"SIDECAR_{k.upper().replace('-', '_')}": v for k, v in given.items()}
    else:
        file = tmp_path / "settings.yaml"
        file.write_text("".join(f"{key}: {value}\n" for key, value in given.items()))
        flags += ["--config", str(file)]
    with pytest.raises(Misuse) as caught:
        settings(flags, environ)
    return list(caught.value.mistakes)


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"upstream": "nowhere"}, "is not http://HOST:PORT"),
        ({"policies": "/no/such"}, "does not exist"),
        ({"policies": None, "control-plane": "nowhere"}, "is not HOST:PORT"),
    ],
)
def test_what_cannot_be_read_is_not_also_missing(
    how: str, bad: dict[str, str | None], says: str, tmp_path: Path
) -> None:
    given = {key: value for key, value in {**GOOD, **bad}.items() if value is not None}
    [mistake] = mistakes(given, how, tmp_path)
    assert says in mistake


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_another_settings_mistake_hides_nothing_that_is_missing(how: str, tmp_path: Path) -> None:
    found = mistakes({"upstream-ca": "/no/such", "policies": "/"}, how, tmp_path)
    assert any("does not exist" in mistake for mistake in found)
    assert "--upstream: the service behind is missing; give http://HOST:PORT" in found


def test_a_shape_that_cannot_be_read_is_not_also_missing(tmp_path: Path) -> None:
    [mistake] = mistakes({**GOOD, "upstream": "[a]"}, "file", tmp_path)
    assert mistake.endswith("upstream has a value of the wrong shape")


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        ("header-timeout", "0.5", "write 500ms"),
        ("header-timeout", ".inf", "write 30s or 500ms"),
        ("namespace", "1.5", "1.5 is a number: write it in quotes"),
    ],
)
def test_numbers_with_a_point_in_the_file(
    key: str, value: str, instead: str, tmp_path: Path
) -> None:
    [mistake] = mistakes({**GOOD, key: value}, "file", tmp_path)
    assert mistake.endswith(f"{key} has a value of the wrong shape; {instead}")


def test_two_sources_of_policy_are_too_many_even_when_one_is_bad(tmp_path: Path) -> None:
    found = mistakes({**GOOD, "policies": "/no/such", "control-plane": "h:1"}, "flag", tmp_path)
    assert any("give one of the two, not both" in mistake for mistake in found)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--upstream: the service behind is missing"),
        (["--upstream", "http://h:1"], "give one of the two"),
        (["--upstream", "http://h:1", "--policies", "/", "--control-plane", "h:1"], "not both"),
        (["--upstream", "http://h:1", "--policies", "/no/such"], "does not exist"),
        (["--upstream", "ftp://h:1", "--policies", "/"], "is not http://HOST:PORT"),
        (["--upstream", "http://h:1/x", "--policies", "/"], "is not http://HOST:PORT"),
        (["--upstream", "http://h:99999", "--policies", "/"], "is not http://HOST:PORT"),
        (["--upstream", "http://u:p@h:1", "--policies", "/"], "is not http://HOST:PORT"),
        (["--upstream", "http://a b:80", "--policies", "/"], "is not http://HOST:PORT"),
        (["--upstream", "http://a,b:80", "--policies", "/"], "is not http://HOST:PORT"),
        (["--upstream", "http://h:1", "--policies", "/dev/null"], "neither a file nor a folder"),
        (["--upstream", "http://h:1", "--control-plane", "h:1", "--trust", "/"], "is not a file"),
        (
            ["--upstream", "http://h:1", "--control-plane", "h:1", "--state", "/dev/null"],
            "--state: /dev/null is not a folder",
        ),
        (
            ["--upstream", "http://h:1", "--policies", "/", "--listen", "0.0.0.0:7401"],
            "--health: 127.0.0.1:7401 is already --listen's, 0.0.0.0:7401; choose another port",
        ),
        (
            ["--upstream", "http://h:1", "--policies", "/", "--admin", "[::]:7400"],
            "--admin: [::]:7400 is already --listen's, 127.0.0.1:7400",
        ),
        (["--upstream", "http://h:1", "--policies", "/", "--workers", "65"], "more than 64"),
        (
            ["--upstream", "original-destination", "--policies", "/"],
            "--listen: redirected connections do not reach 127.0.0.1:7400; give [::]:7400",
        ),
        (
            ["--upstream", "original-destination", "--policies", "/", "--upstream-ca", "/dev/null"],
            "--upstream-ca: ",
        ),
        (["--upstream", "original-destinations", "--policies", "/"], "or original-destination"),
        (["--upstream", "http://h:1", "--policies", "/", "--namespace", "A b"], "is not a name"),
        (["--upstream", "http://h:1", "--policies", "/", "--config", "/no"], "cannot read"),
        (["--upstream", "http://h:1", "--policies", "/", "--listen", "::1:80"], "in brackets"),
    ],
)
def test_mistakes(arguments: list[str], says: str) -> None:
    with pytest.raises(Misuse) as caught:
        settings(arguments)
    assert says in "\n".join(caught.value.mistakes)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:7400", Address("127.0.0.1", 7400)),
        ("[::1]:7400", Address("::1", 7400)),
        ("host.example:0", Address("host.example", 0)),
        ("host", None), (":80", None), ("host:", None), ("host:x", None), ("host:-1", None),
        ("host:70000", None), ("host:٣", None),
    ],
)  # fmt: skip
def test_address(text: str, found: Any) -> None:
    if found is None:
        with pytest.raises(ValueError, match="HOST:PORT"):
            config.address(text)
    else:
        assert config.address(text) == found
        assert str(found) == text


def test_control_plane(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    config.add_flags(parser, config.CONTROL_PLANE)
    found = config.control_plane_settings(parser.parse_args([]), {"XDG_STATE_HOME": "/s"})
    assert found.store == "sqlite:////s/sidecar/control-plane/store.db"
    assert (found.listen.port, found.http.port) == (7443, 7480)
    assert not found.insecure_unauthenticated
    for given in (["--insecure-unauthenticated"], ["--insecure-unauthenticated", "true"]):
        found = config.control_plane_settings(parser.parse_args(given), {})
        assert found.insecure_unauthenticated
    with pytest.raises(Misuse, match="neither true nor false"):
        config.control_plane_settings(
            parser.parse_args(["--insecure-unauthenticated", "maybe"]), {}
        )


def control_plane(*given: str) -> config.ControlPlaneSettings:
    parser = argparse.ArgumentParser()
    config.add_flags(parser, config.CONTROL_PLANE)
    return config.control_plane_settings(parser.parse_args(given), {"HOME": "/h"})


FLEET = ("--fleet-listen", "0.0.0.0:7444", "--tls-cert", "/etc/hosts", "--tls-key", "/etc/hosts")


def test_a_fleets_listener(tmp_path: Path) -> None:
    keys = str(tmp_path / "later.pem")
    found = control_plane(*FLEET, "--workload-tokens", "tokenreview", "--registration-keys", keys,
                          "--publish-keys", "ns/keys")  # fmt: skip
    assert found.fleet is not None
    assert found.fleet.workload_audience == "sidecar-control-plane"
    assert found.fleet.registration_keys == Path(keys)
    assert found.publish_keys == ("ns", "keys")
    assert control_plane().fleet is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--tls-client-ca", "/etc/hosts"], "--tls-client-ca: it is about --fleet-listen"),
        (["--tls-cert", "/etc/hosts"], "--tls-key: is missing; --tls-cert needs it"),
        (FLEET[:2], "--tls-cert is missing"),
        ([*FLEET, "--insecure-self-asserted-labels"], "nothing would show whose"),
        ([*FLEET, "--workload-tokens", "tokenreview"], "give --registration-keys"),
        (
            [*FLEET, "--workload-tokens", "tokenreview", "--registration-keys", "k",
             "--insecure-self-asserted-labels"],
            "not both",
        ),
        ([*FLEET, "--workload-tokens", "https://c/keys"], "say who issues the tokens"),
        ([*FLEET, "--tls-client-ca", "/etc/hosts"], "say of which SPIFFE trust domain"),
        ([*FLEET, "--workload-trust-domain", "A B"], "is not the name of a trust domain"),
        ([*FLEET, "--workload-tokens", "http://c/keys"], "does not exist"),
        (["--publish-keys", "keys"], "is not NAMESPACE/NAME"),
        (["--kubernetes", "10.0.0.1"], "is not the address of an API server"),
        (["--fleet-listen", "127.0.0.1:7443"], "--fleet-listen: 127.0.0.1:7443 is already"),
    ],
)  # fmt: skip
def test_a_fleets_listener_that_cannot_be(given: list[str], says: str) -> None:
    with pytest.raises(Misuse, match=re.escape(says)):
        control_plane(*given)


HOSTS = Path("/etc/hosts")
PAIR = (HOSTS, HOSTS)
TLS = ("--tls-cert", "/etc/hosts", "--tls-key", "/etc/hosts")
OWN = ("--publisher-tls-cert", "/etc/hosts", "--publisher-tls-key", "/etc/hosts")
WHO = ("--publishers", "/etc/hosts")
CA = ("--publisher-client-ca", "/etc/hosts")
MTLS = ("--publisher-mtls-listen", "0.0.0.0:7445")
FLEET_OF_ALL = (*FLEET, "--workload-tokens", "tokenreview", "--registration-keys", "k")
BEYOND = ("--listen", "0.0.0.0:7443")


@pytest.mark.parametrize(
    ("given", "tls"),
    [
        ((), None),
        (WHO, None),
        (OWN, PAIR),
        (TLS, PAIR),
        ((*WHO, *OWN, *BEYOND), PAIR),
        # On loopback the fleet's certificate, which is for another name, is the fleet's alone.
        ((*FLEET_OF_ALL, *WHO), None),
        ((*FLEET_OF_ALL, *WHO, *CA), PAIR),
        ((*FLEET_OF_ALL, *WHO, *BEYOND), PAIR),
        ((*FLEET_OF_ALL, *WHO, *OWN), PAIR),
    ],
)
def test_the_certificate_that_publishers_are_shown(
    given: tuple[str, ...], tls: tuple[Path, Path] | None
) -> None:
    assert control_plane(*given).publishers.tls == tls


def test_publishers() -> None:
    assert control_plane().publishers == config.PublisherSettings()
    found = control_plane(*WHO, *OWN, *CA, *MTLS).publishers
    assert found == config.PublisherSettings(HOSTS, PAIR, HOSTS, Address("0.0.0.0", 7445))
    assert control_plane("--api", "[::1]:7446").publishers.api == Address("::1", 7446)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--publishers", "/nowhere"], "/nowhere does not exist"),
        (OWN[:2], "--publisher-tls-key: is missing; --publisher-tls-cert needs it"),
        (OWN[2:], "--publisher-tls-cert: is missing"),
        (TLS[2:], "--tls-cert: is missing; --tls-key needs it"),
        ([*CA, *OWN], "--publisher-client-ca: --publishers is missing"),
        ([*CA, *WHO], "--publisher-client-ca: --publisher-tls-cert is missing"),
        ([*WHO, *OWN, *MTLS], "--publisher-mtls-listen: --publisher-client-ca is missing"),
        (["--require-approval", "*"], "--require-approval: --publishers is missing"),
        (
            [*WHO, *OWN, *CA, "--publisher-mtls-listen", "127.0.0.1:7443"],
            "--publisher-mtls-listen: 127.0.0.1:7443 is already --listen's",
        ),
        (["--api", "127.0.0.1:7480"], "is already --"),
        (["--api", "7446"], "--api"),
    ],
)
def test_publishers_that_cannot_be(given: list[str], says: str) -> None:
    with pytest.raises(Misuse, match=re.escape(says)):
        control_plane(*given)


def server(*given: str, **environ: str) -> Server:
    parser = argparse.ArgumentParser()
    config.add_server_flags(parser)
    return config.server(parser.parse_args(given), 5.0, environ)


def test_the_control_plane_that_a_command_talks_to() -> None:
    assert server() == Server("127.0.0.1:7443", timeout=5.0)
    assert server(SIDECAR_SERVER="[::1]:1").address == "[::1]:1"
    assert server("--server", "a:2", SIDECAR_SERVER="[::1]:1").address == "a:2"
    whole = Server("control.example:1", HOSTS, HOSTS, HOSTS, HOSTS, 5.0)
    named = {"server": "control.example:1", "server-ca": "/etc/hosts", "server-cert": "/etc/hosts",
             "server-token-file": "/etc/hosts", "server-key": "/etc/hosts"}  # fmt: skip
    assert server(*(f"--{key}={value}" for key, value in named.items())) == whole
    variables = {f"SIDECAR_{key.upper().replace('-', '_')}": named[key] for key in named}
    assert server(**variables) == whole
    assert server("--server-token-file", "/etc/hosts").token_file == HOSTS, "this machine"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"SIDECAR_SERVER": "nowhere"}, "SIDECAR_SERVER: 'nowhere' is not HOST:PORT"),
        ({"SIDECAR_SERVER_CA": "/nowhere"}, "SIDECAR_SERVER_CA: /nowhere does not exist"),
        (
            {"SIDECAR_SERVER": "c:1", "SIDECAR_SERVER_TOKEN_FILE": "/etc/hosts"},
            "without TLS anybody on the way to c:1 could take the token; give --server-ca",
        ),
        ({"SIDECAR_SERVER_CERT": "/etc/hosts"}, "one is of no use without the other"),
        (
            {"SIDECAR_SERVER_CERT": "/etc/hosts", "SIDECAR_SERVER_KEY": "/etc/hosts"},
            "it is shown with TLS only",
        ),
    ],
)
def test_credentials_that_cannot_be_shown(given: dict[str, str], says: str) -> None:
    with pytest.raises(Misuse, match=re.escape(says)):
        server(**given)


def inject(*given: str) -> config.InjectSettings:
    parser = argparse.ArgumentParser()
    config.add_flags(parser, config.INJECT)
    return config.inject_settings(parser.parse_args(given), {})


NEEDED = (
    "--image", "i:1", "--control-plane", "c:7444", "--control-plane-ca", "ca.pem",
    "--trust", "trust.pem", "--secret", "ns/keys",
)  # fmt: skip


def test_the_webhook() -> None:
    found = inject(*NEEDED, "--service", "inject.ns.svc", "--webhook-configuration", "w",
                   "--sidecar-setting", "decision-log=off", "--sidecar-setting", "workers=2")  # fmt: skip
    assert (found.mode, found.native, found.secret) == ("port", "auto", ("ns", "keys"))
    assert found.sidecar_settings == {"SIDECAR_DECISION_LOG": "off", "SIDECAR_WORKERS": "2"}
    assert not found.insecure_allow_uninjected
    assert found.sidecar_resources == Resources()


def test_the_webhooks_defaults_for_sidecars(tmp_path: Path) -> None:
    found = inject(*NEEDED, "--service", "inject.ns.svc", "--sidecar-resource", "cpu-limit=1.5",
                   "--sidecar-resource", "memory-limit=")  # fmt: skip
    assert found.sidecar_resources == Resources("20m", "1.5", "96Mi", "")
    file = tmp_path / "settings.yaml"
    file.write_text("sidecar-resource: {cpu-request: 1, memory-request: ''}")
    found = inject(*NEEDED, "--service", "inject.ns.svc", "--config", str(file))
    assert found.sidecar_resources == Resources("1", "", "", "192Mi")


def test_the_webhook_says_where_to_ask_whoever_made_its_certificate() -> None:
    found = inject(*NEEDED, "--tls-cert", "/etc/hosts", "--tls-key", "/etc/hosts",
                   "--webhook-configuration", "w")  # fmt: skip
    assert (found.service, found.webhook_configuration) == ("", "w")
    assert found.tls_cert == found.tls_key == Path("/etc/hosts")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "--image: it is missing"),
        (NEEDED, "--service, --tls-cert: give the host"),
        (
            [*NEEDED, "--service", "s.ns.svc", "--tls-cert", "/etc/hosts", "--tls-key", "/etc/hosts"],
            "not both",
        ),
        ([*NEEDED, "--tls-cert", "/etc/hosts"], "one is of no use without the other"),
        ([*NEEDED, "--service", "s.ns.svc", "--mode", "proxy"], "is not one of port, redirect"),
        ([*NEEDED, "--service", "s.ns.svc", "--image", ""],
         "--image: '' is not an image, such as registry.example/sidecar:0.1.0"),
        ([*NEEDED, "--service", "s.ns.svc", "--image", " i:1"], "' i:1' is not an image"),
        *(
            ([*NEEDED, "--service", host], f"--service: {host!r} is not NAME.NAMESPACE.svc, such")
            for host in ("", "s", "s.ns", "s.ns.svc.cluster.local", "https://s.ns.svc", "S.ns.svc",
                         "s..svc", "s.ns.svc:443", "s.ns.svc\n")
        ),
        ([*NEEDED, "--service", "s.ns.svc", "--sidecar-setting", "listen=0.0.0.0:1"], "webhook itself"),
        ([*NEEDED, "--service", "s.ns.svc", "--sidecar-setting", "LOUD"], "is not NAME=VALUE"),
        ([*NEEDED, "--service", "s.ns.svc", "--sidecar-setting", "trusted-proxi=10.0.0.0/8"],
         "trusted-proxi is no setting of `sidecar run`"),
        ([*NEEDED, "--service", "s.ns.svc", "--sidecar-setting", "workers=lots"], "workers: 'lots'"),
        ([*NEEDED, "--service", "s.ns.svc", "--sidecar-setting", "trusted-proxy=10.0.0.0/8,x"], "'x'"),
        ([*NEEDED, "--service", "s.ns.svc", "--sidecar-resource", "cpu-limit"], "is not NAME=QUANTITY"),
        ([*NEEDED, "--service", "s.ns.svc", "--sidecar-resource", "cpu=1"],
         "'cpu=1' is not NAME=QUANTITY, with a name of cpu-request, cpu-limit"),
        ([*NEEDED, "--service", "s.ns.svc", "--sidecar-resource", "cpu-limit=much"],
         "cpu-limit: 'much' is not a quantity, such as 100m"),
    ],
)  # fmt: skip
def test_a_webhook_that_cannot_be(given: list[str], says: str) -> None:
    with pytest.raises(Misuse, match=re.escape(says)):
        inject(*given)


PEM = "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"


def test_a_sidecar_that_shows_whose_it_is() -> None:
    found = settings(
        ["--upstream", "http://h:1", "--control-plane", "c:1", "--trust", PEM,
         "--control-plane-ca", PEM, "--control-plane-token", "/etc/hosts"],
    )  # fmt: skip
    assert (found.trust, found.control_plane_ca) == (PEM, PEM)
    assert found.control_plane_token == Path("/etc/hosts")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--control-plane-ca", PEM, "--policies", "/"], "it is about --control-plane"),
        (
            ["--control-plane", "c:1", "--control-plane-token", "/etc/hosts"],
            "--control-plane-token: without TLS anybody on the way could take it",
        ),
        (
            ["--control-plane", "c:1", "--control-plane-ca", PEM, "--control-plane-cert",
             "/etc/hosts"],
            "one is of no use without the other",
        ),
        (["--control-plane", "c:1", "--control-plane-ca", "/no/such"], "does not exist"),
    ],
)  # fmt: skip
def test_what_a_sidecar_could_not_show(given: list[str], says: str) -> None:
    with pytest.raises(Misuse, match=re.escape(says)):
        settings(["--upstream", "http://h:1", *given])


@pytest.mark.parametrize(
    ("environ", "home"),
    [
        ({"XDG_STATE_HOME": "/x"}, "/x"),
        ({"HOME": "/home/a"}, "/home/a/.local/state"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state"),
        ({}, "/var/lib/.local/state"),
    ],
)
def test_state_home(environ: dict[str, str], home: str) -> None:
    assert config.state_home(environ) == Path(home)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("label: " + "[" * 100_000, ":1:71: nested more than 64 deep"),
        ("a: &a [x]\nb: &b [*a, *a]\nlabel: [*b, *b]\n", "label has a value of the wrong shape"),
        ("listen: 2026-13-45\n", "is not YAML"),
        ("listen: [\n", "is not YAML"),
    ],
)
def test_a_settings_file_that_makes_no_sense(
    base: list[str], tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(Misuse, match=says):
        settings([*base, "--config", str(file)])


@pytest.mark.parametrize("upstream", ["http://127.0.0.1:80", "http://[::1]:80", "http://A_b.c"])
def test_upstreams(upstream: str, tmp_path: Path) -> None:
    assert settings(["--upstream", upstream, "--policies", str(tmp_path)]).upstream == upstream
