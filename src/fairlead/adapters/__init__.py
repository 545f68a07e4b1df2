"""The outside world behind our ports. Only `fairlead.wiring` imports from here."""
