"""The model server: what a worker process is made of.

`dataplane` says once what the server can do (find, admit, run, count); `http` is one way in. A worker
(`worker.run_worker`) serves one revision on a unix socket; `standalone.run_standalone` serves several on
TCP without a gateway. Both are the same code behind the same routes.
"""
