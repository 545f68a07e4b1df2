"""A code-only model: the LSH fingerprint of a text, for finding near-duplicates."""
