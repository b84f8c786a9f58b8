"""Check the rules of docker-compose.yml, without a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from chaos.compose import edges, override
from chaos.history.records import ArenaName
from chaos.scenario.faults import Topology
from chaos.scenario.fit import Unfit, require_fit
from chaos.scenario.scenario import Scenario, find, names
from chaos.tasks.external import SINK_URL
from holdfast.api.auth import require_nonempty_keys, require_safe_bind
from holdfast.runtime.health import require_safe_health
from holdfast.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
FILE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
DOCKERFILE = (ROOT / "system" / "Dockerfile").read_text()
OURS = ("holdfast:", "${CHAOS_IMAGE")
ONE_SHOT = {"migrate", "chaos-migrate"}
PROFILES = {
    None: {"postgres", "redis", "migrate", "api", "scheduler", "worker"},
    "observe": {"jaeger", "prometheus", "grafana"},
    "load": {"locust"},
    "chaos": {
        *(
            "toxiproxy",
            "socket-stats",
            "sink",
            "collector",
            "chaos-postgres",
            "chaos-redis",
            "chaos-migrate",
        ),
        *("api-1", "scheduler-1", "scheduler-2", "worker-1", "worker-2", "worker-3"),
    },
}
every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def variables(service: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = service.get("environment", {})
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    else:
        yield str(value)


def test_every_service_has_the_expected_profile() -> None:
    found: dict[str | None, set[str]] = {}
    for name, service in SERVICES.items():
        (profile,) = service.get("profiles", [None])
        found.setdefault(profile, set()).add(name)
    assert found == PROFILES


@every_service
def test_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    if image.startswith(OURS):
        assert SERVICES[name]["build"]["dockerfile"] == "system/Dockerfile"
    assert re.search(r":v?\d+\.\d+\.?\d*[\w.-]*}?$", image), image
    assert "latest" not in image


def test_base_images_are_pinned() -> None:
    bases = set(re.findall(r"^FROM (\S+:\S+)", DOCKERFILE, re.MULTILINE))
    assert bases
    for base in bases:
        assert re.search(r":\d+\.\d+\.\d+-\w+", base), base


@every_service
def test_health_is_checked(name: str) -> None:
    """Our image has a health check, other services define one; one-shot jobs need none."""
    check = SERVICES[name].get("healthcheck")
    if name in ONE_SHOT:
        assert check == {"disable": True}
        assert SERVICES[name]["restart"] == "no"
    elif check is None:
        assert SERVICES[name]["image"].startswith(OURS)
        assert "HEALTHCHECK" in DOCKERFILE
    else:
        assert set(check) == {
            *("test", "interval", "start_interval", "start_period", "timeout", "retries")
        }


@every_service
def test_services_are_limited_unprivileged_and_read_only(name: str) -> None:
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} == set(limits)
    assert float(limits["cpus"]) <= 1, "a machine with one core refuses more"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    user = service.get("user")
    if user is None:
        assert service["image"].startswith(OURS)
        assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    else:
        assert user.partition(":")[0] not in {"0", "root"}


@every_service
def test_every_service_has_a_restart_policy(name: str) -> None:
    not_restarted = name in ONE_SHOT or SERVICES[name].get("profiles") == ["chaos"]
    assert SERVICES[name]["restart"] == ("no" if not_restarted else "unless-stopped")


@every_service
def test_ports_are_published_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@every_service
def test_dependencies_wait_for_a_condition(name: str) -> None:
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        shot = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert wanted == {"condition": shot}, other
        profile = SERVICES[other].get("profiles")
        assert profile is None or profile == SERVICES[name]["profiles"]


def test_one_shot_jobs_have_dependants() -> None:
    """Without a dependant, `up --wait` reports their exit as a failure."""
    for job in ONE_SHOT:
        assert any(job in service.get("depends_on", {}) for service in SERVICES.values())


def test_settings_exist() -> None:
    known = {f"HOLDFAST_{field.upper()}" for field in Settings.model_fields}
    known |= {"HOLDFAST_API_KEY"}  # Locust's
    used = {name for service in SERVICES.values() for name in variables(service)}
    used |= set(re.findall(r"\b(HOLDFAST_[A-Z_]+)=", DOCKERFILE))
    used = {name for name in used if name.startswith("HOLDFAST_")}
    assert used <= known
    assert "HOLDFAST_DATABASE_URL" in used


ROLES = [
    name
    for name, service in SERVICES.items()
    if service.get("command", [""])[0] in {"api", "scheduler", "worker"}
]


@pytest.mark.parametrize("name", ROLES)
def test_roles_accept_their_own_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role that refuses to listen beyond loopback exits, and its container never is healthy."""
    image = dict(re.findall(r"\b(HOLDFAST_[A-Z_]+)=(\S+)", DOCKERFILE))
    for variable, text in (image | variables(SERVICES[name])).items():
        defaults = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)
        monkeypatch.setenv(variable, re.sub(r"\$\{[A-Z_]+:\?[^}]*\}", "secret", defaults))
    settings = Settings()
    assert settings.api_host == settings.health_host == "0.0.0.0"
    if SERVICES[name]["command"][0] == "api":
        require_safe_bind(settings)
        require_nonempty_keys(settings)
    else:
        require_safe_health(settings)


