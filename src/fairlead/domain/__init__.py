"""What Fairlead talks about: identities, releases, manifests, the catalog, routing.

Pure: the standard library only, no input or output, no clock. Everything here is a value or a
function from values to values, so every rule can be tested without a process or a file.
"""
