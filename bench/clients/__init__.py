"""Programs that ask, in environments of their own."""
