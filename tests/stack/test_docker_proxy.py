"""What the way to Docker lets through: a run like the launcher makes it, and nothing else."""

import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stack import Stack, command

API = "/v1.41"
MIB = 1024**2
Body = dict[str, Any]


class Proxy:
    """The docker-proxy of the stack, asked from outside like a client on its network would."""

    def __init__(self, stack: Stack) -> None:
        networks = stack.service("docker-proxy")["NetworkSettings"]["Networks"]
        self.stack = stack
        self._address = networks[f"{stack.project}_control"]["IPAddress"]
        self.made: list[str] = []

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any] | str]:
        """Status and answer; a body that is no text yet is sent as JSON."""
        connection = http.client.HTTPConnection(self._address, 2375, timeout=20)
        data = body if isinstance(body, str | bytes | None) else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        said = answer.read().decode()
        connection.close()
        try:
            parsed = json.loads(said)
        except ValueError:
            parsed = said
        if answer.status == 201 and isinstance(parsed, dict):
            self.made.append(parsed["Id"])
        return answer.status, parsed

    def run_body(self) -> Body:
        """What the launcher sends for a run, as docker-py words it."""
        return {
            "Hostname": None, "User": None, "Tty": False, "AttachStdin": False, "Entrypoint": None,
            "Image": f"ferry-user-code:{self.stack.tag}",
            "Cmd": ["python", "-c", "print('{\"a\": \\\"b\\\"}')"],
            "Env": ["A=1", 'B={"x": [1, "y"]}'],
            "Labels": {"dagster/run_id": "x", "ferry/project": self.stack.project},
            "Volumes": {"/opt/dagster/home/storage": {}},
            "NetworkingConfig": {f"{self.stack.project}_runs": None},
            "HostConfig": {
                "NetworkMode": f"{self.stack.project}_runs",
                "Memory": 256 * MIB, "MemorySwap": 256 * MIB, "PidsLimit": 64, "CpuShares": 512, "OomScoreAdj": 500,
                "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"], "Init": True,
                "Binds": [f"{self.stack.project}_dagster_storage:/opt/dagster/home/storage"],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}},
            },
        }  # fmt: skip


@pytest.fixture
def proxy(stack: Stack) -> Iterator[Proxy]:
    """The proxy; containers that a test made through it are removed."""
    asked = Proxy(stack)
    yield asked
    for container in asked.made:
        command("docker", "rm", "-f", container)


def test_a_run_is_created_inspected_started_and_stopped(proxy: Proxy) -> None:
    """The five requests of the launcher, on a container that it made."""
    assert proxy.ask("GET", "/version")[0] == 200
    status, made = proxy.ask("POST", f"{API}/containers/create", proxy.run_body())
    assert status == 201, made
    container = proxy.made[0]
    assert proxy.ask("POST", f"{API}/containers/{container}/start")[0] == 204
    status, said = proxy.ask("GET", f"{API}/containers/{container}/json")
    assert status == 200
    assert isinstance(said, dict)
    assert said["HostConfig"]["Memory"] == 256 * MIB
    assert proxy.ask("POST", f"{API}/containers/{container}/stop?t=1")[0] in (204, 304)


def host(**settings: Any) -> Callable[[Body], Any]:
    """A change of HostConfig."""
    return lambda body: body["HostConfig"].update(settings)


def top(**settings: Any) -> Callable[[Body], Any]:
    """A change beside HostConfig."""
    return lambda body: body.update(settings)


