"""The gateway: Envoy in front of the workers, configured from the routing table, and the front desk.

Everything about Envoy's documents is pure and lies in `snapshot`, `routes`, `listener` and `replies`: the
routing table goes in, plain dictionaries come out, and every entry of the route tree is an answer of the
resolver itself (`domain.routing.choose`). Whatever no entry matches goes to the front desk, an ASGI app in
our own process that asks the same resolver and words the refusal. `follow` is the one loop that acts:
it looks at catalog, status and keys, adds clusters, moves routes, drains, drops. Envoy itself lies behind
the port in `ports`.
"""
