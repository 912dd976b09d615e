"""The profile `emulators` of the Compose file offers what tests/emulators has."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SERVICES = {
    name: service
    for name, service in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].items()
    if service.get("profiles") == ["emulators"]
}


def test_each_emulator_is_a_service() -> None:
    """Each program runs from the image of user code, with the checkout's own file, on the port that is asked."""
    programs = {service["command"][1] for service in SERVICES.values()}
    assert programs == {
        "shopify.py", "netsuite.py", "hostile_rest.py", "crm.py", "airbyte.py", "fivetran.py"
    }  # fmt: skip
    for name, service in SERVICES.items():
        assert (ROOT / "tests" / "emulators" / service["command"][1]).exists(), name
        assert service["image"].startswith("ferry-user-code:")
        assert service["volumes"] == ["./tests/emulators:/opt/ferry/emulators:ro"]
        port = service["command"][service["command"].index("--port") + 1]
        assert f":{port}/_control" in service["healthcheck"]["test"][-1]


def test_emulators_are_as_closed_as_every_service() -> None:
    """No capability to spare, a memory limit, rotated logs, no published port; runs reach them and nobody else."""
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["mem_limit"]
        assert service["logging"]["options"]["max-file"] == "3"
        assert "ports" not in service
        assert service["networks"] == ["runs"]


def test_whoever_stops_or_looks_sees_the_emulators() -> None:
    """`make down`, `make status` and `make logs` know the profile."""
    for path in ("deploy/stop.sh", "deploy/status.sh", "deploy/platform.mk"):
        text = (ROOT / path).read_text()
        assert text.count("--profile demo") == text.count("--profile demo --profile emulators"), path
