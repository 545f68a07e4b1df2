"""The peers, each written the way its own documentation recommends."""
