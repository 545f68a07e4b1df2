"""gRPC without a gateway: grpcio's server before the HTTP app, which answers every call.

Imported only where a gRPC port is asked for: the library costs a tenth of a second and twenty megabytes.
"""