def without(key: str) -> Callable[[Body], Any]:
    """A key of HostConfig left out."""
    return lambda body: body["HostConfig"].pop(key)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (host(Privileged=True), "Privileged"),
        (host(privileged=True), "privileged"),
        (host(Binds=["/:/host"]), "Binds"),
        (host(Binds=["/var/run/docker.sock:/var/run/docker.sock"]), "Binds"),
        (host(Binds=["another_volume:/x"]), "Binds"),
        (host(Mounts=[{"Type": "bind", "Source": "/", "Target": "/host"}]), "Mounts"),
        (host(VolumesFrom=["postgres"]), "VolumesFrom"),
        (host(Devices=[{"PathOnHost": "/dev/sda"}]), "Devices"),
        (host(DeviceRequests=[{"Count": -1}]), "DeviceRequests"),
        (host(CapAdd=["SYS_ADMIN"]), "CapAdd"),
        (host(CapDrop=[]), "CapDrop"),
        (host(SecurityOpt=["seccomp=unconfined"]), "SecurityOpt"),
        (host(SecurityOpt=["no-new-privileges:true", "apparmor=unconfined"]), "SecurityOpt"),
        (host(PidMode="host"), "PidMode"),
        (host(IpcMode="host"), "IpcMode"),
        (host(UsernsMode="host"), "UsernsMode"),
        (host(CgroupParent="/"), "CgroupParent"),
        (host(MaskedPaths=[]), "MaskedPaths"),
        (host(Runtime="other"), "Runtime"),
        (host(RestartPolicy={"Name": "always"}), "RestartPolicy"),
        (host(AutoRemove=True), "AutoRemove"),
        (host(NetworkMode="host"), "NetworkMode"),
        (host(NetworkMode="container:postgres"), "NetworkMode"),
        (host(NetworkMode="bridge"), "NetworkMode"),
        (host(Memory=0), "Memory"),
        (host(Memory=1 << 40, MemorySwap=1 << 40), "Memory"),
        (host(Memory=256 * MIB, MemorySwap=512 * MIB), "MemorySwap"),
        (host(MemorySwap=-1), "MemorySwap"),
        (host(Memory=256.5 * MIB), "whole numbers"),
        (host(PidsLimit=-1), "PidsLimit"),
        (host(OomScoreAdj=-1000), "OomScoreAdj"),
        (host(LogConfig={"Type": "syslog", "Config": {"syslog-address": "tcp://example.com"}}), "LogConfig"),
        (host(Sysctls={"kernel.x": "1"}), "Sysctls"),
        (host(Tmpfs={"/x": ""}), "Tmpfs"),
        (without("Memory"), "Memory"),
        (without("NetworkMode"), "NetworkMode"),
        (without("CapDrop"), "CapDrop"),
        (without("SecurityOpt"), "SecurityOpt"),
        (without("PidsLimit"), "PidsLimit"),
        (top(HostConfig=None), "HostConfig"),
        (top(Image="debian:trixie-slim"), "Image"),
        (top(Image="evil.example.com/ferry-user-code:1"), "Image"),
        (top(Image="ferry-user-code@sha256:" + "0" * 64), "Image"),
        (top(User="root"), "User"),
        (top(Entrypoint=["sh"]), "Entrypoint"),
        (top(Hostname="postgres"), "Hostname"),
        (top(Volumes={"/etc": {}}), "Volumes"),
        (top(NetworkingConfig={"EndpointsConfig": {"x": {"Aliases": ["postgres"]}}}), "NetworkingConfig"),
        (top(Healthcheck={"Test": ["CMD", "x"]}), "Healthcheck"),
        (top(Anything="else"), "Anything"),
    ],
)
def test_a_container_that_is_not_a_run_is_refused(
    proxy: Proxy, change: Callable[[Body], Any], named: str
) -> None:
    """Each change of a request that would pass is refused, with the key that is the reason, and makes nothing."""
    body = proxy.run_body()
    change(body)
    status, said = proxy.ask("POST", f"{API}/containers/create", body)
    assert status == 403, said
    assert isinstance(said, dict)
    assert named in said["message"]
    assert not proxy.made


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (
            lambda text: text.replace('"HostConfig":', '"HostConfig": {"Privileged": true}, "HostConfig":'),
            "twice",
        ),
        (
            lambda text: text.replace('"HostConfig":', '"hostconfig": {"Privileged": true}, "HostConfig":'),
            "hostconfig",
        ),
        (lambda text: text.replace('"Init"', '"Privi\\u006ceged": true, "Init"'), "escape"),
        (lambda text: text.replace('"Init": true', '"Init": true, "Privileged": 1e0'), "whole numbers"),
        (lambda text: text + '{"HostConfig": {"Privileged": true}}', "after its end"),
        (lambda text: text[:-1], "JSON"),
        (lambda text: f"[{text}]", "not an object"),
        (lambda text: text.replace('"A=1"', "[" * 50 + "]" * 50), "deep"),
        (lambda text: text.replace('"A=1"', '"' + "x" * 300_000 + '"'), "larger"),
        (lambda text: text[:0], "JSON"),
    ],
)
def test_a_body_that_two_readers_could_read_in_two_ways_is_refused(
    proxy: Proxy, spoil: Callable[[str], str], why: str
) -> None:
    """Docker merges a key that stands twice and ignores case; what is judged must be what Docker reads."""
    status, said = proxy.ask("POST", f"{API}/containers/create", spoil(json.dumps(proxy.run_body())))
    assert status == 403, said
    assert why in str(said)
    assert not proxy.made


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{API}/containers/json"),
        ("GET", f"{API}/info"),
        ("GET", f"{API}/events"),
        ("GET", f"{API}/images/json"),
        ("POST", f"{API}/images/create?fromImage=alpine&tag=latest"),
        ("DELETE", f"{API}/images/debian:trixie-slim"),
        ("POST", f"{API}/images/prune"),
        ("POST", f"{API}/build"),
        ("POST", f"{API}/volumes/create"),
        ("DELETE", f"{API}/volumes/x"),
        ("POST", f"{API}/networks/create"),
        ("POST", f"{API}/swarm/init"),
        ("POST", f"{API}/auth"),
        ("GET", "/v1.41/../v1.41/containers/json"),
        ("GET", "//containers/json"),
        ("GET", "/v1.41/containers%2fjson"),
        ("PUT", f"{API}/containers/{{id}}/archive?path=/"),
        ("GET", f"{API}/containers/{{id}}/archive?path=/etc/shadow"),
        ("POST", f"{API}/containers/{{id}}/exec"),
        ("POST", f"{API}/containers/{{id}}/attach?stdin=1&stream=1"),
        ("POST", f"{API}/containers/{{id}}/update"),
        ("POST", f"{API}/containers/{{id}}/kill"),
        ("POST", f"{API}/containers/{{id}}/rename?name=postgres"),
        ("POST", f"{API}/containers/{{id}}/restart"),
        ("DELETE", f"{API}/containers/{{id}}?force=1"),
        ("GET", f"{API}/containers/{{id}}/logs?stdout=1"),
        ("POST", f"{API}/containers/{{id}}/stop?t=1&signal=KILL"),
        ("POST", "/v1.23/containers/{id}/start"),
        ("POST", "/containers/{id}/start"),
        ("DELETE", f"{API}/containers/{{id}}/json"),
        ("GET", f"{API}/containers/{{short}}/json"),
        ("GET", f"{API}/containers/{{name}}/json"),
        ("POST", f"{API}/containers/{{name}}/stop"),
    ],
)
def test_a_request_that_is_none_of_the_launchers_is_refused(
    stack: Stack, proxy: Proxy, method: str, path: str
) -> None:
    """Exec, images, files, names and old versions of the API: none reaches the engine, even for a known container."""
    postgres = stack.service("postgres")
    target = path.format(id=postgres["Id"], short=postgres["Id"][:12], name=postgres["Name"].lstrip("/"))
    status, said = proxy.ask(method, target)
    assert status == 403, said
    assert "docker-proxy" in str(said)
    assert stack.service("postgres")["State"]["StartedAt"] == postgres["State"]["StartedAt"]


