"""`fairlead doctor`: what is wrong on this machine and in this home, with the command that mends it.

Every check is a function from what it looks at to its findings, so that a test can plant the fault it looks
for. A check that itself fails is a finding too.
"""
