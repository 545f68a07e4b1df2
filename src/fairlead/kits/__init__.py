"""Small tools that know nothing of models: each could be a library of its own."""