@pytest.mark.parametrize(
    "headers",
    [{"Transfer-Encoding": "chunked"}, {"Connection": "Upgrade", "Upgrade": "tcp"}, {"Content-Length": "5"}],
)
def test_a_request_whose_length_is_in_doubt_is_refused(proxy: Proxy, headers: dict[str, str]) -> None:
    """The body that is judged must be the whole of what the engine will read."""
    text = json.dumps(proxy.run_body())
    if "Transfer-Encoding" in headers:
        text = f"{len(text):x}\r\n{text}\r\n0\r\n\r\n"
    status, said = proxy.ask("POST", f"{API}/containers/create", text, headers)
    assert status in (400, 403), said
    assert not proxy.made


def test_a_start_with_a_body_is_refused(proxy: Proxy) -> None:
    """Engines took a HostConfig here once."""
    proxy.ask("POST", f"{API}/containers/create", proxy.run_body())
    status, _ = proxy.ask("POST", f"{API}/containers/{proxy.made[0]}/start", {"Privileged": True})
    assert status == 403


def test_a_container_with_a_name_of_its_own_is_refused(proxy: Proxy) -> None:
    """On a network of Docker's a name is an address: a container named postgres could be taken for the service."""
    status, _ = proxy.ask("POST", f"{API}/containers/create?name=postgres", proxy.run_body())
    assert status == 403


def test_the_proxy_runs_without_root(stack: Stack) -> None:
    """HAProxy gave up root before it served; the socket's group is all that it kept."""
    processes = command(
        "docker", "top", f"{stack.project}-docker-proxy-1", "-eo", "pid,user,comm"
    ).splitlines()[1:]
    users = {line.split()[1] for line in processes if "haproxy" in line}
    assert users
    assert "root" not in users
