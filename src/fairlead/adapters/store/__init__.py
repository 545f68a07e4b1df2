"""Stores: the object store in a directory, and the catalog and artifacts kept in any object store."""
