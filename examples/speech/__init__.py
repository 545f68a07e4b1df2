"""Text to speech without weights: speakers of espeak-ng, released as two separately scaled endpoints."""
