"""The agent of a node: makes what runs here what the catalog asks for.

It pulls and verifies artifacts, starts one worker process for each replica, proves it with its golden
examples, says in the node's status what is ready, and retires what nobody is routed to any more.
What to do next is decided by a pure function over a snapshot (`plan`); everything else carries it
out, one step at a time. The agent may be killed at any moment: workers serve on, and the next agent
adopts them by their records.
"""
