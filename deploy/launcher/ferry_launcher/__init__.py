"""How Ferry's runs become containers: named in deploy/dagster.yaml, loaded by the daemon and the webserver."""

from ferry_launcher.launcher import FerryRunLauncher

__all__ = ["FerryRunLauncher"]
