"""What an operator does: publish artifacts, plan and apply releases, move traffic, hand out keys.

Each module decides over values and acts through the ports; no module here knows a directory from a bucket.
"""
