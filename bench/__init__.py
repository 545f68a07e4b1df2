"""Fairlead side by side with the servers people use instead: same model, same machine, one run."""
