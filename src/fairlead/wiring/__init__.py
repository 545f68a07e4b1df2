"""Where it all comes together: reads the environment, joins adapters to processes.

The only package that imports `fairlead.adapters`, and the only one that reads the environment.
"""
