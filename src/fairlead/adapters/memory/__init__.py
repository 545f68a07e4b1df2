"""Every port in memory: the fakes, shipped, for tests and for trying things out."""
