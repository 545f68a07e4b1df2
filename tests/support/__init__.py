"""What several suites share: running Fairlead as a user does, and asking it."""
