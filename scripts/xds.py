"""Keep the descriptors of the messages that Envoy is told (`make proto`): what it takes to write them as protobuf.

Reads them out of `xds-protos`, which the gRPC project publishes, in a directory of its own: that package and the
one that carries Envoy's binary both claim the module `envoy`. Only the types below are kept, with all they
refer to and without options (rules of validation, annotations), which Envoy knows itself.
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import google
from google.protobuf import descriptor_pb2, descriptor_pool

ROOT = Path(__file__).parents[1]
VERSION = "1.85.0"
PLACE = ROOT / "build" / "xds-protos"
TARGET = ROOT / "src" / "fairlead" / "adapters" / "envoy" / "xds.binpb"
# Clusters and routes, and every type that one of them wraps; a test writes what the renderers say with them.
TYPES = (
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.route.v3.FilterConfig",
    "envoy.config.route.v3.Route",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.config.route.v3.RouteList",
    "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "envoy.service.discovery.v3.DiscoveryResponse",
    "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
)


def fetch() -> None:
    """The package into `build/`; nothing if it is there."""
    if (PLACE / f"xds_protos-{VERSION}.dist-info").is_dir():
        return
    shutil.rmtree(PLACE, ignore_errors=True)
    uv = shutil.which("uv")
    installer = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    options = ["--quiet", "--no-deps", "--target", str(PLACE)]
    subprocess.run([*installer, "install", *options, f"xds-protos=={VERSION}"], check=True)


def modules() -> None:
    """Register every module of the package that can be: there is no index of which one holds a type."""
    sys.path.insert(0, str(PLACE))
    google.__path__.append(str(PLACE / "google"))  # it claims this module for itself alone
    for root in ("envoy", "xds", "udpa"):
        package = importlib.import_module(root)
        for one in pkgutil.walk_packages(package.__path__, f"{root}."):
            if one.name.endswith("_pb2"):
                importlib.import_module(one.name)


def bare(message: Any) -> None:  # noqa: ANN401 - descriptors of descriptors
    """Take the options away, but for those that say how something is written."""
    for field in message.field:
        packed = field.options.packed if field.options.HasField("packed") else None
        field.ClearField("options")
        if packed is not None:
            field.options.packed = packed
    for one in message.oneof_decl:
        one.ClearField("options")
    for enum in message.enum_type:
        bare_enum(enum)
    for nested in message.nested_type:
        bare(nested)
    entry = message.options.map_entry
    message.ClearField("options")
    if entry:
        message.options.map_entry = True


def bare_enum(enum: Any) -> None:  # noqa: ANN401 - descriptors of descriptors
    """The same for an enumeration."""
    alias = enum.options.allow_alias
    enum.ClearField("options")
    if alias:
        enum.options.allow_alias = True
    for value in enum.value:
        value.ClearField("options")


def closure() -> bytes:
    """The files that hold these types and all they refer to, imports first, as a FileDescriptorSet."""
    pool = descriptor_pool.Default()
    kept = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def keep(file: Any) -> None:  # noqa: ANN401 - a FileDescriptor
        if file.name in seen:
            return
        seen.add(file.name)
        copy = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(copy)
        needed = []
        for one in file.dependencies:
            if not one.name.startswith("validate/") and "/annotations/" not in one.name:
                keep(one)
                needed.append(one.name)
        del copy.dependency[:], copy.public_dependency[:], copy.weak_dependency[:]
        copy.dependency.extend(needed)
        for message in copy.message_type:
            bare(message)
        for enum in copy.enum_type:
            bare_enum(enum)
        for extension in copy.extension:
            sys.exit(f"{file.name} extends {extension.extendee}: only options are expected to")
        copy.ClearField("options")
        copy.ClearField("service")
        kept.file.append(copy)

    for name in TYPES:
        keep(pool.FindMessageTypeByName(name).file)
    return bytes(kept.SerializeToString(deterministic=True))


if __name__ == "__main__":
    fetch()
    modules()
    TARGET.write_bytes(closure())
