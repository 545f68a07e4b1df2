"""The longest modules first: whoever begins one of them last makes everybody else wait for it at the end."""

from __future__ import annotations

from pathlib import PurePath

# What a module takes, in seconds, roughly: measured with three at once on two cores. One that has become longer and
# is not named here costs the end of a run some seconds, nothing else.
_LONG = {
    "system/test_up.py": 35,
    "system/test_examples.py": 35,
    "system/test_scale_to_zero.py": 35,
    "contract/test_activator.py": 35,
    "system/test_speech_commands.py": 30,
    "system/test_deleting.py": 25,
    "system/test_revisions.py": 25,
    "system/test_model_server.py": 25,
    "system/test_why.py": 25,
    "contract/test_quotas.py": 20,
    "contract/test_envoy_gateway.py": 20,
    "contract/test_kill_switch.py": 20,
    "agent/test_agent_life.py": 20,
    "agent/test_pool_life.py": 15,
    "agent/test_scaled_life.py": 10,
    "contract/test_envoy_grpc.py": 12,
    "contract/test_certificates.py": 10,
    "wiring/test_doctor.py": 10,
    "examples/test_sentiment.py": 10,
}
_USUAL = {"system": 15, "contract": 6, "agent": 5, "server": 3, "examples": 3, "architecture": 5}


def seconds(module: PurePath) -> int:
    """About how long a module's tests take, all together."""
    folder = module.parent.name
    return _LONG.get(f"{folder}/{module.name}", _USUAL.get(folder, 1))
