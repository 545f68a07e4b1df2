"""Where gateway and agent meet on the agent's socket."""

# POST: {"endpoints": [{"service", "line", "revision", "endpoint", "waiting"}]}, answered 202. So many requests
# wait for each; 0 when none does any more.
WAKE_PATH = "/internal/wake"
