"""The command line: parse, call, print. One file per noun; each loads only what its command needs."""
