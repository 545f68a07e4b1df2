"""A gateway in a process of its own: `python gateway_main.py HOME PORT LIFE_FD`."""

import asyncio
import sys
from pathlib import Path

from fairlead.adapters.envoy import EnvoyPlaces, EnvoyProcess, envoy_binary
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.adapters.store.directory import DirectoryObjectStore
from fairlead.domain.layout import Home
from fairlead.gateway.run import run_gateway
from fairlead.gateway.settings import GatewaySettings
from fairlead.kits.clock import SystemClock


def main() -> int:
    home = Home(Path(sys.argv[1]), Path(sys.argv[1]) / "s")
    clock = SystemClock()
    places = EnvoyPlaces(envoy_binary(), home.envoy, home.envoy_admin_socket, home.logs)
    catalogs = StoredCatalogs(DirectoryObjectStore(home.store), clock)
    settings = GatewaySettings(port=int(sys.argv[2]))
    envoy = EnvoyProcess(places, 1, clock)
    return asyncio.run(run_gateway(settings, home, catalogs, envoy, clock, int(sys.argv[3])))


if __name__ == "__main__":
    sys.exit(main())