def test_roles_alone_reach_the_servers_and_may_open_many_files() -> None:
    for name, service in SERVICES.items():
        if service.get("profiles") == ["chaos"]:
            continue
        role = name in {"migrate", "api", "scheduler", "worker"}
        server = name in {"postgres", "redis"}
        networks = ["default", "servers"] if role else ["servers"] if server else ["default"]
        assert service.get("networks", ["default"]) == networks, name
        if role:
            assert service["ulimits"]["nofile"] >= 65536


def test_api_is_known_by_the_name_that_locust_uses() -> None:
    command = SERVICES["locust"]["command"]
    host = urlsplit(command[command.index("--host") + 1]).hostname
    hosts = variables(SERVICES["api"])["HOLDFAST_API_HOSTS"]
    assert hosts == f'${{HOLDFAST_API_HOSTS:-["{host}"]}}'


def test_worker_concurrency_has_the_default_of_the_code() -> None:
    default = Settings.model_fields["worker_concurrency"].default
    slots = variables(SERVICES["worker"])["HOLDFAST_WORKER_CONCURRENCY"]
    assert slots == f"${{HOLDFAST_WORKER_CONCURRENCY:-{default}}}"


def test_variables_are_documented_and_required_ones_marked() -> None:
    example = (ROOT / ".env.example").read_text()
    documented = dict(re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", example, re.MULTILINE))
    used = re.findall(r"\$\{([A-Z][A-Z0-9_]+)(:-|:\?)?([^}]*)\}", TEXT)
    assert {name for name, *_ in used} == set(documented)
    for name, how, rest in used:
        if how == ":?":
            assert f"{name}=\n" in example, "a required variable is listed, and empty"
            assert rest == f"set {name} in .env, see .env.example"
        else:
            assert how == ":-", name
            assert documented[name] == rest or name in {
                "HOLDFAST_API_KEYS",
                "HOLDFAST_HTTP_ALLOWED_HOSTS",
            }


def test_every_secret_comes_from_a_variable() -> None:
    for text in _texts(SERVICES):
        for value in re.findall(r"://\w+:([^@]+)@", text):
            assert value.startswith("${"), text
    for service in SERVICES.values():
        for name, value in variables(service).items():
            if "PASSWORD" in name:
                assert value.startswith("${"), name


def test_settings_of_the_servers() -> None:
    for name in ("redis", "chaos-redis"):
        words = " ".join(SERVICES[name]["command"])
        assert "--appendonly yes" in words
        assert "--maxmemory-policy noeviction" in words
    assert SERVICES["postgres"]["image"].startswith("postgres:18")
    for name in ("api", "scheduler"):
        assert SERVICES[name]["scale"] == 2


def test_worker_stop_grace_exceeds_that_of_handlers() -> None:
    grace = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["shutdown_grace_seconds"].default


# -------------------------------------------------------------------------- the profile chaos


def test_every_edge_has_a_proxy() -> None:
    written = json.loads((ROOT / "chaos" / "compose" / "proxies.json").read_text())
    assert written == edges.configuration(Topology().edges)
    ports = [edges.port(edge) for edge in Topology(apis=9, schedulers=9, workers=9).edges]
    assert len(set(ports)) == len(ports)


PLAIN = Scenario.model_validate(
    {
        "id": "plain",
        "hypothesis": "A scenario without settings of its own.",
        "workload": {"tasks": 1, "seconds": 1},
    }
)


def test_roles_connect_through_their_own_proxies() -> None:
    for name in Topology().processes:
        found = variables(SERVICES[name])
        for edge in (edge for edge in Topology().edges if edge.startswith(f"{name}->")):
            variable = {
                "postgres": "HOLDFAST_DATABASE_URL",
                "redis": "HOLDFAST_REDIS_URL",
                "sink": SINK_URL,
                "collector": "HOLDFAST_OTLP_ENDPOINT",
            }[edge.partition("->")[2]]
            assert f"toxiproxy:{edges.port(edge)}" in found[variable], edge
        own = override.environment(name, PLAIN)
        assert ("HOLDFAST_QUEUES" in own) == name.startswith("worker-")
        # These depend on the scenario.
        for depends in ("HOLDFAST_QUEUES", "HOLDFAST_KNOWN_QUEUES", "HOLDFAST_API_KEYS"):
            own.pop(depends, None)
        for variable, value in own.items():
            plain = re.sub(r":\?[^}]*", "", found[variable])
            assert plain == value, variable
    door = f":{edges.port('client->api-1')}"
    assert any(port.endswith(door) for port in SERVICES["toxiproxy"]["ports"])


def test_upstreams_are_services_of_the_profile() -> None:
    for proxy in edges.configuration(Topology().edges):
        host = proxy["upstream"].partition(":")[0]
        assert SERVICES[host]["profiles"] == ["chaos"]
    assert set(override.HELPERS) <= PROFILES["chaos"]


def test_override_adapts_the_file_to_a_scenario() -> None:
    scenario = Scenario.model_validate(
        find("two_versions").document
        | {"topology": {"apis": 2, "workers": 4, "schedulers": 1, "settings": {"lease_seconds": 9}}}
    )
    doors = {"client->api-1": 1, "client->api-2": 4711}
    made = override.override(scenario, doors)["services"]
    assert set(made) == {*scenario.topology.processes, "toxiproxy"}
    assert made["toxiproxy"] == {"ports": ["127.0.0.1:4711:20120"]}
    assert made["api-2"]["image"] == SERVICES["api-1"]["image"]
    assert made["worker-4"]["environment"]["HOLDFAST_LABEL"] == "worker-4"
    assert made["worker-4"]["environment"]["HOLDFAST_REDIS_URL"] == "redis://toxiproxy:20342/0"
    assert "image" not in made["worker-1"]
    for name in scenario.topology.processes:
        assert made[name]["environment"]["HOLDFAST_LEASE_SECONDS"] == "9"


def test_workers_with_fewer_handlers() -> None:
    scenario = find("two_versions")
    made = override.override(scenario, {"client->api-1": 1})["services"]
    for name, kinds in scenario.topology.knows.items():
        apps = [word for word in made[name]["command"] if word.startswith("chaos.tasks.")]
        assert apps == [f"chaos.tasks.{kind}" for kind in kinds]


UNFIT = {
    "clock_skew": "clock of its own",
    "strict_postgres": "configured by docker-compose.yml",
    "late_servers": "configured by docker-compose.yml",
    "behind_pgbouncer": "configured by docker-compose.yml",
    "shared_servers": "configured by docker-compose.yml",
    "redis_demoted": "keeps its address",
    "connections_forgotten": "cannot tell new connections from old ones",
}


@pytest.mark.parametrize("name", names())
def test_containers_run_all_scenarios_but_those_that_need_what_they_lack(name: str) -> None:
    if name not in UNFIT:
        require_fit(find(name), ArenaName.COMPOSE)
        return
    with pytest.raises(Unfit, match=UNFIT[name]):
        require_fit(find(name), ArenaName.COMPOSE)


# -------------------------------------------------------------------------- if Docker is available


def _compose(*argv: str, **given: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if "PASSWORD" not in name}
    command = ["docker", "compose", *argv]
    return subprocess.run(
        command, cwd=ROOT, env=bare | given, capture_output=True, text=True, check=False
    )


if shutil.which("docker") and _compose("version").returncode == 0:

    def test_compose_accepts_the_file() -> None:
        argv = ["--profile", "*", "--env-file", os.devnull, "config", "--quiet"]
        done = _compose(*argv, POSTGRES_PASSWORD="secret", GRAFANA_PASSWORD="secret")
        assert done.returncode == 0, done.stderr
        refused = _compose(*argv)
        assert refused.returncode != 0
        assert "in .env, see .env.example" in refused.stderr
